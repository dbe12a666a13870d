// SPDX-License-Identifier: GPL-2.0

//! The report `sharers`: every holder of one open file of a process.
//!
//! The whole machine is walked in the first chunk, for nothing may be kept open between two reads;
//! what was found is emitted then.

#![deny(unsafe_code)]

use crate::object::{
    net::sharers::{Found, Holder, Sharer, Wanted},
    net::socket::Files,
    process::Process,
};
use crate::report::{text::Text, Fault, Step, CHUNK_TEXT};
use kernel::prelude::*;

/// The most sharers that are reported.
const MAX_SHARERS: usize = 4096;

const NO_DESCRIPTOR: Fault = Fault {
    errno: EBADF,
    message: "the process has no such descriptor",
};

/// References before and after the walk.
struct Counts {
    before: usize,
    after: usize,
}

/// The report under way.
pub(crate) struct Walk {
    fd: u32,
    found: Option<(Found, Counts)>,
    emitted: usize,
}

impl Walk {
    /// Begins, if the process has that descriptor.
    pub(crate) fn new(process: &Process, fd: u32) -> Result<Self, Fault> {
        match Files::of(process)?.next(fd) {
            Some((next, _)) if next == fd => Ok(Self {
                fd,
                found: None,
                emitted: 0,
            }),
            _ => Err(NO_DESCRIPTOR),
        }
    }

    /// Walks the machine; then emits the next few sharers.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        let Some((found, counts)) = &self.found else {
            self.found = Some(self.look(process, text)?);
            return Ok(Step::More);
        };
        for sharer in &found.sharers[self.emitted..] {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            emit(sharer, text)?;
            self.emitted += 1;
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
        let file = Wanted::new(file)?;
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

fn emit(sharer: &Sharer, text: &mut Text) -> Result {
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
