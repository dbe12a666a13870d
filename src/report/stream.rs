// SPDX-License-Identifier: GPL-2.0

//! A text that is made while it is read.

#![deny(unsafe_code)]

use super::{text::Text, Fault, Report, Step, CHUNK_TEXT};
use crate::records::common::ReportName;
use kernel::{prelude::*, uaccess::UserSliceWriter};

/// Longer than nearly every record: the last of a chunk may begin just before its bound.
const LONGEST: usize = 4096;

/// Where a stream's text comes from.
pub(crate) enum Source {
    /// A report, chunk by chunk.
    Report(Report),
    /// A text that is there.
    Ready,
    /// An error: its text is there, and what follows is the errno.
    Fault(Error),
}

/// A text, and how far its reader is.
pub(crate) struct Stream {
    source: Source,
    text: Text,
    read: usize,
}

impl Stream {
    /// Reads a report, in whichever form that text is.
    pub(crate) fn report(report: Report, text: Text) -> Self {
        Self {
            source: Source::Report(report),
            text,
            read: 0,
        }
    }

    /// Reads a text.
    pub(crate) fn text(text: Text) -> Self {
        Self {
            source: Source::Ready,
            text,
            read: 0,
        }
    }

    /// Reads an error, which no report stands behind.
    pub(crate) fn fault(
        report: ReportName,
        pid: i32,
        fault: Fault,
        mut text: Text,
    ) -> Result<Self> {
        text.fault(report, pid, fault)?;
        Ok(Self {
            source: Source::Fault(fault.errno),
            text,
            read: 0,
        })
    }

    /// Copies what comes next: at least a byte, unless it is at its end or `to` has no room.
    pub(crate) fn read(&mut self, to: &mut UserSliceWriter) -> Result<usize> {
        while self.read == self.text.bytes().len() {
            self.text.clear();
            self.read = 0;
            if matches!(self.source, Source::Report(_)) {
                self.text.reserve(CHUNK_TEXT + LONGEST);
            }
            match &mut self.source {
                Source::Ready => return Ok(0),
                Source::Fault(errno) => return Err(*errno),
                Source::Report(report) => match report.chunk(&mut self.text) {
                    Ok(Step::More) => {}
                    Ok(Step::Done) => self.source = Source::Ready,
                    Err(fault) => {
                        let written = report.fault(fault, &mut self.text);
                        self.source = Source::Fault(fault.errno);
                        // Without memory for the line, the errno must do.
                        written?;
                    }
                },
            }
        }
        let rest = &self.text.bytes()[self.read..];
        let len = rest.len().min(to.len());
        // If the reader's buffer is bad, nothing counts as read.
        to.write_slice(&rest[..len])?;
        self.read += len;
        Ok(len)
    }
}
