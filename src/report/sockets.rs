// SPDX-License-Identifier: GPL-2.0

//! The report `sockets`: each descriptor of a process that is a socket. `skbs` adds the queues to it, `waiters`
//! who waits.

#![deny(unsafe_code)]

mod record;
pub(crate) mod words;

use super::{gfp, skbs::Queues, text::Text, waiters::Waiters, Fault, Step, CHUNK_TEXT};
use crate::{
    bindings,
    object::{
        id::Id,
        process::{interrupted, Process},
        skb::{QueueName, QueueTotals},
        socket::{Files, OpenFile, SockState, Socket, WaitingState, UNIX_PATH_MAX},
    },
};
use kernel::prelude::*;
use record::{tell_waiting, Type};

/// How many descriptors a chunk looks at.
const CHUNK_FDS: usize = 64;

/// How many connections of a listener's accept queue are told: those looked at in one hold of its lock.
const MAX_WAITING: usize = 128;

/// A unix socket's path, or an abstract name.
struct UnixName {
    path: [u8; UNIX_PATH_MAX],
    len: usize,
}

impl UnixName {
    const NONE: Self = Self {
        path: [0; UNIX_PATH_MAX],
        len: 0,
    };
}

/// A socket as it was when it was looked at: plain values, in a place that one socket after another has.
struct Seen {
    fd: u32,
    id: Id,
    inode: usize,
    references: usize,
    nonblocking: bool,
    state: SockState,
    /// The socket's user did not let go of it.
    busy: bool,
    local: UnixName,
    remote: UnixName,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            fd: 0,
            id: Id::default(),
            inode: 0,
            references: 0,
            nonblocking: false,
            state: SockState::default(),
            busy: false,
            local: UnixName::NONE,
            remote: UnixName::NONE,
        }
    }
}

impl Seen {
    fn listens(&self) -> bool {
        u32::from(self.state.state) == bindings::RAVEL_LISTEN
    }

    /// Looks at a socket under its locks, one after the other. Tells how many packets it passed over.
    fn look(&mut self, fd: u32, file: &OpenFile, socket: &Socket<'_>) -> Result<u32, Fault> {
        self.fd = fd;
        self.id = socket.id();
        self.inode = file.inode();
        self.references = file.references();
        self.nonblocking = file.is_nonblocking();
        self.busy = false;
        self.local.len = 0;
        self.remote.len = 0;
        let state = &mut self.state;
        socket.ident(state);
        let kind = Type(state.type_.into());
        let family = u32::from(state.family);
        let is_inet = family == bindings::AF_INET || family == bindings::AF_INET6;
        if let Some(unix) = socket.lock_unix() {
            self.local.len = unix.local(&mut self.local.path);
            self.remote.len = unix.remote(&mut self.remote.path).unwrap_or(0);
            state.inq = unix.stream_unread();
            state.unread =
                u8::from(matches!(kind, Type::STREAM | Type::SEQPACKET) && unix.unread());
            state.peer = unix.peer();
        } else if !is_inet {
            self.local.len = file.socket_name(false, &mut self.local.path);
            self.remote.len = file.socket_name(true, &mut self.remote.path);
        }
        let mut receive = QueueTotals::default();
        match socket.lock() {
            Ok(guard) => {
                guard.state(state);
                // TCP keeps better count.
                if state.is_tcp == 0 {
                    if let Some(queue) = guard.queue(QueueName::Receive) {
                        receive = queue.totals();
                    }
                }
            }
            Err(err) if err == EBUSY => {
                self.busy = true;
                return Ok(0);
            }
            Err(err) => return Err(err.into()),
        }
        if state.is_tcp != 0 {
            socket.tcp_peer(&mut state.peer);
            return Ok(state.tx_missed);
        }

        let totals = |name| {
            socket
                .queue(name)
                .map_or(QueueTotals::default(), |guard| guard.queue().totals())
        };
        if !socket.guards_its_queues() {
            receive = totals(QueueName::Receive);
        }
        let reader = totals(QueueName::Reader);
        state.rx_packets = receive.packets + reader.packets;
        state.rx_bytes = receive.bytes + reader.bytes;
        let first = if reader.packets > 0 {
            reader.first
        } else {
            receive.first
        };
        let listens = u32::from(state.state) == bindings::RAVEL_LISTEN;
        if family == bindings::AF_UNIX {
            // A listener's queue holds connections, not data.
            if listens {
                state.rx_bytes = 0;
                state.unread = 0;
                state.inq = -1;
            } else if kind == Type::STREAM {
                state.rx_bytes = u32::try_from(state.inq).unwrap_or(0);
            } else {
                state.inq = match kind {
                    Type::SEQPACKET => state.rx_bytes.into(),
                    _ => first.into(),
                };
            }
            state.outq = state.wmem.into();
        } else if state.is_udp != 0
            || (is_inet && kind == Type::RAW)
            || family == bindings::AF_PACKET
        {
            state.inq = first.into();
            state.outq = state.wmem.into();
        }
        Ok(receive.missed + reader.missed)
    }
}

/// The connections that wait at listeners.
pub(crate) struct Waiting {
    /// Those at the listener at hand.
    seen: KVVec<WaitingState>,
    found: u64,
    cut: u64,
}

impl Waiting {
    /// Makes the room in which they are collected while the accept queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            seen: KVVec::with_capacity(MAX_WAITING, gfp())?,
            found: 0,
            cut: 0,
        })
    }

    /// Tells who waits for accept() at a listener.
    fn tell(&mut self, fd: u32, socket: &Socket<'_>, text: &mut Text) -> Result {
        let found = socket.waiting(&mut self.seen) as usize;
        for (pos, waiting) in self.seen.iter().enumerate() {
            tell_waiting(text, fd, pos, waiting)?;
        }
        self.found += found as u64;
        self.cut += (found - self.seen.len()) as u64;
        Ok(())
    }
}

/// What is told of a socket besides itself, by which the reports differ.
pub(crate) enum Detail {
    /// `sockets`: who waits at a listener.
    Waiting(Waiting),
    /// `skbs`: the queues.
    Queues(KBox<Queues>),
    /// `waiters`: who waits for it.
    Waiters(KBox<Waiters>),
}

impl Detail {
    /// Goes on telling what was looked at.
    fn go_on(&mut self, text: &mut Text) -> Result<Step> {
        match self {
            Self::Waiting(_) => Ok(Step::Done),
            Self::Queues(queues) => queues.tell(text),
            Self::Waiters(waiters) => waiters.tell(text),
        }
    }
}

/// The report under way.
pub(crate) struct Walk {
    next: u32,
    /// The socket at hand.
    seen: KBox<Seen>,
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
            detail,
            fds: 0,
            sockets: 0,
            busy: 0,
            cut: 0,
        })
    }

    /// Tells the next few descriptors.
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
                Detail::Queues(queues) => seen.busy = !queues.look(fd, &socket, seen.busy)?,
                Detail::Waiters(waiters) => waiters.look(fd, &file, &socket),
            }
            seen.tell(text)?;
            self.busy += u64::from(seen.busy);
            match &mut self.detail {
                Detail::Waiting(waiting) if !seen.busy && seen.listens() => {
                    waiting.tell(fd, &socket, text)?;
                }
                Detail::Waiters(_) => Waiters::tell_owner(fd, &file.owner(), text)?,
                _ => {}
            }
            if self.detail.go_on(text)? == Step::More {
                break;
            }
        }
        Ok(Step::More)
    }

    fn summary(&self, text: &mut Text) -> Result {
        let name: &[u8] = match self.detail {
            Detail::Waiting(_) => b"sockets",
            Detail::Queues(_) => b"skbs",
            Detail::Waiters(_) => b"waiters",
        };
        let mut line = text
            .record("summary")
            .word("report", name)
            .number("fds", self.fds)
            .number("sockets", self.sockets);
        let cut;
        (line, cut) = match &self.detail {
            Detail::Waiting(waiting) => (line.number("waiting", waiting.found), waiting.cut),
            Detail::Queues(queues) => {
                let line = line.number("queues", queues.queues);
                (line.number("skbs", queues.skbs), queues.cut)
            }
            Detail::Waiters(waiters) => (line.number("waiters", waiters.waiters), waiters.cut),
        };
        line.number("busy", self.busy)
            .number("cut", self.cut + cut)
            .end()
    }
}
