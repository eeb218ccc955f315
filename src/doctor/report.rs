//! What `doctor` found: each with a grade, and where it isn't ok with what to do. Pure.

use serde::Serialize;
use std::fmt::Write as _;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// The job works, but worse than it could, or it may stop working.
    Warn,
    /// The job does not work like this.
    Fail,
}

impl Grade {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part that it is about, like `etcd http://10.0.0.11:2379`.
    pub subject: String,
    /// What was looked at, like `version`.
    pub check: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found, in words.
    pub text: String,
    /// What to do about it; `None` where it is ok.
    pub advice: Option<String>,
}

/// The part that findings are about.
#[derive(Debug, Clone)]
pub(super) struct Subject(String);

impl Subject {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub(super) fn ok(&self, check: &'static str, text: impl AsRef<str>) -> Finding {
        self.found(check, Grade::Ok, text.as_ref(), None)
    }

    pub(super) fn warn(
        &self,
        check: &'static str,
        text: impl AsRef<str>,
        advice: impl AsRef<str>,
    ) -> Finding {
        self.found(check, Grade::Warn, text.as_ref(), Some(advice.as_ref()))
    }

    pub(super) fn fail(
        &self,
        check: &'static str,
        text: impl AsRef<str>,
        advice: impl AsRef<str>,
    ) -> Finding {
        self.found(check, Grade::Fail, text.as_ref(), Some(advice.as_ref()))
    }

    fn found(
        &self,
        check: &'static str,
        grade: Grade,
        text: &str,
        advice: Option<&str>,
    ) -> Finding {
        // What others say is data: it must not move the cursor of a terminal, nor begin a line of its own.
        let plain = |text: &str| text.trim().replace(char::is_control, " ");
        Finding {
            subject: plain(&self.0),
            check,
            grade,
            text: plain(text),
            advice: advice.map(plain),
        }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoctorReport(pub Vec<Finding>);

impl DoctorReport {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.0.iter().all(|finding| finding.grade < Grade::Fail)
    }

    /// For a person: a heading for each subject, a line for each finding, and one for what to do.
    #[must_use]
    pub fn to_text(&self) -> String {
        let width = self.0.iter().map(|finding| finding.check.len()).max();
        let width = width.unwrap_or_default();
        let (mut text, mut subject) = (String::new(), None);
        for finding in &self.0 {
            if subject != Some(&finding.subject) {
                let gap = if subject.is_some() { "\n" } else { "" };
                let _ = writeln!(text, "{gap}{}", finding.subject);
                subject = Some(&finding.subject);
            }
            let (grade, check) = (finding.grade.word(), finding.check);
            let _ = writeln!(text, "  {grade:<4}  {check:<width$}  {}", finding.text);
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "  {:<4}  {:<width$}  to do: {advice}", "", "");
            }
        }
        let count = |grade| self.0.iter().filter(|it| it.grade == grade).count();
        let [ok, warn, fail] = [Grade::Ok, Grade::Warn, Grade::Fail].map(count);
        text + &format!("\n{ok} ok, {warn} warn, {fail} fail\n")
    }

    /// For a program: one JSON array of objects.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string(&self.0)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DoctorReport {
        let (engine, etcd) = (Subject::new("engine"), Subject::new("etcd http://a:1"));
        DoctorReport(vec![
            engine.ok("version", "Docker 20.10.24"),
            engine.warn("pid namespace", "another", "run it with --pid=host"),
            etcd.fail("reachable", "no\nanswer \x1b[2J", "start it"),
        ])
    }

    #[test]
    fn a_person_reads_a_line_for_each_finding_and_what_to_do() {
        let expected = "\
engine
  ok    version        Docker 20.10.24
  warn  pid namespace  another
                       to do: run it with --pid=host

etcd http://a:1
  FAIL  reachable      no answer  [2J
                       to do: start it

1 ok, 1 warn, 1 fail
";
        assert_eq!(report().to_text(), expected);
    }

    #[test]
    fn a_warning_is_no_failure() {
        let mut report = report();
        assert!(!report.is_well());
        report.0.pop();
        assert!(report.is_well());
        assert!(DoctorReport::default().is_well());
    }

    #[test]
    fn a_program_reads_these_fields() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        assert_eq!(
            json[1],
            serde_json::json!({
                "subject": "engine", "check": "pid namespace", "grade": "warn", "text": "another",
                "advice": "run it with --pid=host",
            })
        );
        assert_eq!(json[0]["advice"], serde_json::Value::Null);
        assert_eq!(json[2]["grade"], "fail");
    }
}
