// SPDX-License-Identifier: GPL-2.0
//! Families of every shape, and whether the anon_vmas show them.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use anyhow::{Context, Result};
use ravel_records::{Agreement, Edge, ProcessState, Role, Tree};

use super::{checked, kin, pair, with_role};
use crate::process::{Child, Stage};
use crate::report::tree;
use crate::sys::{self, Forked, Pid};
use crate::{check, check_eq, tests};

tests!("lineage":
    child_shares_what_was_before_the_fork,
    orphan_goes_to_the_subreaper,
    orphan_goes_to_the_init_of_its_namespace,
    traced_by_a_sibling,
    vfork_and_clone_vm,
    clone_parent_makes_a_sibling,
    exec_ends_the_sharing,
    middle_generation_that_exited,
    anon_vma_that_was_taken_over,
    zombie_is_told_as_exited,
    forks_in_a_loop_make_two_to_the_n,
    twenty_processes_of_a_riddle,
);

fn edge(tree: &Tree, pid: Pid) -> Result<&Edge> {
    let edge = tree.edge(pid as u32);
    edge.with_context(|| format!("no edge to {pid}: {tree:#?}"))
}

/// Pages that `with` shares with a process, as its `cow` and /proc/PID/pagemap's frames say.
fn common_frames(one: Pid, other: Pid) -> Result<u64> {
    let mut frames = BTreeMap::new();
    for pid in [one, other] {
        for map in crate::maps::of(pid)? {
            // What a program cannot map privately, and the kernel's own.
            if !map.perms.ends_with('p') || map.name.starts_with(b"[v") {
                continue;
            }
            let entries = crate::pagemap::entries(pid, map.start, map.end)?;
            for entry in entries.iter().filter(|entry| entry.anonymous()) {
                *frames.entry(entry.pfn()).or_insert(0u64) |= 1 << u64::from(pid == one);
            }
        }
    }
    Ok(frames.values().filter(|seen| **seen == 3).count() as u64)
}

fn child_shares_what_was_before_the_fork() -> Result<()> {
    let (mut parent, mut child) = pair(2)?;
    let after = parent.map(3)?;
    parent.write(after)?;
    let own = child.map(5)?;
    child.write(own)?;
    parent.settle()?;
    child.settle()?;
    let want = common_frames(parent.pid, child.pid)?;
    check!(want >= 8, "only {want} common frames");
    for (asked, other) in [(&parent, &child), (&child, &parent)] {
        let tree = tree(asked.pid)?;
        let edge = edge(&tree, other.pid)?;
        check_eq!(edge.agreement, Agreement::Agrees, "{edge:?}");
        check_eq!(edge.pages, want, "pages, asked by {}", asked.pid);
        check!(tree.whole, "not whole");
    }
    Ok(())
}

fn orphan_goes_to_the_subreaper() -> Result<()> {
    let us = sys::getpid();
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    let (parent, mut child) = pair(4)?;
    let orphan = child.fork_lasting()?;
    child.exit()?;
    tests::peers::wait_for("the adoption", || {
        let report = crate::report::lineage(orphan.pid)?;
        Ok(kin(&report, orphan.pid)?.parent as Pid == us)
    })?;
    let report = checked(orphan.pid)?;
    check_eq!(with_role(&report, Role::Ancestor)[0], us, "new parent");
    let reaper = kin(&report, us)?;
    check!(reaper.subreaper && !reaper.init, "{reaper:?}");
    check!(!kin(&report, orphan.pid)?.subreaper, "the orphan is none");
    // It is no descendant of who forked its parent, and yet in its anon_vmas.
    let of_parent = tree(parent.pid)?;
    check!(
        of_parent.edge(orphan.pid as u32).is_none(),
        "{of_parent:#?}"
    );
    check_eq!(of_parent.strays, [orphan.pid as u32], "strays");
    check_eq!(tree(us)?.strays, [0u32; 0], "strays of ours");
    // A number that is not in the same line any more is no anon_vma less.
    let of_orphan = tree(orphan.pid)?;
    check_eq!(edge(&of_orphan, us)?.agreement, Agreement::Agrees, "ours");
    check!(
        of_orphan.left_behind > 0,
        "nothing left behind: {of_orphan:#?}"
    );
    Ok(())
}

fn orphan_goes_to_the_init_of_its_namespace() -> Result<()> {
    let flags = libc::CLONE_NEWPID as u64;
    let mut init = Child::spawn_with(flags, None, |link| {
        let mut middle = Child::spawn(|_| {
            if let Forked::Child = sys::fork()? {
                loop {
                    std::thread::park();
                }
            }
            Ok(())
        })?;
        middle.join()?;
        link.send("orphaned")?;
        link.wait().map(drop)
    })?;
    init.link.recv()?;
    let report = checked(sys::getpid())?;
    let orphans: Vec<_> = report.children(init.pid as u32).collect();
    check_eq!(orphans.len(), 1, "children of the namespace's init");
    check!(kin(&report, init.pid)?.init, "it is no init");
    check_eq!(orphans[0].ns_pid, 3, "number of the orphan");
    let of_orphan = tree(orphans[0].pid as Pid)?;
    check_eq!(
        edge(&of_orphan, init.pid)?.agreement,
        Agreement::Agrees,
        "it descends from who adopted it"
    );
    init.kill()
}

fn traced_by_a_sibling() -> Result<()> {
    let puppet = Stage::new(1)?.start()?;
    let tracee = puppet.pid;
    let mut tracer = Child::spawn(move |link| {
        sys::ptrace_seize(tracee)?;
        link.send("tracing")?;
        link.wait().map(drop)
    })?;
    tracer.link.recv()?;
    let report = checked(tracee)?;
    let itself = kin(&report, tracee)?;
    check_eq!(itself.tracer as Pid, tracer.pid, "tracer");
    check_eq!(itself.parent as Pid, sys::getpid(), "real parent");
    check_eq!(
        with_role(&report, Role::Unrelated),
        [tracer.pid],
        "the tracer, beside it"
    );
    let report = checked(tracer.pid)?;
    check_eq!(report.summary.descendants, 0, "descendants of the tracer");
    check_eq!(with_role(&report, Role::Unrelated), [tracee], "the tracee");
    check_eq!(checked(sys::getpid())?.summary.descendants, 2, "ours");
    tracer.kill()?;
    let report = checked(tracee)?;
    check_eq!(kin(&report, tracee)?.tracer, 0, "tracer, after its end");
    check_eq!(report.summary.others, 0, "others");
    Ok(())
}

fn vfork_and_clone_vm() -> Result<()> {
    for vfork in [false, true] {
        let (mut said, tell) = sys::pipe(false)?;
        let (wait_on, mut go) = sys::pipe(false)?;
        let flags = if vfork { libc::CLONE_VFORK } else { 0 };
        let mut parent = Child::spawn(move |link| {
            use std::os::fd::AsRawFd;
            let pid = sys::clone_vm(flags, wait_on.as_raw_fd(), tell.as_raw_fd())?;
            let _ = sys::wait(pid)?;
            link.wait().map(drop)
        })?;
        let mut bytes = [0; 4];
        said.read_exact(&mut bytes)?;
        let child = Pid::from_ne_bytes(bytes);
        crate::process::wait_state(child, 'S')?;
        let report = checked(parent.pid)?;
        let told = kin(&report, child)?;
        check!(
            told.same_vm && !told.same_files && !told.same_fs,
            "{told:?}"
        );
        check_eq!(told.vfork, vfork, "vfork");
        check!(!kin(&report, parent.pid)?.vfork, "the parent");
        let of_child = tree(child)?;
        let up = edge(&of_child, parent.pid)?;
        check_eq!(up.agreement, Agreement::SameMemory, "{up:?}");
        go.write_all(b"x")?;
        parent.kill()?;
    }
    Ok(())
}

fn clone_parent_makes_a_sibling() -> Result<()> {
    let us = sys::getpid();
    let mut one = Child::spawn(|link| {
        match sys::fork_with(libc::CLONE_PARENT as u64, None)? {
            Forked::Parent(pid) => link.send(&pid.to_string())?,
            Forked::Child => {
                crate::process::die_with(sys::getppid());
                loop {
                    std::thread::park();
                }
            }
        }
        link.wait().map(drop)
    })?;
    let sibling: Pid = one.link.recv()?.parse()?;
    let report = checked(us)?;
    check_eq!(
        (
            kin(&report, sibling)?.parent as Pid,
            report.summary.descendants
        ),
        (us, 2),
        "its parent, and our descendants"
    );
    // It was made from the other's memory: that stands in the anon_vmas alone.
    let of_one = tree(one.pid)?;
    check!(of_one.edge(sibling as u32).is_none(), "no kin: {of_one:#?}");
    check_eq!(of_one.strays, [sibling as u32], "strays");
    let of_sibling = tree(sibling)?;
    check_eq!(edge(&of_sibling, us)?.agreement, Agreement::Agrees, "us");
    sys::kill(sibling, libc::SIGKILL)?;
    let _ = sys::wait(sibling)?;
    one.kill()
}

fn exec_ends_the_sharing() -> Result<()> {
    let (parent, mut child) = pair(4)?;
    child.exec()?;
    let grandchild = child.fork()?;
    let of_parent = tree(parent.pid)?;
    for pid in [child.pid, grandchild.pid] {
        let edge = edge(&of_parent, pid)?;
        check_eq!((edge.anon_vmas, edge.pages), (0, 0), "{edge:?}");
        check_eq!(edge.agreement, Agreement::Exec, "{edge:?}");
        check_eq!(edge.exec as Pid, child.pid, "who went through exec()");
        check!(edge.files > 0, "no descriptor is left: {edge:?}");
    }
    let of_grandchild = tree(grandchild.pid)?;
    let up = edge(&of_grandchild, child.pid)?;
    check_eq!(up.agreement, Agreement::Agrees, "{up:?}");
    let far = edge(&of_grandchild, parent.pid)?;
    check_eq!(far.agreement, Agreement::Exec, "{far:?}");
    check_eq!(far.exec as Pid, child.pid, "who went through exec()");
    // The upper one, after the fork.
    let (mut parent, child) = (child, grandchild);
    parent.exec()?;
    let of_child = tree(child.pid)?;
    let up = edge(&of_child, parent.pid)?;
    check_eq!(up.agreement, Agreement::ExecOrAdopted, "{up:?}");
    checked(parent.pid).map(drop)
}

fn middle_generation_that_exited() -> Result<()> {
    let (mut parent, mut middle) = pair(3)?;
    let written = middle.map(4)?;
    middle.write(written)?;
    let low = middle.fork_lasting()?;
    check_eq!(tree(low.pid)?.left_behind, 0, "left behind, at first");
    let above = tree(low.pid)?.lineage.summary.ancestors;
    let gone = middle.pid;
    middle.exit()?;
    parent.call(&format!("reap {gone}"))?;
    let after = tree(low.pid)?;
    check!(after.left_behind > 0, "nothing left behind: {after:#?}");
    check!(after.lineage.summary.ancestors < above, "as many above");
    check!(after.edge(gone as u32).is_none(), "the dead one is told");
    let of_parent = tree(parent.pid)?;
    check_eq!(of_parent.strays, [low.pid as u32], "strays");
    check_eq!(of_parent.lineage.summary.descendants, 0, "descendants");
    Ok(())
}

fn anon_vma_that_was_taken_over() -> Result<()> {
    let (_parent, mut middle) = pair(5)?;
    let mut low = middle.fork_lasting()?;
    middle.exit()?;
    let last = low.fork()?;
    let of_last = tree(last.pid)?;
    check!(of_last.taken_over > 0, "none was taken over: {of_last:#?}");
    check_eq!(edge(&of_last, low.pid)?.agreement, Agreement::Agrees, "up");
    check_eq!(tree(low.pid)?.taken_over, 0, "of who was there before");
    Ok(())
}

fn zombie_is_told_as_exited() -> Result<()> {
    let mut parent = Child::spawn(|link| {
        let mut child = Child::idle()?;
        child.make_zombie()?;
        link.send(&child.pid.to_string())?;
        link.wait().map(drop)
    })?;
    let zombie: Pid = parent.link.recv()?.parse()?;
    let report = checked(parent.pid)?;
    check_eq!(kin(&report, zombie)?.state, ProcessState::Exited, "state");
    let tree = tree(parent.pid)?;
    let edge = edge(&tree, zombie)?;
    check_eq!(edge.agreement, Agreement::Exited, "{edge:?}");
    parent.kill()
}

/// A child that runs `forks` and has each process that comes of it say so and wait: their number, its own
/// among them, by what they said; and its report.
fn family(want: usize, forks: fn() -> Result<()>) -> Result<(Pid, BTreeMap<u32, Vec<u32>>)> {
    let (mut said, tell) = sys::pipe(false)?;
    let mut first = Child::spawn(move |_| {
        forks()?;
        (&tell).write_all(b"x")?;
        loop {
            std::thread::park();
        }
    })?;
    let mut bytes = vec![0; want];
    said.read_exact(&mut bytes)?;
    let report = checked(first.pid)?;
    check_eq!(
        report.summary.descendants as usize + 1,
        want,
        "processes in all"
    );
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for kin in &report.processes {
        if kin.role == Role::Descendant {
            children.entry(kin.parent).or_default().push(kin.pid);
        }
    }
    let tree = tree(first.pid)?;
    let below = with_role(&report, Role::Descendant);
    for pid in &below {
        let edge = edge(&tree, *pid)?;
        check_eq!(edge.agreement, Agreement::Agrees, "{edge:?}");
    }
    for pid in below {
        sys::kill(pid, libc::SIGKILL)?;
    }
    let pid = first.pid;
    first.kill()?;
    Ok((pid, children))
}

/// fork() whose child dies with its parent, for conditions: true in the parent.
fn forked() -> Result<bool> {
    let parent = sys::getpid();
    match sys::fork()? {
        Forked::Parent(_) => Ok(true),
        Forked::Child => {
            crate::process::die_with(parent);
            Ok(false)
        }
    }
}

fn forks_in_a_loop_make_two_to_the_n() -> Result<()> {
    for n in 1..=5usize {
        let forks: fn() -> Result<()> = match n {
            1 => || (0..1).try_for_each(|_| forked().map(drop)),
            2 => || (0..2).try_for_each(|_| forked().map(drop)),
            3 => || (0..3).try_for_each(|_| forked().map(drop)),
            4 => || (0..4).try_for_each(|_| forked().map(drop)),
            _ => || (0..5).try_for_each(|_| forked().map(drop)),
        };
        let (first, children) = family(1 << n, forks)?;
        let all: usize = children.values().map(Vec::len).sum();
        check_eq!(all, (1 << n) - 1, "children of {n} forks in a loop");
        check_eq!(children[&(first as u32)].len(), n, "of the first");
        // Of each number of children there are as many processes as the binomial tree has.
        let mut degrees = BTreeMap::new();
        for below in children.values() {
            *degrees.entry(below.len()).or_insert(0usize) += 1;
        }
        for (degree, count) in degrees {
            let want = if degree == n {
                1
            } else {
                1 << (n - 1 - degree)
            };
            check_eq!(count, want, "processes with {degree} children");
        }
    }
    Ok(())
}

fn twenty_processes_of_a_riddle() -> Result<()> {
    // fork(); fork() && fork() || fork(); fork();
    let (first, children) = family(20, || {
        forked()?;
        if !(forked()? && forked()?) {
            forked()?;
        }
        forked().map(drop)
    })?;
    let all: usize = children.values().map(Vec::len).sum();
    check_eq!(all, 19, "children in all");
    // The first comes through the first, both of the condition, and the last.
    check_eq!(children[&(first as u32)].len(), 4, "children of the first");
    Ok(())
}
