// SPDX-License-Identifier: GPL-2.0

//! Probes of processes: fork, exec, exit. What an event has of the process that is current.
//!
//! Whose event it is, is decided by the current process alone. C header:
//! [`include/trace/events/sched.h`](srctree/include/trace/events/sched.h)

use crate::object::trace::event::{kind, FILE_MAX};
use crate::{
    arch::{current_task, PreemptOff},
    bindings,
    object::{
        process::{pids::Pids, Process},
        sync::read_once,
        trace::{
            event::{Event, Lineage, Who},
            sink::Sink,
        },
    },
};
use core::{ffi::c_void, ptr};
use kernel::{ffi::c_int, sync::rcu};

/// How many generations are climbed at most.
const GENERATIONS: u32 = 1024;

/// Returns the group leader of a task's parent; none at the line's end, or where it is cut.
///
/// # Safety
///
/// RCU is held, and `task` kept by it or by a reference.
unsafe fn parent_of(task: *mut bindings::task_struct) -> Option<*mut bindings::task_struct> {
    // SAFETY: `task` is kept. Where it has a pid in this RCU section, its parent was not stale
    // then, and can only have been released since, and not freed. The same goes for the parent's
    // group leader.
    unsafe {
        if read_once!((*task).thread_pid).is_null() {
            return None;
        }
        let parent = read_once!((*task).real_parent);
        let leader = read_once!((*parent).group_leader);
        (leader != task).then_some(leader)
    }
}

/// Returns the process that is current.
pub(in crate::object) fn who() -> Who {
    let task = current_task();
    // RCU keeps the leader, which exec() may replace.
    let _rcu = PreemptOff::new();
    // SAFETY: The current task is there, and RCU keeps its leader. Another thread may rename itself
    // at any time; the last byte is always 0.
    unsafe {
        let leader = read_once!((*task).group_leader);
        Who {
            born: (*leader).start_boottime,
            pid: (*task).tgid as u32,
            tid: (*task).pid as u32,
            comm: (&raw const (*leader).comm).cast::<[u8; 16]>().read(),
        }
    }
}

/// Returns an event of the process that is current, whose other fields are 0.
pub(in crate::object) fn event(kind: u32) -> Event {
    let mut event = Event::new(kind);
    *event.who_mut() = who();
    event
}

/// The same, with its parents.
fn event_with_line(kind: u32) -> Event {
    let mut event = event(kind);
    let Lineage { line, lines, .. } = event.lineage_mut();
    let _rcu = PreemptOff::new();
    let mut task = current_task();
    for place in line {
        // SAFETY: The current task is there, and RCU keeps the others.
        let (parent, tgid) = match unsafe { parent_of(task) } {
            // SAFETY: RCU keeps it.
            Some(parent) => (parent, unsafe { (*parent).tgid }),
            None => break,
        };
        if tgid == 0 {
            break;
        }
        *place = tgid as u32;
        *lines = lines.wrapping_add(1);
        task = parent;
    }
    event
}

/// Returns whether the current process is in the cgroup whose events the sink receives.
fn in_cgroup(sink: &Sink) -> bool {
    let cgroup = sink.net_filter().cgroup_ptr();
    if cgroup.is_null() {
        return true;
    }
    let _rcu = rcu::read_lock();
    // SAFETY: RCU keeps the current task's cgroup, and the filter its own.
    unsafe { bindings::cgroup_is_descendant(bindings::task_dfl_cgroup(current_task()), cgroup) }
}

fn is_wanted(sink: &Sink, kind: u32) -> bool {
    // SAFETY: The current task is there, and its tgid does not change.
    let pid = unsafe { (*current_task()).tgid };
    sink.wants(kind, pid as u32) && in_cgroup(sink)
}

/// # Safety
///
/// Called by the tracepoint, with the sink that was registered. `parent` is current, and the child
/// not yet awake.
pub(super) unsafe extern "C" fn fork(
    sink: *mut c_void,
    parent: *mut bindings::task_struct,
    child: *mut bindings::task_struct,
) {
    // SAFETY: Probes are unregistered, and waited for, before their sink goes. The tracepoint's
    // caller keeps the tasks, whose numbers no longer change.
    let (sink, parent, pid, born) = unsafe {
        (
            &*sink.cast::<Sink>(),
            (*parent).tgid,
            (*child).tgid,
            (*child).start_boottime,
        )
    };
    if pid == parent || !sink.forked(parent as u32, pid as u32) || !in_cgroup(sink) {
        return;
    }
    let mut event = event_with_line(kind::FORK);
    let lineage = event.lineage_mut();
    lineage.child = pid as u32;
    lineage.child_born = born;
    sink.push(&event);
}

/// # Safety
///
/// Called by the tracepoint, with the sink that was registered. The task is current.
pub(super) unsafe extern "C" fn exec(
    sink: *mut c_void,
    _task: *mut bindings::task_struct,
    _old_pid: c_int,
    program: *mut bindings::linux_binprm,
) {
    // SAFETY: As in fork().
    let sink = unsafe { &*sink.cast::<Sink>() };
    if !is_wanted(sink, kind::EXEC) {
        return;
    }
    let mut event = event_with_line(kind::EXEC);
    let lineage = event.lineage_mut();
    // SAFETY: execve() keeps the name, which ends with 0.
    let name = unsafe { (*program).filename }.cast::<u8>();
    let mut len = 0;
    loop {
        // SAFETY: None of the bytes before is the 0 at its end.
        let byte = unsafe { *name.add(len) };
        // The last place is for the 0.
        match lineage.file.get_mut(len) {
            _ if byte == 0 => break,
            Some(place) if len < FILE_MAX - 1 => *place = byte,
            _ => {
                lineage.file_cut = 1;
                break;
            }
        }
        len = len.saturating_add(1);
    }
    sink.push(&event);
}

/// # Safety
///
/// Called by the tracepoint, with the sink that was registered. The task is current.
pub(super) unsafe extern "C" fn exit(
    sink: *mut c_void,
    task: *mut bindings::task_struct,
    group_dead: bool,
) {
    // SAFETY: As in fork().
    let sink = unsafe { &*sink.cast::<Sink>() };
    // It is the process' last thread that ends.
    if !group_dead || !is_wanted(sink, kind::EXIT) {
        return;
    }
    let mut event = event_with_line(kind::EXIT);
    // The status that wait() will give.
    // SAFETY: The task is current, and so its signal_struct and its leader are there.
    let status = unsafe {
        let signal = (*task).signal;
        if read_once!((*signal).flags) & bindings::SIGNAL_GROUP_EXIT != 0 {
            read_once!((*signal).group_exit_code)
        } else {
            (*read_once!((*task).group_leader)).exit_code
        }
    };
    event.lineage_mut().status = status as u32;
    sink.push(&event);
}

/// Puts the processes that descend from `root` now into a set.
pub(super) fn mark_descendants(root: &Process, pids: &Pids) {
    let Some(root) = root.leader() else {
        return;
    };
    // SAFETY: The reference keeps the task, whose `signal` is set once.
    let signal = unsafe { (*root.as_ptr()).signal };
    let _rcu = rcu::read_lock();
    let first = &raw mut bindings::init_task;
    let mut process = first;
    loop {
        // SAFETY: RCU keeps the list of processes: this one, and the one behind it.
        process = unsafe {
            let next = read_once!((*process).tasks.next);
            next.byte_sub(core::mem::offset_of!(bindings::task_struct, tasks))
                .cast()
        };
        if ptr::eq(process, first) {
            return;
        }
        // SAFETY: RCU keeps it.
        if unsafe { descends(process, signal) } {
            // SAFETY: RCU keeps it, and its number stays.
            pids.set(unsafe { (*process).tgid } as u32, true);
        }
    }
}

/// Returns whether a task is one of the process that has this `signal_struct`, or descends from it.
///
/// # Safety
///
/// RCU is held, and keeps `task`.
unsafe fn descends(
    task: *mut bindings::task_struct,
    signal: *const bindings::signal_struct,
) -> bool {
    let mut next = Some(task);
    for _ in 0..GENERATIONS {
        let Some(task) = next else {
            return false;
        };
        // SAFETY: RCU keeps it.
        unsafe {
            if ptr::eq((*task).signal, signal) {
                return true;
            }
            next = parent_of(task);
        }
    }
    false
}
