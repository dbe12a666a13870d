// SPDX-License-Identifier: GPL-2.0

//! The report `waiters`: the waiters on a process' sockets. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

use crate::object::{
    net::socket::Socket,
    net::waiters::{Functions, OwnerKind, SignalOwner, Sleeper, Target, WaitName, Waiter},
};
use crate::records::{
    waiters::{self, Call, Relay, Request, SignalTo, WaitQueue, WaitsBy},
    Maybe, Str,
};
use crate::report::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use core::ops::Range;
use kernel::prelude::*;

/// The most entries of a wait queue that are reported.
const MAX_SHOWN: usize = 512;

/// The wait queues that there are; unix sockets have them all.
const QUEUES: [(WaitName, WaitQueue); 3] = [
    (WaitName::Socket, WaitQueue::SOCKET),
    (WaitName::Room, WaitQueue::ROOM),
    (WaitName::Lock, WaitQueue::LOCK),
];

/// What the report `waiters` adds to the walk over sockets.
pub(crate) struct Waiters {
    functions: Functions,
    /// The current socket, and the entries of each of its queues.
    fd: u32,
    found: [Range<usize>; QUEUES.len()],
    seen: KVVec<Waiter>,
    /// How many of them were emitted.
    emitted: usize,
    pub(in crate::report) waiters: u64,
    pub(in crate::report) cut: u64,
}

impl Waiters {
    /// Makes the room in which entries are collected while a queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            functions: Functions::new()?,
            fd: 0,
            found: Default::default(),
            seen: KVVec::with_capacity(QUEUES.len() * MAX_SHOWN, gfp())?,
            emitted: 0,
            waiters: 0,
            cut: 0,
        })
    }

    /// Looks at the wait queues of one socket, one after the other.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(in crate::report) fn look(&mut self, fd: u32, socket: &Socket<'_>) {
        self.fd = fd;
        self.seen.clear();
        self.emitted = 0;
        for (at, (name, _)) in QUEUES.into_iter().enumerate() {
            let from = self.seen.len();
            if let Some(queue) = socket.wait_queue(name) {
                let found = queue.collect(&mut self.functions, &mut self.seen, MAX_SHOWN);
                self.cut += (found - (self.seen.len() - from)) as u64;
            }
            self.found[at] = from..self.seen.len();
        }
    }

    /// Emits what the file sends signals to, if anything.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(in crate::report) fn emit_owner(fd: u32, owner: &SignalOwner, text: &mut Text) -> Result {
        let to = match owner.kind {
            OwnerKind::Thread => SignalTo::THREAD,
            OwnerKind::Process => SignalTo::PROCESS,
            OwnerKind::Group => SignalTo::GROUP,
            OwnerKind::None if owner.is_async => SignalTo::NONE,
            OwnerKind::None => return Ok(()),
        };
        let record = waiters::Signal {
            fd: fd.into(),
            r#async: owner.is_async.into(),
            to,
            pid: owner.pid.into(),
            signal: owner.signal.into(),
        };
        text.put(&record, &[])
    }

    /// Emits what was found, from where it stopped. [`Step::More`]: the chunk is full.
    pub(in crate::report) fn emit(&mut self, text: &mut Text) -> Result<Step> {
        for (range, (_, queue)) in self.found.iter().zip(QUEUES) {
            while range.contains(&self.emitted) {
                if text.bytes().len() >= CHUNK_TEXT {
                    return Ok(Step::More);
                }
                let waiter = &self.seen[self.emitted];
                let pos = self.emitted - range.start;
                let place = (self.fd, queue, pos);
                emit(place, waiter, &mut self.functions, text)?;
                self.emitted += 1;
                self.waiters += 1;
            }
        }
        Ok(Step::Done)
    }
}

/// Emits the waiter at a position in a wait queue of a descriptor.
// Not in the frame of the caller: a kernel stack is small.
#[inline(never)]
fn emit(
    (fd, queue, pos): (u32, WaitQueue, usize),
    waiter: &Waiter,
    functions: &mut Functions,
    text: &mut Text,
) -> Result {
    let (name, module) = functions.name(waiter.function);
    let mut record = waiters::Waiter {
        fd: fd.into(),
        queue,
        pos: pos.into(),
        by: match waiter.target {
            Target::Task(_) => WaitsBy::TASK,
            Target::Poll { .. } => WaitsBy::POLL,
            Target::Epoll => WaitsBy::EPOLL,
            Target::Request { .. } => WaitsBy::IO_URING,
            Target::Relay { .. } => WaitsBy::RELAY,
            Target::Other => WaitsBy::OTHER,
        },
        function: Str::at(0, name.len()),
        module: Str::at(name.len(), module.len()),
        exclusive: waiter.exclusive.into(),
        ..Default::default()
    };
    match &waiter.target {
        Target::Task(task) => {
            record.task = sleeper(task);
            record.call = call(task);
        }
        Target::Poll { task, events } => {
            record.task = sleeper(task);
            record.call = call(task);
            record.events = Maybe::some((*events).into());
        }
        Target::Request {
            task,
            events,
            ring,
            opcode,
            user_data,
        } => {
            record.task = sleeper(task);
            record.events = Maybe::some((*events).into());
            record.request = Maybe::some(Request {
                ring: (*ring).into(),
                opcode: (*opcode).into(),
                user_data: (*user_data).into(),
            });
        }
        Target::Relay { socket, inode } => {
            record.relayed = Maybe::some(Relay {
                relay: (*socket).into(),
                relay_inode: (*inode).into(),
            });
        }
        Target::Epoll | Target::Other => {}
    }
    text.put(&record, &[name, module])
}

fn sleeper(task: &Sleeper) -> Maybe<waiters::Sleeper> {
    Maybe::some(waiters::Sleeper {
        pid: task.pid.into(),
        tid: task.tid.into(),
        comm: task.comm.into(),
    })
}

fn call(task: &Sleeper) -> Maybe<Call> {
    Maybe::some(Call {
        worker: task.worker.into(),
        syscall: task.syscall.unwrap_or(-1).into(),
        i386: task.i386.into(),
    })
}
