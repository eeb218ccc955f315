//! Durations and what to print of them.

use std::fmt;
use std::time::Duration;

/// A row of the table: how long each try took.
pub struct Samples {
    title: String,
    who: &'static str,
    millis: Vec<f64>,
}

/// The table's first line.
pub fn header() -> String {
    format!(
        "{:<36}{:<12}{:>5}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "", "n", "min", "median", "p99", "max"
    )
}

impl Samples {
    /// No tries yet of `title`, done by `who`.
    pub fn named(title: &str, who: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            who,
            millis: Vec::new(),
        }
    }

    /// One try more.
    pub fn add(&mut self, sample: Duration) {
        self.millis.push(sample.as_secs_f64() * 1000.0);
        self.millis.sort_by(f64::total_cmp);
    }

    /// The row under another title.
    pub fn called(&self, title: &str) -> String {
        self.row(title)
    }

    /// The row without the minimum, which leaves room for two more columns.
    pub fn short(&self) -> String {
        format!(
            "{:<38}{:<10}{:>6}{:>10.2}{:>10.2}{:>10.2}",
            self.title,
            self.who,
            self.millis.len(),
            self.median(),
            self.quantile(0.99),
            self.quantile(1.0)
        )
    }

    /// In milliseconds.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The nearest rank, so that every number printed was measured.
    fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.millis.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.millis.len().max(1)) - 1;
        self.millis.get(at).copied().unwrap_or(f64::NAN)
    }

    fn row(&self, title: &str) -> String {
        format!(
            "{title:<36}{:<12}{:>5}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
            self.who,
            self.millis.len(),
            self.quantile(0.0),
            self.median(),
            self.quantile(0.99),
            self.quantile(1.0)
        )
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.row(&self.title))
    }
}
