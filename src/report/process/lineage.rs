// SPDX-License-Identifier: GPL-2.0

//! The report `lineage`: the processes above and below a process, and what each still shares with
//! it.

#![deny(unsafe_code)]

use crate::object::{
    net::socket::{FileToken, Files},
    process::lineage::{Middle, Relative, Role, Thread},
    process::{pause, Process},
};
use crate::report::{gfp, text::Text, Fault, Step};
use kernel::prelude::*;

/// How many threads are emitted.
const MAX_THREADS: usize = 1024;

/// How many generations above the process are emitted.
const MAX_ANCESTORS: usize = 64;

/// How many descriptors of one process are looked at.
const MAX_FDS: usize = 16384;

/// How many processes a chunk emits.
const CHUNK_PROCESSES: usize = 64;

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
    Itself,
    Ancestors,
    Pids,
}

/// An open file of the process in the middle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    file: FileToken,
    fd: u32,
}

/// What a process' descriptors have in common with those of the one in the middle.
#[derive(Default)]
struct Shared {
    fds: u64,
    files: u64,
    sockets: u64,
    cut: u64,
}

#[derive(Default)]
struct Totals {
    ancestors: u64,
    descendants: u64,
    others: u64,
    threads: u64,
    moved: u64,
    cut: u64,
}

/// The report under way.
pub(crate) struct Walk {
    stage: Stage,
    next: i32,
    /// The open files of the process, by the file.
    known: KVVec<Known>,
    relatives: KVVec<Relative>,
    threads: KVVec<Thread>,
    totals: Totals,
}

impl Walk {
    /// Begins with the files that the process has now.
    pub(crate) fn new(process: &Process) -> Result<Self, Fault> {
        Middle::of(process)?;
        let mut walk = Self {
            stage: Stage::Itself,
            next: 1,
            known: KVVec::new(),
            relatives: KVVec::with_capacity(CHUNK_PROCESSES, gfp())?,
            threads: KVVec::with_capacity(MAX_THREADS, gfp())?,
            totals: Totals::default(),
        };
        walk.know(process)?;
        Ok(walk)
    }

    /// Learns which files the process has open.
    fn know(&mut self, process: &Process) -> Result<(), Fault> {
        let mut files = Files::of(process)?;
        let mut next = 0;
        loop {
            pause()?;
            let Some((fd, file)) = files.next(next) else {
                if files.are_stale() {
                    files = Files::of(process)?;
                    continue;
                }
                break;
            };
            next = fd + 1;
            if self.known.len() == MAX_FDS {
                self.totals.cut += 1;
                continue;
            }
            let file = file.token();
            self.known.push(Known { file, fd }, gfp())?;
        }
        sort(&mut self.known);
        Ok(())
    }

    /// Emits the process, its ancestors, or the next few others.
    #[inline(never)]
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        pause()?;
        let middle = Middle::of(process)?;
        self.relatives.clear();
        match self.stage {
            Stage::Itself => {
                let itself = middle.itself().ok_or(Fault::EXITED)?;
                self.threads.clear();
                self.totals.cut += middle.threads(&mut self.threads);
                emit(&itself, text)?;
                self.totals.threads = self.threads.len() as u64;
                for thread in self.threads.iter() {
                    text.record("thread")
                        .signed("tid", thread.tid.into())
                        .string("comm", thread.comm.bytes())
                        .end()?;
                }
                self.stage = Stage::Ancestors;
                Ok(Step::More)
            }
            Stage::Ancestors => {
                const { assert!(MAX_ANCESTORS <= CHUNK_PROCESSES) };
                match middle.ancestors(&mut self.relatives) {
                    Some(more) => self.totals.cut += more,
                    None => self.totals.moved += 1,
                }
                self.stage = Stage::Pids;
                self.emit_relatives(process, text)?;
                Ok(Step::More)
            }
            Stage::Pids => {
                let section = middle.section(&mut self.next, &mut self.relatives);
                self.totals.moved += section.moved;
                self.totals.cut += section.far;
                self.emit_relatives(process, text)?;
                if !section.done {
                    return Ok(Step::More);
                }
                self.summary(text)?;
                Ok(Step::Done)
            }
        }
    }

    fn emit_relatives(&mut self, process: &Process, text: &mut Text) -> Result<(), Fault> {
        for relative in self.relatives.iter() {
            let totals = &mut self.totals;
            emit(relative, text)?;
            match relative.role {
                Role::Itself => {}
                Role::Ancestor(_) => totals.ancestors += 1,
                Role::Descendant(_) => totals.descendants += 1,
                Role::Other => totals.others += 1,
            }
            if matches!(relative.role, Role::Ancestor(2..)) {
                continue;
            }
            let Some(shared) = compare(&self.known, process, &relative.process)? else {
                continue;
            };
            totals.cut += shared.cut;
            text.record("shared")
                .signed("pid", relative.process.nr().into())
                .number("fds", shared.fds)
                .number("files", shared.files)
                .number("sockets", shared.sockets)
                .number("cut", shared.cut)
                .end()?;
        }
        Ok(())
    }

    fn summary(&self, text: &mut Text) -> Result {
        let totals = &self.totals;
        text.record("summary")
            .word("report", b"lineage")
            .number("ancestors", totals.ancestors)
            .number("descendants", totals.descendants)
            .number("others", totals.others)
            .number("threads", totals.threads)
            .number("fds", self.known.len() as u64)
            .number("moved", totals.moved)
            .number("cut", totals.cut)
            .end()
    }
}

/// Heap sort. The sorts of `core` can panic, of an order that is none, in a way that objtool warns
/// of.
fn sort(known: &mut [Known]) {
    let sift = |known: &mut [Known], mut at: usize| loop {
        let mut child = 2 * at + 1;
        if child + 1 < known.len() && known[child] < known[child + 1] {
            child += 1;
        }
        if child >= known.len() || known[at] >= known[child] {
            break;
        }
        known.swap(at, child);
        at = child;
    };
    for at in (0..known.len() / 2).rev() {
        sift(known, at);
    }
    for end in (1..known.len()).rev() {
        known.swap(0, end);
        sift(&mut known[..end], 0);
    }
}

/// Counts the descriptors of `other` whose open file `middle` has open, too. None: it has exited,
/// or has no files.
///
/// A file is the same if `middle` has it at a descriptor where it was, while `other`'s reference is
/// held.
fn compare(known: &[Known], middle: &Process, other: &Process) -> Result<Option<Shared>, Fault> {
    let Ok(mut files) = Files::of(other) else {
        return Ok(None);
    };
    let mut ours = Files::of(middle)?;
    let mut shared = Shared::default();
    let mut next = 0;
    loop {
        pause()?;
        let Some((fd, file)) = files.next(next) else {
            if !files.are_stale() {
                return Ok(Some(shared));
            }
            match Files::of(other) {
                Ok(again) => files = again,
                Err(_) => return Ok(None),
            }
            continue;
        };
        next = fd + 1;
        if shared.fds == MAX_FDS as u64 {
            shared.cut += 1;
            continue;
        }
        shared.fds += 1;
        let token = file.token();
        let first = known.partition_point(|known| known.file < token);
        let same = known[first..]
            .iter()
            .take_while(|known| known.file == token);
        let found = loop {
            let found = same.clone().any(|known| {
                let now = ours.next(known.fd);
                now.is_some_and(|(fd, file)| fd == known.fd && file.token() == token)
            });
            if found || !ours.are_stale() {
                break found;
            }
            ours = Files::of(middle)?;
        };
        if found {
            shared.files += 1;
            shared.sockets += u64::from(file.socket().is_some());
        }
    }
}

/// Emits a process and its namespaces.
fn emit(relative: &Relative, text: &mut Text) -> Result {
    let (role, generation): (&[u8], u32) = match relative.role {
        Role::Itself => (b"self", 0),
        Role::Ancestor(generation) => (b"ancestor", generation),
        Role::Descendant(generation) => (b"descendant", generation),
        Role::Other => (b"other", 0),
    };
    let state = &relative.state;
    let common = &relative.common;
    let word: &[u8] = if state.exited { b"exited" } else { b"live" };
    text.record("process")
        .signed("pid", state.pid.into())
        .word("role", role)
        .number("generation", generation.into())
        .string("comm", relative.comm.bytes())
        .word("state", word)
        .signed("parent", state.parent.into())
        .signed("tracer", state.tracer.into())
        .signed("ns_pid", state.ns_pid.into())
        .number("threads", state.threads.into())
        .number("born_ns", state.born)
        .flag("exec", state.exec)
        .flag("vfork", state.vfork)
        .flag("init", state.init)
        .flag("subreaper", state.subreaper)
        .flag("same_vm", common.vm)
        .flag("same_files", common.files)
        .flag("same_fs", common.fs)
        .end()?;
    let namespaces = &relative.namespaces;
    text.record("namespaces")
        .signed("pid", state.pid.into())
        .number("cgroup_ns", namespaces.cgroup.into())
        .number("ipc_ns", namespaces.ipc.into())
        .number("net_ns", namespaces.net.into())
        .number("pid_ns", namespaces.pid.into())
        .number("pid_ns_for_children", namespaces.pid_for_children.into())
        .number("time_ns", namespaces.time.into())
        .number("time_ns_for_children", namespaces.time_for_children.into())
        .number("user_ns", namespaces.user.into())
        .number("uts_ns", namespaces.uts.into())
        .end()
}
