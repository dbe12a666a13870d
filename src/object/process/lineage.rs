// SPDX-License-Identifier: GPL-2.0

//! The processes around a process: whose child it is, and whose parent.
//!
//! `tasklist_lock` is out of a module's reach, and with it `children`, a list that RCU does not
//! keep. What RCU does keep is each task's `real_parent` and the table of pids. So descendants are
//! found as /proc finds processes, number by number, by asking each for its parents.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/pid.h`](srctree/include/linux/pid.h)

use crate::bindings;
use crate::object::process::{distance, task::RcuTask, Comm, Distance, Gone, Process, GENERATIONS};
use crate::object::sync::read_once;
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu},
    task::Task,
};

/// A process, by its main thread. Pids are those of the initial namespace, 0 for none.
#[derive(Clone, Copy, Default)]
pub(crate) struct State {
    /// When it was born, in nanoseconds since boot.
    pub(crate) born: u64,
    pub(crate) pid: i32,
    /// Its pid in its own pid namespace.
    pub(crate) ns_pid: i32,
    /// The process of `real_parent`.
    pub(crate) parent: i32,
    /// The process that traces the main thread.
    pub(crate) tracer: i32,
    pub(crate) threads: u32,
    /// No thread runs any more.
    pub(crate) exited: bool,
    /// It has gone through exec() since it was forked.
    pub(crate) exec: bool,
    /// Its parent waits until it exits or goes through exec().
    pub(crate) vfork: bool,
    /// Orphans of its pid namespace go to it.
    pub(crate) init: bool,
    /// Orphans among its descendants go to it.
    pub(crate) subreaper: bool,
}

/// Inode numbers, as in /proc/PID/ns; 0: it has given that up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Namespaces {
    pub(crate) cgroup: u32,
    pub(crate) ipc: u32,
    pub(crate) net: u32,
    pub(crate) pid: u32,
    pub(crate) pid_for_children: u32,
    pub(crate) time: u32,
    pub(crate) time_for_children: u32,
    pub(crate) user: u32,
    pub(crate) uts: u32,
}

/// How many pids are looked at in one RCU section.
const SECTION: usize = 256;

/// How often a process is asked again for its parents, when one of them was reaped meanwhile. Its
/// children have then got another one already.
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
    /// Processes with so many ancestors that it is not known whether the one in the middle is among
    /// them.
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
        let rcu = rcu::read_lock();
        self.relative(RcuTask::of(&self.leader, &rcu), Role::Itself, &rcu)
    }

    /// Some of its threads, as many as there is room for, and how many more there are.
    pub(crate) fn threads(&self, out: &mut KVVec<Thread>) -> u64 {
        let rcu = rcu::read_lock();
        let mut more = 0_u64;
        for thread in RcuTask::of(&self.leader, &rcu).threads() {
            let thread = Thread {
                tid: thread.tid(),
                comm: thread.comm(),
            };
            if out.push_within_capacity(thread).is_err() {
                more = more.saturating_add(1);
            }
        }
        more
    }

    /// Its ancestors from its parent up, as many as there is room for, and how many more there are.
    /// None: one of them was reaped meanwhile, each time.
    pub(crate) fn ancestors(&self, out: &mut KVVec<Relative>) -> Option<u64> {
        (0..TRIES).find_map(|_| {
            out.clear();
            let rcu = rcu::read_lock();
            let mut task = RcuTask::of(&self.leader, &rcu);
            let mut more = 0_u64;
            for generation in 1..=GENERATIONS {
                let above = task.parent()?;
                // The first task of all, which no pid names, is its own parent.
                if above == task || above == above.parent()? {
                    return Some(more);
                }
                task = above;
                if out.len() == out.capacity() {
                    more = more.saturating_add(1);
                    continue;
                }
                let relative = self.relative(task, Role::Ancestor(generation), &rcu)?;
                out.push_within_capacity(relative).ok()?;
            }
            Some(more)
        })
    }

    /// Looks at the next few pids from `next` on: those of its descendants, and of others that have
    /// to do with it, go to `out`, until there is no more room.
    pub(crate) fn section(&self, next: &mut i32, out: &mut KVVec<Relative>) -> Section {
        let rcu = rcu::read_lock();
        let mut section = Section::default();
        let initial = &raw mut bindings::init_pid_ns;
        for _ in 0..SECTION {
            if out.len() == out.capacity() {
                return section;
            }
            // SAFETY: RCU is held, which the lookup asks for, and the initial namespace never
            // freed.
            let pid = unsafe { bindings::find_ge_pid(*next, initial) };
            if pid.is_null() {
                section.done = true;
                return section;
            }
            // SAFETY: RCU keeps the pid.
            let task = unsafe {
                *next = bindings::pid_nr_ns(pid, initial).saturating_add(1);
                RcuTask::of_pid(pid, bindings::pid_type_PIDTYPE_TGID, &rcu)
            };
            let Some(task) = task else {
                continue;
            };
            match self.role(task, &rcu) {
                Ok(Some(role)) => {
                    if let Some(relative) = self.relative(task, role, &rcu) {
                        let _ = out.push_within_capacity(relative);
                    }
                }
                Ok(None) => {}
                Err(Distance::Far) => section.far = section.far.saturating_add(1),
                Err(_) => section.moved = section.moved.saturating_add(1),
            }
        }
        section
    }

    /// What a process is to this one that is neither itself nor an ancestor; none if nothing.
    fn role(&self, task: RcuTask<'_>, rcu: &rcu::Guard) -> Result<Option<Role>, Distance> {
        let me = RcuTask::of(&self.leader, rcu);
        let ask = |from, to| {
            let mut last = Distance::Lost;
            for _ in 0..TRIES {
                last = distance(from, to);
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
            Distance::Lost if !task.is_alive() => return Ok(None),
            unknown => return Err(unknown),
        }
        let traces = |one: RcuTask<'_>, other: RcuTask<'_>| {
            let tracer = other.tracer();
            tracer.is_some_and(|tracer| tracer.process() == one.process())
        };
        if !task.is_alive() || !me.is_alive() {
            return Ok(None);
        }
        if !self.common(task, rcu).vm && !traces(task, me) && !traces(me, task) {
            return Ok(None);
        }
        match ask(me, task) {
            // An ancestor is emitted as that.
            Distance::Below(_) => Ok(None),
            _ => Ok(Some(Role::Other)),
        }
    }

    /// What is reported of a process; none if it was reaped.
    fn relative(&self, task: RcuTask<'_>, role: Role, rcu: &rcu::Guard) -> Option<Relative> {
        let pid = task.thread_pid()?;
        let running = task.running_thread().unwrap_or(task);
        Some(Relative {
            // SAFETY: RCU keeps the pid of a task that it keeps, and that was alive under it.
            process: unsafe { Process::of(pid.as_ptr()) }?,
            role,
            comm: task.comm(),
            state: State::of(task)?,
            namespaces: Namespaces::of(running),
            common: self.common(task, rcu),
        })
    }

    /// What this process and another have in common.
    fn common(&self, task: RcuTask<'_>, _rcu: &rcu::Guard) -> Common {
        let me = self.thread.as_ptr();
        let other = task.running_thread().unwrap_or(task).as_ptr();
        /// Whether both fields hold the same pointer at one moment: ours does so before and after
        /// theirs is read, and so belongs to a living object all the while.
        macro_rules! same {
            ($field:ident) => {{
                // SAFETY: Both tasks are kept, by a reference and by RCU. The pointers are compared
                // only.
                unsafe {
                    let ours = read_once!((*me).$field);
                    let theirs = read_once!((*other).$field);
                    !ours.is_null() && ours == theirs && ours == read_once!((*me).$field)
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

impl State {
    /// Reads it from the main thread; none if that was released.
    fn of(leader: RcuTask<'_>) -> Option<Self> {
        let pid = leader.thread_pid()?;
        let signal = leader.process();
        // SAFETY: RCU keeps the pid of a task that was alive under it; the task keeps its
        // signal_struct.
        let (ns_pid, threads, subreaper) = unsafe {
            (
                bindings::pid_nr_ns(pid.as_ptr(), bindings::ns_of_pid(pid.as_ptr())),
                read_once!((*signal).nr_threads),
                bindings::is_child_subreaper(signal),
            )
        };
        let tgid = |task: Option<RcuTask<'_>>| task.map_or(0, |task| task.tgid());
        Some(Self {
            born: leader.born(),
            pid: leader.tgid(),
            ns_pid,
            parent: tgid(leader.parent()),
            tracer: tgid(leader.tracer()),
            threads: threads as u32,
            exited: leader.running_thread().is_none(),
            exec: leader.has_execed(),
            vfork: leader.is_vforked(),
            // As is_child_reaper().
            init: ns_pid == 1,
            subreaper,
        })
    }
}

impl Namespaces {
    /// Reads those of a thread.
    fn of(thread: RcuTask<'_>) -> Self {
        /// Its number; 0 for those that the kernel was built without, or that the task has given
        /// up.
        macro_rules! inum {
            ($inum:ident, $space:expr) => {{
                let space = $space;
                if space.is_null() {
                    0
                } else {
                    bindings::$inum(space)
                }
            }};
        }
        let task = thread.as_ptr();
        let mut out = Self::default();
        // SAFETY: RCU keeps the task, its credentials, its pid and so its pid namespace. A user
        // namespace is kept by the credentials, and the others by the nsproxy, which its task
        // changes under task_lock() (`alloc_lock`).
        unsafe {
            out.pid = inum!(pid_ns_inum, bindings::task_active_pid_ns(task));
            out.user = inum!(user_ns_inum, (*read_once!((*task).real_cred)).user_ns);
            bindings::spin_lock(&raw mut (*task).alloc_lock);
            let proxy = (*task).nsproxy;
            if !proxy.is_null() {
                out.cgroup = inum!(cgroup_ns_inum, (*proxy).cgroup_ns);
                out.ipc = inum!(ipc_ns_inum, (*proxy).ipc_ns);
                out.net = inum!(net_ns_inum, (*proxy).net_ns);
                out.pid_for_children = inum!(pid_ns_inum, (*proxy).pid_ns_for_children);
                out.time = inum!(time_ns_inum, (*proxy).time_ns);
                out.time_for_children = inum!(time_ns_inum, (*proxy).time_ns_for_children);
                out.uts = inum!(uts_ns_inum, (*proxy).uts_ns);
            }
            bindings::spin_unlock(&raw mut (*task).alloc_lock);
        }
        out
    }
}
