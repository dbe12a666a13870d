// SPDX-License-Identifier: GPL-2.0

//! The report `waiters`: the waiters on a process' sockets. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

use crate::object::{
    net::socket::Socket,
    net::waiters::{Functions, OwnerKind, SignalOwner, Sleeper, Target, WaitName, Waiter},
};
use crate::report::{
    gfp,
    text::{Line, Text},
    Fault, Step, CHUNK_TEXT,
};
use core::ops::Range;
use kernel::prelude::*;

/// The most entries of a wait queue that are reported.
const MAX_SHOWN: usize = 512;

/// The wait queues that there are; unix sockets have them all.
const QUEUES: [(WaitName, &[u8]); 3] = [
    (WaitName::Socket, b"socket"),
    (WaitName::Room, b"room"),
    (WaitName::Lock, b"lock"),
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
        let kind: &[u8] = match owner.kind {
            OwnerKind::Thread => b"thread",
            OwnerKind::Process => b"process",
            OwnerKind::Group => b"group",
            OwnerKind::None if owner.is_async => b"none",
            OwnerKind::None => return Ok(()),
        };
        text.record("signal")
            .number("fd", fd.into())
            .flag("async", owner.is_async)
            .word("to", kind)
            .signed("pid", owner.pid.into())
            .number("signal", owner.signal.into())
            .end()
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
                let line = text
                    .record("waiter")
                    .number("fd", self.fd.into())
                    .word("queue", queue)
                    .number("pos", pos as u64);
                emit(line, waiter, &mut self.functions)?;
                self.emitted += 1;
                self.waiters += 1;
            }
        }
        Ok(Step::Done)
    }
}

fn emit(line: Line<'_>, waiter: &Waiter, functions: &mut Functions) -> Result {
    let line = line.word(
        "by",
        match waiter.target {
            Target::Task(_) => b"task",
            Target::Poll { .. } => b"poll",
            Target::Epoll => b"epoll",
            Target::Request { .. } => b"io_uring",
            Target::Relay { .. } => b"relay",
            Target::Other => b"other",
        },
    );
    let (name, module) = functions.name(waiter.function);
    let line = line
        .string("function", name)
        .string("module", module)
        .flag("exclusive", waiter.exclusive);
    match &waiter.target {
        Target::Task(task) => call(sleeper(line, task), task),
        Target::Poll { task, events } => {
            call(sleeper(line, task), task).hex("events", *events as usize)
        }
        Target::Request {
            task,
            events,
            ring,
            opcode,
            user_data,
        } => sleeper(line, task)
            .hex("events", *events as usize)
            .id("ring", *ring)
            .number("opcode", (*opcode).into())
            .hex("user_data", *user_data as usize),
        Target::Relay { socket, inode } => line.id("relay", *socket).number("relay_inode", *inode),
        Target::Epoll | Target::Other => line,
    }
    .end()
}

fn sleeper<'t>(line: Line<'t>, task: &Sleeper) -> Line<'t> {
    line.signed("pid", task.pid.into())
        .signed("tid", task.tid.into())
        .string("comm", task.comm.bytes())
}

fn call<'t>(line: Line<'t>, task: &Sleeper) -> Line<'t> {
    line.flag("worker", task.worker)
        .signed("syscall", task.syscall.unwrap_or(-1).into())
        .flag("i386", task.i386)
}
