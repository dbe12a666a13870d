// SPDX-License-Identifier: GPL-2.0

//! The report `waiters`: who waits on a process' sockets, and how. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

use super::{
    gfp,
    text::{Line, Text},
    Fault, Step, CHUNK_TEXT,
};
use crate::{
    bindings,
    object::{
        socket::{OpenFile, Socket},
        waiters::{Functions, OwnerOfSignals, WaitName, Waiter, Wakes},
    },
};
use core::ops::Range;
use kernel::prelude::*;

/// How many entries of a wait queue are told.
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
    /// The socket at hand, and who is in each of its queues.
    fd: u32,
    found: [Range<usize>; QUEUES.len()],
    seen: KVVec<Waiter>,
    /// How many of them were told.
    told: usize,
    pub(super) waiters: u64,
    pub(super) cut: u64,
}

impl Waiters {
    /// Makes the room in which entries are collected while a queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            functions: Functions::new()?,
            fd: 0,
            found: Default::default(),
            seen: KVVec::with_capacity(QUEUES.len() * MAX_SHOWN, gfp())?,
            told: 0,
            waiters: 0,
            cut: 0,
        })
    }

    /// Looks at the wait queues of one socket, one after the other.
    pub(super) fn look(&mut self, fd: u32, file: &OpenFile, socket: &Socket<'_>) {
        self.fd = fd;
        self.seen.clear();
        self.told = 0;
        for (at, (name, _)) in QUEUES.into_iter().enumerate() {
            let from = self.seen.len();
            if let Some(queue) = file.wait_queue(socket, name) {
                let found = queue.collect(&mut self.functions, &mut self.seen, MAX_SHOWN);
                self.cut += (found - (self.seen.len() - from)) as u64;
            }
            self.found[at] = from..self.seen.len();
        }
    }

    /// Tells whom the file sends signals, if anyone.
    pub(super) fn tell_owner(fd: u32, owner: &OwnerOfSignals, text: &mut Text) -> Result {
        let kind: &[u8] = match u32::from(owner.kind) {
            bindings::RAVEL_OWNER_THREAD => b"thread",
            bindings::RAVEL_OWNER_PROCESS => b"process",
            bindings::RAVEL_OWNER_GROUP => b"group",
            _ if owner.async_ != 0 => b"none",
            _ => return Ok(()),
        };
        text.record("signal")
            .number("fd", fd.into())
            .flag("async", owner.async_ != 0)
            .word("to", kind)
            .signed("pid", owner.pid.into())
            .number("signal", owner.signal.into())
            .end()
    }

    /// Tells who was found, or goes on telling it. [`Step::More`]: the chunk is full.
    pub(super) fn tell(&mut self, text: &mut Text) -> Result<Step> {
        for (range, (_, queue)) in self.found.iter().zip(QUEUES) {
            while range.contains(&self.told) {
                if text.bytes().len() >= CHUNK_TEXT {
                    return Ok(Step::More);
                }
                let waiter = &self.seen[self.told];
                let pos = self.told - range.start;
                let line = text
                    .record("waiter")
                    .number("fd", self.fd.into())
                    .word("queue", queue)
                    .number("pos", pos as u64);
                tell(line, waiter, &mut self.functions)?;
                self.told += 1;
                self.waiters += 1;
            }
        }
        Ok(Step::Done)
    }
}

fn tell(line: Line<'_>, waiter: &Waiter, functions: &mut Functions) -> Result {
    let state = &waiter.state;
    let line = line.word(
        "by",
        match waiter.wakes {
            Wakes::Task => b"task",
            Wakes::Poll => b"poll",
            Wakes::Epoll => b"epoll",
            Wakes::Request => b"io_uring",
            Wakes::Relay => b"relay",
            Wakes::Other => b"other",
        },
    );
    let (name, module) = functions.name(waiter.function);
    let line = line
        .string("function", name)
        .string("module", module)
        .flag("exclusive", waiter.exclusive);
    match waiter.wakes {
        Wakes::Task => tell_call(tell_task(line, waiter), waiter),
        Wakes::Poll => {
            tell_call(tell_task(line, waiter), waiter).hex("events", state.events as usize)
        }
        Wakes::Request => tell_task(line, waiter)
            .hex("events", state.events as usize)
            .id("ring", state.object())
            .number("opcode", state.opcode.into())
            .hex("user_data", state.user_data as usize),
        Wakes::Relay => line
            .id("relay", state.object())
            .number("relay_inode", state.inode),
        Wakes::Epoll | Wakes::Other => line,
    }
    .end()
}

fn tell_task<'t>(line: Line<'t>, waiter: &Waiter) -> Line<'t> {
    line.signed("pid", waiter.state.pid.into())
        .signed("tid", waiter.state.tid.into())
        .string("comm", waiter.comm.bytes())
}

fn tell_call<'t>(line: Line<'t>, waiter: &Waiter) -> Line<'t> {
    line.flag("worker", waiter.state.worker != 0)
        .signed("syscall", waiter.state.syscall.into())
        .flag("i386", waiter.state.i386 != 0)
}
