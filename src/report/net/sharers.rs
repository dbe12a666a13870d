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
use crate::records::{
    common::ReportName,
    process::{self, Holds, SharersSummary},
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
        let record = SharersSummary {
            report: ReportName::SHARERS,
            tasks: found.tasks.into(),
            fds: found.fds.into(),
            sharers: found.sharers.len().into(),
            refs_before: counts.before.into(),
            refs: refs.into(),
            named: found.named.into(),
            unnamed: refs.saturating_sub(found.named).into(),
            moved: (counts.before != counts.after || found.named > refs).into(),
            missed: found.missed.into(),
            cut: found.cut.into(),
        };
        text.put(&record, &[])?;
        Ok(Step::Done)
    }

    fn look(&self, process: &Process, text: &mut Text) -> Result<(Found, Counts), Fault> {
        let (_, file) = Files::of(process)?
            .next(self.fd)
            .filter(|(fd, _)| *fd == self.fd)
            .ok_or(NO_DESCRIPTOR)?;
        let file = Wanted::new(file)?;
        let before = file.references();
        let record = process::File {
            fd: self.fd.into(),
            inode: file.inode().into(),
            socket: file.socket().is_some().into(),
            watched: file.is_watched().into(),
        };
        text.put(&record, &[])?;
        let found = file.sharers(MAX_SHARERS)?;
        let after = file.references();
        Ok((found, Counts { before, after }))
    }
}

fn emit(sharer: &Sharer, text: &mut Text) -> Result {
    let record = process::Sharer {
        pid: sharer.pid.into(),
        comm: sharer.comm.into(),
        fd: sharer.fd.into(),
        holds: match sharer.holder {
            Holder::Descriptor => Holds::DESCRIPTOR,
            Holder::Message => Holds::MESSAGE,
            Holder::Ring => Holds::RING,
        },
        table: sharer.table.into(),
        counted: sharer.counted.into(),
    };
    text.put(&record, &[])
}
