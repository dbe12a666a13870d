//! The report `waiters`: who waits on a process' sockets, and how.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, Hex, Id, ReportName, SignalTo, Socket, Text, WaitQueue, WaitsBy};

/// A whole report `waiters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitersReport {
    /// Whose it is.
    pub header: Header,
    /// One for each descriptor that is a socket, in the order of descriptors.
    pub sockets: Vec<SocketWaiters>,
    /// The counts.
    pub summary: WaitersSummary,
}

/// A socket with those who wait on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketWaiters {
    /// The socket; in JSON its keys stand beside `waiters`.
    #[serde(flatten)]
    pub socket: Socket,
    /// Whom its file sends signals, where F_SETOWN or O_ASYNC was set.
    pub signal: Option<Signal>,
    /// Who waits.
    pub waiters: Vec<Waiter>,
}

record! {
    /// Whom an open file sends signals of what happens to it.
    Signal {
        /// The descriptor.
        fd: u32,
        /// O_ASYNC: it does so for input and output; else for urgent data only.
        r#async: bool,
        /// What the owner is.
        to: SignalTo,
        /// The owner's number; 0 for none, or one that is gone.
        pid: u32,
        /// The signal that F_SETSIG set; 0: SIGIO.
        signal: u32,
    }
}

record! {
    /// An entry of a wait queue of a socket.
    Waiter {
        /// The descriptor.
        fd: u32,
        /// Which of the socket's wait queues.
        queue: WaitQueue,
        /// Place in it, from 0.
        pos: u64,
        /// What the entry stands for.
        by: WaitsBy,
        /// The kernel's function that wakes it; empty where it has no symbol.
        function: Text,
        /// That function's module, in brackets; empty for the kernel itself.
        module: Text,
        /// A wake-up goes to one of the exclusive ones, and to all others.
        exclusive: bool,
        /// The process; of a request, the one that made it.
        pid: Option<u32>,
        /// Its thread.
        tid: Option<u32>,
        /// The thread's name.
        comm: Option<Text>,
        /// The thread is the kernel's own, or a worker of an io_uring.
        worker: Option<bool>,
        /// The number of the system call in which it waits; -1 where there is none, or none can be told.
        #[serde(default, with = "crate::value::optional_negative_is_null")]
        syscall: Option<i64>,
        /// That number is one of a 32-bit program.
        i386: Option<bool>,
        /// The events asked for: EPOLLIN and so on.
        events: Option<Hex>,
        /// The io_uring of a request.
        ring: Option<Id>,
        /// Its operation: IORING_OP_*.
        opcode: Option<u32>,
        /// Its user_data.
        user_data: Option<Hex>,
        /// The unix socket that is woken, in turn, for those who poll that one.
        relay: Option<Id>,
        /// Its inode.
        relay_inode: Option<u64>,
    }
}

record! {
    /// The counts of a report `waiters`.
    WaitersSummary {
        /// The report's name.
        report: ReportName,
        /// Descriptors looked at.
        fds: u64,
        /// socket records.
        sockets: u64,
        /// waiter records.
        waiters: u64,
        /// Sockets that were busy.
        busy: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl WaitersReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Waiters)?;
        let mut sockets: Vec<SocketWaiters> = Vec::new();
        while let Some(line) = body.next()? {
            let last = sockets.last_mut();
            match line.kind {
                "socket" => sockets.push(SocketWaiters {
                    socket: Socket::parse(line)?,
                    signal: None,
                    waiters: Vec::new(),
                }),
                "signal" => {
                    let signal = Signal::from_line(line)?;
                    let of = last
                        .filter(|of| of.socket.fd == signal.fd && of.signal.is_none())
                        .ok_or_else(|| line.error("a `signal` not under its `socket`"))?;
                    of.signal = Some(signal);
                }
                "waiter" => {
                    let waiter = Waiter::from_line(line)?;
                    last.filter(|of| of.socket.fd == waiter.fd)
                        .ok_or_else(|| line.error("a `waiter` not under its `socket`"))?
                        .waiters
                        .push(waiter);
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = WaitersSummary::from_line(&last)?;
        let waiters = sockets.iter().map(|of| of.waiters.len()).sum();
        let busy = sockets.iter().filter(|of| of.socket.busy).count();
        check(&last, "sockets", summary.sockets, sockets.len(), 0)?;
        check(&last, "waiters", summary.waiters, waiters, 0)?;
        check(&last, "busy", summary.busy, busy, 0)?;
        Ok(Self {
            header,
            sockets,
            summary,
        })
    }

    /// The socket of a descriptor.
    pub fn socket(&self, fd: u32) -> Option<&SocketWaiters> {
        self.sockets.iter().find(|of| of.socket.fd == fd)
    }
}
