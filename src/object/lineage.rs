// SPDX-License-Identifier: GPL-2.0

//! The processes around a process: whose child it is, and whose parent.
//!
//! `tasklist_lock` is out of a module's reach, and with it `children`, a list that RCU does not keep. What
//! RCU does keep is each task's `real_parent` and the table of pids. So descendants are found as /proc finds
//! processes, number by number, by asking each for its parents.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/pid.h`](srctree/include/linux/pid.h)

use super::process::{distance, parent, Comm, Distance, Gone, Process, GENERATIONS};
use crate::bindings;
use core::ptr;
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu},
    task::Task,
};

pub(crate) use crate::bindings::{ravel_namespaces as Namespaces, ravel_task as State};

/// How many pids are looked at in one RCU section.
const SECTION: usize = 256;

/// How often a process is asked again for its parents, when one of them was reaped meanwhile. Its children
/// have then got another one already.
const TRIES: usize = 8;

/// What a process is to the one in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The same.
    Itself,
    /// So many generations above it: 1 is its parent.
    Ancestor(u32),
    /// So many generations below it: 1 is its child.
    Descendant(u32),
    /// Neither: it shares the address space, traces, or is traced.
    Other,
}

/// What two processes have in common as a whole.
#[derive(Clone, Copy, Default)]
pub(crate) struct Common {
    /// The address space (CLONE_VM).
    pub(crate) vm: bool,
    /// The table of descriptors (CLONE_FILES).
    pub(crate) files: bool,
    /// Root, working directory and umask (CLONE_FS).
    pub(crate) fs: bool,
}

/// A process of the tree, as it was in one RCU section: plain values, and the process itself.
pub(crate) struct Relative {
    pub(crate) process: Process,
    pub(crate) role: Role,
    pub(crate) comm: Comm,
    pub(crate) state: State,
    pub(crate) namespaces: Namespaces,
    pub(crate) common: Common,
}

/// A thread of a process.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) tid: i32,
    pub(crate) comm: Comm,
}

/// How a walk over all pids went on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Section {
    /// There are no more pids.
    pub(crate) done: bool,
    /// Processes whose ancestors were reaped each time they were asked for.
    pub(crate) moved: u64,
    /// Processes with so many ancestors that it cannot be told whether the one in the middle is among them.
    pub(crate) far: u64,
}

/// The process in the middle.
pub(crate) struct Middle {
    leader: ARef<Task>,
    /// One that still has memory and files.
    thread: ARef<Task>,
}

impl Middle {
    /// The process as it is now.
    pub(crate) fn of(process: &Process) -> Result<Self, Gone> {
        Ok(Self {
            leader: process.leader().ok_or(Gone::Exited)?,
            thread: process.user_thread()?,
        })
    }

    /// Itself; none once it was reaped.
    pub(crate) fn itself(&self) -> Option<Relative> {
        self.relative(self.leader.as_ptr(), Role::Itself, &rcu::read_lock())
    }

    /// Some of its threads, as many as there is room for, and how many more there are.
    pub(crate) fn threads(&self, out: &mut KVVec<Thread>) -> u64 {
        let _rcu = rcu::read_lock();
        let mut more = 0;
        let mut thread = ptr::null_mut();
        loop {
            // SAFETY: The main thread is a reference, and RCU keeps the list of threads.
            thread = unsafe { bindings::ravel_next_thread(self.leader.as_ptr(), thread) };
            if thread.is_null() {
                return more;
            }
            // SAFETY: RCU keeps the thread.
            let (tid, comm) = unsafe { ((*thread).pid, Comm::of(thread)) };
            if out.push_within_capacity(Thread { tid, comm }).is_err() {
                more += 1;
            }
        }
    }

    /// Its ancestors from its parent up, as many as there is room for, and how many more there are. None: one
    /// of them was reaped meanwhile, each time.
    pub(crate) fn ancestors(&self, out: &mut KVVec<Relative>) -> Option<u64> {
        (0..TRIES).find_map(|_| {
            out.clear();
            let rcu = rcu::read_lock();
            let mut task = self.leader.as_ptr();
            let mut more = 0;
            for generation in 1..=GENERATIONS {
                let above = parent(task, &rcu)?;
                // The first task of all, which no pid names, is its own parent.
                if above == task || above == parent(above, &rcu)? {
                    return Some(more);
                }
                task = above;
                if out.len() == out.capacity() {
                    more += 1;
                    continue;
                }
                let relative = self.relative(task, Role::Ancestor(generation), &rcu)?;
                out.push_within_capacity(relative).ok()?;
            }
            Some(more)
        })
    }

    /// Looks at the next few pids from `next` on: those of its descendants, and of others that have to do
    /// with it, go to `out`, until there is no more room.
    pub(crate) fn section(&self, next: &mut i32, out: &mut KVVec<Relative>) -> Section {
        let rcu = rcu::read_lock();
        let mut section = Section::default();
        let initial = &raw mut bindings::init_pid_ns;
        for _ in 0..SECTION {
            if out.len() == out.capacity() {
                return section;
            }
            // SAFETY: RCU is held, which the lookup asks for, and the initial namespace never freed.
            let pid = unsafe { bindings::find_ge_pid(*next, initial) };
            if pid.is_null() {
                section.done = true;
                return section;
            }
            // SAFETY: RCU keeps the pid, and the task.
            let task = unsafe {
                *next = bindings::pid_nr_ns(pid, initial) + 1;
                bindings::pid_task(pid, bindings::pid_type_PIDTYPE_TGID)
            };
            if task.is_null() {
                continue;
            }
            match self.role(task, &rcu) {
                Ok(Some(role)) => {
                    if let Some(relative) = self.relative(task, role, &rcu) {
                        let _ = out.push_within_capacity(relative);
                    }
                }
                Ok(None) => {}
                Err(Distance::Far) => section.far += 1,
                Err(_) => section.moved += 1,
            }
        }
        section
    }

    /// What a process is to this one that is neither itself nor an ancestor; none if nothing.
    fn role(
        &self,
        task: *mut bindings::task_struct,
        rcu: &rcu::Guard,
    ) -> Result<Option<Role>, Distance> {
        let me = self.leader.as_ptr();
        let ask = |from, to| {
            let mut last = Distance::Lost;
            for _ in 0..TRIES {
                last = distance(from, to, rcu);
                if last != Distance::Lost {
                    break;
                }
            }
            last
        };
        match ask(task, me) {
            Distance::Below(0) => return Ok(None),
            Distance::Below(generation) => return Ok(Some(Role::Descendant(generation))),
            Distance::Apart => {}
            // SAFETY: RCU keeps the task.
            Distance::Lost if !unsafe { bindings::ravel_pid_alive(task) } => return Ok(None),
            unknown => return Err(unknown),
        }
        let mut them = State::default();
        let mut us = State::default();
        // SAFETY: Both are kept, by RCU and by a reference; what is stale of one that was just reaped is
        // a number.
        unsafe {
            if !bindings::ravel_pid_alive(task) || !bindings::ravel_pid_alive(me) {
                return Ok(None);
            }
            bindings::ravel_task_snapshot(task, &mut them);
            bindings::ravel_task_snapshot(me, &mut us);
        }
        if !self.common(task, rcu).vm && us.tracer != them.pid && them.tracer != us.pid {
            return Ok(None);
        }
        match ask(me, task) {
            // An ancestor is told as that.
            Distance::Below(_) => Ok(None),
            _ => Ok(Some(Role::Other)),
        }
    }

    /// What there is to tell of a process, which RCU or a reference keeps; none if it was reaped.
    fn relative(
        &self,
        task: *mut bindings::task_struct,
        role: Role,
        rcu: &rcu::Guard,
    ) -> Option<Relative> {
        let mut state = State::default();
        let mut namespaces = Namespaces::default();
        // SAFETY: The task is kept by the caller, and what it points to by RCU, since it was alive under it.
        unsafe {
            if !bindings::ravel_pid_alive(task) {
                return None;
            }
            let pid = ptr::read_volatile(&raw const (*task).thread_pid);
            if pid.is_null() {
                return None;
            }
            bindings::ravel_task_snapshot(task, &mut state);
            bindings::ravel_task_namespaces(bindings::ravel_running_thread(task), &mut namespaces);
            Some(Relative {
                process: Process::of(pid)?,
                role,
                comm: Comm::of(task),
                state,
                namespaces,
                common: self.common(task, rcu),
            })
        }
    }

    /// What this process and another have in common. RCU or a reference keeps the other.
    fn common(&self, task: *mut bindings::task_struct, _rcu: &rcu::Guard) -> Common {
        let me = self.thread.as_ptr();
        // SAFETY: The task is kept, and its threads are by RCU.
        let other = unsafe { bindings::ravel_running_thread(task) };
        /// Whether both fields hold the same pointer at one moment: ours does so before and after theirs is
        /// read, and so belongs to a living object all the while.
        macro_rules! same {
            ($field:ident) => {{
                // SAFETY: Both tasks are kept. The pointers are compared only.
                unsafe {
                    let ours = ptr::read_volatile(&raw const (*me).$field);
                    let theirs = ptr::read_volatile(&raw const (*other).$field);
                    !ours.is_null()
                        && ours == theirs
                        && ours == ptr::read_volatile(&raw const (*me).$field)
                }
            }};
        }
        Common {
            vm: same!(mm),
            files: same!(files),
            fs: same!(fs),
        }
    }
}
