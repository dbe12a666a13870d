//! The report `sharers`: everyone who holds one open file.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, Holds, Id, ReportName, Text};

/// A whole report `sharers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharersReport {
    /// Whose descriptor it is.
    pub header: Header,
    /// The open file.
    pub file: SharedFile,
    /// Who holds it.
    pub sharers: Vec<Sharer>,
    /// The counts.
    pub summary: SharersSummary,
}

record! {
    /// The open file that a report `sharers` is about.
    SharedFile {
        /// The descriptor asked for.
        fd: u32,
        /// Its inode.
        inode: u64,
        /// It is a socket.
        socket: bool,
        /// An epoll set watches it, which holds no reference.
        watched: bool,
    }
}

record! {
    /// Someone who holds an open file.
    Sharer {
        /// The process.
        pid: u32,
        /// Its name.
        comm: Text,
        /// The descriptor; for a message or a ring, that of the unix socket or the ring.
        fd: u32,
        /// How it is held.
        holds: Holds,
        /// The table that the descriptor is in; processes and threads may share one.
        table: Id,
        /// References counted here; 0 where the same ones were told before.
        counted: u64,
    }
}

record! {
    /// The counts of a report `sharers`.
    SharersSummary {
        /// The report's name.
        report: ReportName,
        /// Tasks looked at.
        tasks: u64,
        /// Descriptors looked at.
        fds: u64,
        /// sharer records.
        sharers: u64,
        /// References before the walk.
        refs_before: u64,
        /// References after it.
        refs: u64,
        /// References that the sharers hold.
        named: u64,
        /// The others.
        unnamed: u64,
        /// The references changed while they were looked for.
        moved: bool,
        /// Rings in use and messages past a bound, where references may be.
        missed: u64,
        /// Sharers left out.
        cut: u64,
    }
}

impl SharersReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Sharers)?;
        let (mut file, mut sharers) = (None, Vec::new());
        while let Some(line) = body.next()? {
            match line.kind {
                "file" => file = Some(SharedFile::from_line(line)?),
                "sharer" => sharers.push(Sharer::from_line(line)?),
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = SharersSummary::from_line(&last)?;
        check(&last, "sharers", summary.sharers, sharers.len(), 0)?;
        let counted: u64 = sharers.iter().map(|sharer| sharer.counted).sum();
        if counted > summary.named || (summary.cut == 0 && counted != summary.named) {
            return Err(last.error(format!(
                "the sharers hold {counted} references, the summary names {}",
                summary.named
            )));
        }
        Ok(Self {
            header,
            file: file.ok_or_else(|| last.error("there is no `file`"))?,
            sharers,
            summary,
        })
    }
}
