// SPDX-License-Identifier: GPL-2.0

//! The report `sharers`: everyone who holds one open file of a process.
//!
//! The whole machine is walked in the first chunk, for nothing may be kept open between two reads; what
//! was found is told then.

#![deny(unsafe_code)]

use super::{text::Text, Fault, Step, CHUNK_TEXT};
use crate::object::{
    process::Process,
    sharers::{Found, Holder, Sharer},
    socket::Files,
};
use kernel::prelude::*;

/// How many sharers are told.
const MAX_SHARERS: usize = 4096;

const NO_DESCRIPTOR: Fault = Fault {
    errno: EBADF,
    message: "the process has no such descriptor",
};

/// What is told in the end.
struct Counts {
    before: usize,
    after: usize,
}

/// The report under way.
pub(crate) struct Walk {
    fd: u32,
    found: Option<(Found, Counts)>,
    told: usize,
}

impl Walk {
    /// Begins, if the process has that descriptor.
    pub(crate) fn new(process: &Process, fd: u32) -> Result<Self, Fault> {
        match Files::of(process)?.next(fd) {
            Some((next, _)) if next == fd => Ok(Self {
                fd,
                found: None,
                told: 0,
            }),
            _ => Err(NO_DESCRIPTOR),
        }
    }

    /// Walks the machine; then tells the next few sharers.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        let Some((found, counts)) = &self.found else {
            self.found = Some(self.look(process, text)?);
            return Ok(Step::More);
        };
        for sharer in &found.sharers[self.told..] {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            tell(sharer, text)?;
            self.told += 1;
        }
        let refs = counts.after as u64;
        text.record("summary")
            .word("report", b"sharers")
            .number("tasks", found.tasks)
            .number("fds", found.fds)
            .number("sharers", found.sharers.len() as u64)
            .number("refs_before", counts.before as u64)
            .number("refs", refs)
            .number("named", found.named)
            .number("unnamed", refs.saturating_sub(found.named))
            .flag("moved", counts.before != counts.after || found.named > refs)
            .number("missed", found.missed)
            .number("cut", found.cut)
            .end()?;
        Ok(Step::Done)
    }

    fn look(&self, process: &Process, text: &mut Text) -> Result<(Found, Counts), Fault> {
        let (_, file) = Files::of(process)?
            .next(self.fd)
            .filter(|(fd, _)| *fd == self.fd)
            .ok_or(NO_DESCRIPTOR)?;
        let before = file.references();
        text.record("file")
            .number("fd", self.fd.into())
            .number("inode", file.inode() as u64)
            .flag("socket", file.socket().is_some())
            .flag("watched", file.is_watched())
            .end()?;
        let found = file.sharers(MAX_SHARERS)?;
        let after = file.references();
        Ok((found, Counts { before, after }))
    }
}

fn tell(sharer: &Sharer, text: &mut Text) -> Result {
    text.record("sharer")
        .signed("pid", sharer.pid.into())
        .string("comm", sharer.comm.bytes())
        .number("fd", sharer.fd.into())
        .word(
            "holds",
            match sharer.holder {
                Holder::Descriptor => b"descriptor",
                Holder::Message => b"message",
                Holder::Ring => b"ring",
            },
        )
        .id("table", sharer.table)
        .number("counted", sharer.counted)
        .end()
}
