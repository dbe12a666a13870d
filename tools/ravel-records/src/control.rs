//! What the module says of itself: `version` and `attached`.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Id, ProcessState, ReportName, Text};

record! {
    /// The `version` record.
    Version {
        /// The module's version.
        module: Text,
        /// The kernel's release.
        kernel: Text,
        /// Version of the report format.
        format: u64,
        /// A hash of the definitions of all records; older modules do not report it.
        schema: Option<Id>,
    }
}

impl Version {
    /// Parses the file `version`. A format that is not known here is no error.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut body = Body::new(text);
        while let Some(line) = body.next()? {
            if line.kind == "version" {
                return Self::from_line(line);
            }
        }
        Err(body.summary()?.error("a summary where `version` belongs"))
    }
}

/// The whole file `attached`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// One for each folder.
    pub attached: Vec<AttachedProcess>,
    /// The counts.
    pub summary: AttachedSummary,
}

record! {
    /// An `attached` record: a process that has a folder.
    AttachedProcess {
        /// The process, and the folder's name.
        pid: u32,
        /// Its name; empty where it has exited.
        comm: Text,
        /// Whether it is still there.
        state: ProcessState,
    }
}

record! {
    /// The counts of the file `attached`.
    AttachedSummary {
        /// Always `attached`.
        report: ReportName,
        /// Folders.
        attached: u64,
        /// Folders that there can be.
        limit: u64,
    }
}

impl Attached {
    /// Parses the whole file; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut body = Body::new(text);
        let mut attached = Vec::new();
        while let Some(line) = body.next()? {
            if line.kind == "attached" {
                attached.push(AttachedProcess::from_line(line)?);
            }
        }
        let last = body.summary()?;
        let summary = AttachedSummary::from_line(&last)?;
        check(&last, "attached", summary.attached, attached.len(), 0)?;
        Ok(Self { attached, summary })
    }
}
