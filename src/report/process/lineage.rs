// SPDX-License-Identifier: GPL-2.0

//! The report `lineage`: the processes above and below a process, and what each still shares with
//! it.

#![deny(unsafe_code)]

use crate::object::{
    net::socket::{FileToken, Files},
    process::lineage::{Middle, Relative, Role, Thread},
    process::{pause, Process},
};
use crate::records::{
    common::{ProcessState, Relation, ReportName},
    process::{self, LineageSummary, Namespaces},
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
                    let record = process::Thread {
                        tid: thread.tid.into(),
                        comm: thread.comm.into(),
                    };
                    text.put(&record, &[])?;
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
            let record = process::Shared {
                pid: relative.process.nr().into(),
                fds: shared.fds.into(),
                files: shared.files.into(),
                sockets: shared.sockets.into(),
                cut: shared.cut.into(),
            };
            text.put(&record, &[])?;
        }
        Ok(())
    }

    fn summary(&self, text: &mut Text) -> Result {
        let totals = &self.totals;
        let record = LineageSummary {
            report: ReportName::LINEAGE,
            ancestors: totals.ancestors.into(),
            descendants: totals.descendants.into(),
            others: totals.others.into(),
            threads: totals.threads.into(),
            fds: self.known.len().into(),
            moved: totals.moved.into(),
            cut: totals.cut.into(),
        };
        text.put(&record, &[])
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
    let (role, generation) = match relative.role {
        Role::Itself => (Relation::ITSELF, 0),
        Role::Ancestor(generation) => (Relation::ANCESTOR, generation),
        Role::Descendant(generation) => (Relation::DESCENDANT, generation),
        Role::Other => (Relation::OTHER, 0),
    };
    let state = &relative.state;
    let common = &relative.common;
    let record = process::Process {
        pid: state.pid.into(),
        role,
        generation: generation.into(),
        comm: relative.comm.into(),
        state: match state.exited {
            true => ProcessState::EXITED,
            false => ProcessState::LIVE,
        },
        parent: state.parent.into(),
        tracer: state.tracer.into(),
        ns_pid: state.ns_pid.into(),
        threads: state.threads.into(),
        born_ns: state.born.into(),
        exec: state.exec.into(),
        vfork: state.vfork.into(),
        init: state.init.into(),
        subreaper: state.subreaper.into(),
        same_vm: common.vm.into(),
        same_files: common.files.into(),
        same_fs: common.fs.into(),
    };
    text.put(&record, &[])?;
    let namespaces = &relative.namespaces;
    let record = Namespaces {
        pid: state.pid.into(),
        cgroup_ns: namespaces.cgroup.into(),
        ipc_ns: namespaces.ipc.into(),
        net_ns: namespaces.net.into(),
        pid_ns: namespaces.pid.into(),
        pid_ns_for_children: namespaces.pid_for_children.into(),
        time_ns: namespaces.time.into(),
        time_ns_for_children: namespaces.time_for_children.into(),
        user_ns: namespaces.user.into(),
        uts_ns: namespaces.uts.into(),
    };
    text.put(&record, &[])
}
