//! Stretches of time, and what is left of them when others are taken away. Pure.

/// Milliseconds since the run began.
pub type Ms = i64;

/// From the first moment, included, to the second, excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its first moment.
    pub from: Ms,
    /// The moment after its last.
    pub to: Ms,
}

impl Span {
    /// Empty where `to` isn't after `from`.
    pub const fn new(from: Ms, to: Ms) -> Span {
        Span { from, to }
    }

    /// So much longer at its end.
    pub const fn and(self, more: Ms) -> Span {
        Span::new(self.from, self.to + more)
    }

    /// How long it is.
    pub const fn length(self) -> Ms {
        self.to - self.from
    }
}

/// Any number of spans, in order, that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// All of them together.
    pub fn of(spans: impl IntoIterator<Item = Span>) -> Spans {
        let mut all: Vec<Span> = spans.into_iter().filter(|span| span.length() > 0).collect();
        all.sort();
        let mut merged: Vec<Span> = Vec::new();
        for span in all {
            match merged.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => merged.push(span),
            }
        }
        Spans(merged)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.0.iter().copied()
    }

    /// What is in either.
    pub fn or(&self, other: &Spans) -> Spans {
        Spans::of(self.iter().chain(other.iter()))
    }

    /// What is in both.
    pub fn and(&self, other: &Spans) -> Spans {
        let pairs = self.iter().flat_map(|a| {
            other
                .iter()
                .map(move |b| Span::new(a.from.max(b.from), a.to.min(b.to)))
        });
        Spans::of(pairs)
    }

    /// What is left without the other.
    pub fn minus(&self, other: &Spans) -> Spans {
        let mut left = Vec::new();
        for span in self.iter() {
            let mut from = span.from;
            for gone in other
                .iter()
                .filter(|o| o.to > span.from && o.from < span.to)
            {
                left.push(Span::new(from, gone.from));
                from = from.max(gone.to);
            }
            left.push(Span::new(from, span.to));
        }
        Spans::of(left)
    }

    /// Whether a moment is in it.
    pub fn has(&self, at: Ms) -> bool {
        self.iter().any(|span| span.from <= at && at < span.to)
    }

    /// Its first moment, 0 where there is none.
    pub fn from(&self) -> Ms {
        self.0.first().map_or(0, |span| span.from)
    }

    /// The last of them.
    pub fn last(&self) -> Option<Span> {
        self.0.last().copied()
    }

    /// The longest of them, 0 where there is none.
    pub fn longest(&self) -> Ms {
        self.iter().map(Span::length).max().unwrap_or(0)
    }

    /// All of them together, in milliseconds.
    pub fn total(&self) -> Ms {
        self.iter().map(Span::length).sum()
    }
}
