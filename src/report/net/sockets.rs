// SPDX-License-Identifier: GPL-2.0

//! The report `sockets`: each descriptor of a process that is a socket. `skbs` adds the queues to
//! it, `waiters` the tasks that wait.

#![deny(unsafe_code)]

mod record;
pub(crate) mod words;

use crate::object::{
    net::{
        accept::Waiting as Connection,
        file::{Files, OpenFile},
        socket::{Ident, Socket},
        state::State,
    },
    process::{interrupted, Process},
    sync::id::Id,
};
use crate::records::{common::ReportName, skbs::SkbsSummary, sockets, waiters::WaitersSummary};
use crate::report::{
    gfp, net::skbs::Queues, net::waiters::Waiters, text::Text, Fault, Step, CHUNK_TEXT,
};
use kernel::prelude::*;
use record::write_waiting;

/// How many descriptors a chunk looks at.
const CHUNK_FDS: usize = 64;

/// How many connections of a listener's accept queue are reported: those read in one hold of its
/// lock.
const MAX_WAITING: usize = 128;

/// A socket at one moment: plain values, in a place that is used for one socket after another.
#[derive(Default)]
struct Seen {
    fd: u32,
    id: Id,
    inode: usize,
    references: usize,
    nonblocking: bool,
    ident: Ident,
    /// None: the socket's user did not release it.
    state: Option<State>,
}

impl Seen {
    fn listens(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.common.listens())
    }

    /// Reads a socket under its lock. Returns how many packets it passed over.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    fn look(&mut self, fd: u32, file: &OpenFile, socket: &Socket<'_>) -> Result<u32, Fault> {
        self.fd = fd;
        self.id = socket.id();
        self.inode = file.inode();
        self.references = file.references();
        self.nonblocking = file.is_nonblocking();
        self.ident = socket.ident();
        match socket.read(&self.ident, &mut self.state) {
            Ok(()) => {}
            Err(err) if err == EBUSY => self.state = None,
            Err(err) => return Err(err.into()),
        }
        Ok(self.state.as_ref().map_or(0, |state| state.queued.missed))
    }
}

/// The connections that wait at listeners.
pub(crate) struct Waiting {
    /// Those of the current listener.
    seen: KVVec<Connection>,
    found: u64,
    cut: u64,
}

impl Waiting {
    /// Allocates the room in which they are collected while the accept queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            seen: KVVec::with_capacity(MAX_WAITING, gfp())?,
            found: 0,
            cut: 0,
        })
    }

    /// Writes a record for each connection that waits for accept() at a listener.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    fn write(&mut self, fd: u32, socket: &Socket<'_>, text: &mut Text) -> Result {
        let found = match socket.waiting(&mut self.seen) {
            Ok(found) => found as usize,
            Err(err) if err == EBUSY => {
                self.cut += 1;
                return Ok(());
            }
            Err(err) => return Err(err),
        };
        for (pos, waiting) in self.seen.iter().enumerate() {
            write_waiting(text, fd, pos, waiting)?;
        }
        self.found += found as u64;
        self.cut += found.saturating_sub(self.seen.len()) as u64;
        Ok(())
    }
}

/// What is reported of a socket besides itself, by which the reports differ.
pub(crate) enum Detail {
    /// `sockets`: who waits at a listener.
    Waiting(Waiting),
    /// `skbs`: the queues.
    Queues(KBox<Queues>),
    /// `waiters`: who waits for it.
    Waiters(KBox<Waiters>),
}

impl Detail {
    /// Continues with what was looked at.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    fn go_on(&mut self, text: &mut Text) -> Result<Step> {
        match self {
            Self::Waiting(_) => Ok(Step::Done),
            Self::Queues(queues) => queues.emit(text),
            Self::Waiters(waiters) => waiters.emit(text),
        }
    }
}

/// The report in progress.
pub(crate) struct Walk {
    next: u32,
    /// The current socket, and its record.
    seen: KBox<Seen>,
    record: KBox<sockets::Socket>,
    detail: Detail,
    fds: u64,
    sockets: u64,
    busy: u64,
    cut: u64,
}

impl Walk {
    /// Begins, if the process has files.
    pub(crate) fn new(process: &Process, detail: Detail) -> Result<Self, Fault> {
        Files::of(process)?;
        Ok(Self {
            next: 0,
            seen: KBox::new(Seen::default(), gfp())?,
            record: KBox::new(sockets::Socket::default(), gfp())?,
            detail,
            fds: 0,
            sockets: 0,
            busy: 0,
            cut: 0,
        })
    }

    /// Writes the records of the next few descriptors.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.detail.go_on(text)? == Step::More {
            return Ok(Step::More);
        }
        let mut files = Files::of(process)?;
        for _ in 0..CHUNK_FDS {
            if text.bytes().len() >= CHUNK_TEXT {
                break;
            }
            if interrupted() {
                return Err(EINTR.into());
            }
            let Some((fd, file)) = files.next(self.next) else {
                if files.are_stale() {
                    files = Files::of(process)?;
                    continue;
                }
                self.summary(text)?;
                return Ok(Step::Done);
            };
            self.next = fd + 1;
            self.fds += 1;
            let Some(socket) = file.socket() else {
                continue;
            };
            self.sockets += 1;
            let seen = &mut *self.seen;
            let missed = seen.look(fd, &file, &socket)?;
            match &mut self.detail {
                Detail::Waiting(_) => self.cut += u64::from(missed),
                Detail::Queues(queues) => {
                    if !queues.look(fd, &socket, seen.state.is_none())? {
                        seen.state = None;
                    }
                }
                Detail::Waiters(waiters) => waiters.look(fd, &socket),
            }
            seen.write(&mut self.record, text)?;
            self.busy += u64::from(seen.state.is_none());
            match &mut self.detail {
                Detail::Waiting(waiting) if seen.listens() => {
                    waiting.write(fd, &socket, text)?;
                }
                Detail::Waiters(_) => Waiters::emit_owner(fd, &file.owner(), text)?,
                _ => {}
            }
            if self.detail.go_on(text)? == Step::More {
                break;
            }
        }
        Ok(Step::More)
    }

    fn summary(&self, text: &mut Text) -> Result {
        let (fds, sockets, busy) = (self.fds.into(), self.sockets.into(), self.busy.into());
        match &self.detail {
            Detail::Waiting(waiting) => {
                let record = sockets::SocketsSummary {
                    report: ReportName::SOCKETS,
                    fds,
                    sockets,
                    waiting: waiting.found.into(),
                    busy,
                    cut: (self.cut + waiting.cut).into(),
                };
                text.put(&record, &[])
            }
            Detail::Queues(queues) => {
                let record = SkbsSummary {
                    report: ReportName::SKBS,
                    fds,
                    sockets,
                    queues: queues.queues.into(),
                    skbs: queues.skbs.into(),
                    busy,
                    cut: (self.cut + queues.cut).into(),
                };
                text.put(&record, &[])
            }
            Detail::Waiters(waiters) => {
                let record = WaitersSummary {
                    report: ReportName::WAITERS,
                    fds,
                    sockets,
                    waiters: waiters.waiters.into(),
                    busy,
                    cut: (self.cut + waiters.cut).into(),
                };
                text.put(&record, &[])
            }
        }
    }
}
