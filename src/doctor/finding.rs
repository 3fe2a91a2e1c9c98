//! The findings of an examination, each in plain words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// It works, but could be better; or it could not be seen.
    Note,
    /// Requests are lost, or a reload or a start fails.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Problem => "problem",
        })
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The severity.
    pub level: Level,
    /// What was checked: an address, a setting of the kernel, a property of the unit.
    pub subject: String,
    /// What was found, and what it means.
    pub what: String,
    /// How to fix the problem; `None` if there is nothing to fix.
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, subject: subject.into(), what: what.into(), fix: None }
    }

    pub(super) fn note(subject: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { level: Level::Note, subject: subject.into(), what: what.into(), fix: Some(fix.into()) }
    }

    pub(super) fn problem(subject: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { level: Level::Problem, subject: subject.into(), what: what.into(), fix: Some(fix.into()) }
    }
}
