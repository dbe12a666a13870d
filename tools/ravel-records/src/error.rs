//! What can stand in a report's place.

use std::io;
use std::path::PathBuf;

use crate::line::record;
use crate::{ReportName, Text};

/// Why there is no whole report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module said in an `error` record why it made none, or not the rest of one.
    #[error("{0}")]
    Report(ReportError),
    /// The text ends without a `summary`: its reader, or what carried it, cut it.
    #[error("the report was cut after line {lines}: it has no summary")]
    Cut {
        /// Whole lines that were there.
        lines: usize,
    },
    /// The text is not what the format says.
    #[error("line {line}: {reason}")]
    Parse {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Reports that describe one process in several parts are of different processes.
    #[error("the reports do not belong together: {0}")]
    Mismatch(String),
    /// The module's format is not the one this library reads.
    #[error("the report has format version {found}, this program reads version {known}")]
    Format {
        /// The version the report names.
        found: u64,
        /// The version read here: [`FORMAT`](crate::FORMAT).
        known: u64,
    },
    /// A file of the module could not be opened, written or read, and no record says why.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The errno's name where the module gave one, such as `ESRCH`.
    pub fn errno(&self) -> Option<&str> {
        match self {
            Self::Report(error) => Some(&error.errno),
            _ => None,
        }
    }
}

record! {
    /// An `error` record: the module's own words for a report that it could not make.
    ReportError {
        /// The report asked for; `query` where the request named none.
        report: ReportName,
        /// The process asked for, 0 where the request named none.
        pid: u32,
        /// Name of the errno that the read after this line fails with, such as `ESRCH`.
        errno: String,
        /// What is wrong, in a sentence.
        message: Text,
    }
}

impl std::fmt::Display for ReportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.errno)
    }
}
