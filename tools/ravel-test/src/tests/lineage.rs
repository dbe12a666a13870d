// SPDX-License-Identifier: GPL-2.0
//! Report lineage: who is whose parent and child, and what they share, against /proc and kcmp().

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ravel_records::{Kin, LineageReport, ProcessState, Role, Tree};

use crate::measure::{Holds, kernel_bytes};
use crate::module;
use crate::process::{Child, Puppet, Sleepers, Stage, die_with};
use crate::report::{lineage, tree};
use crate::sys::{self, Forked, Kcmp, Pid};
use crate::tier::{moving, patience, scale};
use crate::{check, check_eq, tests};

mod shapes;

pub use shapes::TESTS as SHAPES;

tests!("lineage":
    parent_child_and_grandchild,
    threads_by_number_and_name,
    descriptors_after_fork_and_after_close,
    tables_that_clone_shares,
    namespaces_of_their_own,
    while_processes_fork_and_exit [120 s],
    two_thousand_children [240 s],
    cli_shows_the_tree,
);

/// A number behind a key of /proc/PID/status.
fn status(pid: Pid, key: &str) -> Result<String> {
    let text = fs::read(format!("/proc/{pid}/status"))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.strip_prefix(':'));
    Ok(value
        .context(format!("no {key} of {pid}"))?
        .trim()
        .to_owned())
}

/// A field of /proc/PID/stat, by its number in proc(5), from the third on.
fn stat(pid: Pid, field: usize) -> Result<u64> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (_, rest) = text.rsplit_once(") ").context("no name in stat")?;
    let word = rest
        .split(' ')
        .nth(field - 3)
        .context("stat is too short")?;
    Ok(word.parse()?)
}

/// The inode numbers of initial namespaces begin here (`include/uapi/linux/nsfs.h`).
const FIRST_INITIAL: u32 = 0xefff_fff8;

/// The inode number of a namespace.
fn namespace(pid: Pid, name: &str) -> Result<u32> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
    let link = link.to_string_lossy();
    let number = link.split(['[', ']']).nth(1).context("no number")?;
    Ok(number.parse()?)
}

/// Descriptors, and whether each is a socket.
fn descriptors(pid: Pid) -> Result<BTreeMap<i32, bool>> {
    let mut fds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // That of this very walk is gone again.
        if let Ok(link) = fs::read_link(entry.path()) {
            let fd = entry.file_name().to_string_lossy().parse()?;
            fds.insert(fd, link.to_string_lossy().starts_with("socket:"));
        }
    }
    Ok(fds)
}

/// Descriptors of `of` whose open file `with` has, too, and how many of them are sockets, by kcmp().
fn in_common(of: Pid, with: Pid) -> Result<(u64, u64)> {
    let (theirs, ours) = (descriptors(of)?, descriptors(with)?);
    let (mut files, mut sockets) = (0, 0);
    for (fd, socket) in &theirs {
        let same = |our: &i32| sys::kcmp(of, with, Kcmp::File(*fd, *our)).unwrap_or(false);
        if ours.keys().any(same) {
            files += 1;
            sockets += u64::from(*socket);
        }
    }
    Ok((files, sockets))
}

/// Every process of the machine and its parent, as /proc tells.
fn parents() -> Result<BTreeMap<Pid, Pid>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        if let Ok(pid) = entry?.file_name().to_string_lossy().parse::<Pid>() {
            if let Ok(parent) = status(pid, "PPid") {
                parents.insert(pid, parent.parse()?);
            }
        }
    }
    Ok(parents)
}

/// Checks what is told of one process against /proc and kcmp().
fn check_process(kin: &Kin, asked: Pid) -> Result<()> {
    let pid = kin.pid as Pid;
    let number = |key| -> Result<u64> { Ok(status(pid, key)?.parse()?) };
    check_eq!(u64::from(kin.parent), number("PPid")?, "parent");
    check_eq!(u64::from(kin.tracer), number("TracerPid")?, "tracer");
    check_eq!(kin.threads, number("Threads")?, "threads");
    let numbers = status(pid, "NSpid")?;
    let innermost = numbers.split_whitespace().last().context("no NSpid")?;
    let innermost: u32 = innermost.parse()?;
    check_eq!(kin.ns_pid, innermost, "number in its namespace");
    check_eq!(kin.comm.to_string(), status(pid, "Name")?, "name");
    let zombie = status(pid, "State")?.starts_with('Z');
    check_eq!(kin.state == ProcessState::Exited, zombie, "exited");
    check_eq!(kin.born_ns / 10_000_000, stat(pid, 22)?, "born, in ticks");
    // PF_FORKNOEXEC
    check_eq!(kin.exec, stat(pid, 9)? & 0x40 == 0, "exec");
    check_eq!(kin.init, kin.ns_pid == 1, "init");
    if zombie {
        check!(kin.shared.is_none(), "a zombie shares: {kin:?}");
        return Ok(());
    }
    let names = &kin.namespaces;
    for (name, found) in [
        ("cgroup", names.cgroup_ns),
        ("ipc", names.ipc_ns),
        ("net", names.net_ns),
        ("pid", names.pid_ns),
        ("pid_for_children", names.pid_ns_for_children),
        ("time", names.time_ns),
        ("time_for_children", names.time_ns_for_children),
        ("user", names.user_ns),
        ("uts", names.uts_ns),
    ] {
        if !Path::new(&format!("/proc/self/ns/{name}")).exists() {
            // The kernel was built without. It may have one initial namespace of that kind yet.
            check!(
                found == 0 || found >= FIRST_INITIAL,
                "namespace {name}: {found}"
            );
        } else if let Ok(want) = namespace(pid, name) {
            // A pid namespace without an init has no link yet.
            check_eq!(found, want, "namespace {name}");
        }
    }
    for (found, what) in [
        (kin.same_vm, Kcmp::Vm),
        (kin.same_files, Kcmp::Files),
        (kin.same_fs, Kcmp::Fs),
    ] {
        check_eq!(found, sys::kcmp(pid, asked, what)?, "the same {what:?}");
    }
    if let Some(shared) = &kin.shared {
        // We have more descriptors at one moment than at another.
        if pid != sys::getpid() && asked != sys::getpid() {
            check_eq!(shared.fds, descriptors(pid)?.len() as u64, "descriptors");
            let found = (shared.files, shared.sockets);
            check_eq!(found, in_common(pid, asked)?, "files and sockets shared");
        }
        check_eq!(shared.cut, 0, "cut");
    }
    Ok(())
}

/// The report of a process, checked against /proc. Nothing may move meanwhile.
fn checked(asked: Pid) -> Result<LineageReport> {
    let report = lineage(asked)?;
    check_eq!(report.header.pid as Pid, asked, "pid in the header");
    let summary = &report.summary;
    check_eq!((summary.moved, summary.cut), (0, 0), "moved, cut");
    let parents = parents()?;
    let above = |mut pid: Pid| -> Vec<Pid> {
        let mut above = Vec::new();
        while let Some(parent) = parents.get(&pid).filter(|parent| **parent != 0) {
            above.push(*parent);
            pid = *parent;
        }
        above
    };
    let mut want: BTreeMap<Pid, (Role, u64)> = BTreeMap::new();
    want.insert(asked, (Role::Self_, 0));
    for (place, pid) in above(asked).into_iter().enumerate() {
        want.insert(pid, (Role::Ancestor, place as u64 + 1));
    }
    for pid in parents.keys() {
        if let Some(place) = above(*pid).iter().position(|above| *above == asked) {
            want.insert(*pid, (Role::Descendant, place as u64 + 1));
        }
    }
    let mut found = BTreeMap::new();
    for kin in &report.processes {
        let pid = kin.pid as Pid;
        let told = found.insert(pid, (kin.role.clone(), kin.generation));
        check!(told.is_none(), "told twice: {kin:?}");
        check_process(kin, asked).with_context(|| format!("{kin:#?}"))?;
        let near = kin.role != Role::Self_ && (kin.role != Role::Ancestor || kin.generation == 1);
        let live = kin.state == ProcessState::Live;
        check_eq!(
            kin.shared.is_some(),
            near && live,
            "a shared record: {kin:?}"
        );
    }
    found.retain(|_, (role, _)| *role != Role::Unrelated);
    check_eq!(found, want, "who is what");
    Ok(report)
}

/// The pids with a role.
fn with_role(report: &LineageReport, role: Role) -> Vec<Pid> {
    let of_role = report.processes.iter().filter(|kin| kin.role == role);
    of_role.map(|kin| kin.pid as Pid).collect()
}

/// What is told of a process.
fn kin(report: &LineageReport, pid: Pid) -> Result<&Kin> {
    let kin = report.process(pid as u32);
    kin.with_context(|| format!("nothing of {pid}: {report:#?}"))
}

fn parent_child_and_grandchild() -> Result<()> {
    let us = sys::getpid();
    let mut parent = Stage::new(3)?.start()?;
    let mut child = parent.fork()?;
    let grandchild = child.fork()?;
    let report = checked(parent.pid)?;
    check_eq!(
        with_role(&report, Role::Descendant),
        [child.pid, grandchild.pid],
        "descendants"
    );
    check_eq!(with_role(&report, Role::Ancestor)[0], us, "parent");
    check_eq!(kin(&report, grandchild.pid)?.generation, 2, "generation");
    let report = checked(grandchild.pid)?;
    check_eq!(
        with_role(&report, Role::Ancestor)[..3],
        [child.pid, parent.pid, us],
        "ancestors"
    );
    check_eq!(report.summary.descendants, 0, "descendants of the last");
    // By a number of our namespace, that of any thread, from a folder, and of pid 1.
    module::attach(child.pid)?;
    let text = module::read_file(&format!("{}/lineage", child.pid))?.whole()?;
    module::detach(child.pid)?;
    let by_folder = crate::report::parse_lineage(&text)?;
    check_eq!(by_folder, lineage(child.pid)?, "by folder and by query");
    let of_init = lineage(1)?;
    check_eq!(of_init.summary.ancestors, 0, "ancestors of init");
    check!(kin(&of_init, 1)?.init, "pid 1 is no init");
    for pid in [us, parent.pid, child.pid, grandchild.pid] {
        check_eq!(kin(&of_init, pid)?.role, Role::Descendant, "role of {pid}");
    }
    Ok(())
}

fn threads_by_number_and_name() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    for name in [&b"first"[..], b"second \"x\""] {
        puppet.call(&format!("thread {}", crate::process::hex(name)))?;
    }
    puppet.add_thread()?;
    let report = checked(puppet.pid)?;
    let mut want = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/task", puppet.pid))? {
        let path = entry?.path();
        let comm = fs::read_to_string(path.join("comm"))?;
        let tid = path.file_name().context("no name")?.to_string_lossy();
        want.insert((tid.parse::<u32>()?, comm.trim_end().to_owned()));
    }
    let found: BTreeSet<_> = report
        .threads
        .iter()
        .map(|thread| (thread.tid, thread.comm.to_string()))
        .collect();
    check_eq!(found, want, "threads");
    check_eq!((found.len(), report.threads.len()), (4, 4), "number");
    // The main thread goes, and the process stays.
    puppet.order("leaderexit")?;
    let _: Pid = puppet.answer()?.parse()?;
    crate::process::wait_state(puppet.pid, 'Z')?;
    let report = lineage(puppet.pid)?;
    let itself = kin(&report, puppet.pid)?;
    check_eq!(itself.state, ProcessState::Live, "state");
    check_eq!(itself.threads, 5, "threads");
    Ok(())
}

/// Has a child close descriptors, or copy them, and checks what is shared, by the child's numbers.
fn descriptors_after_fork_and_after_close() -> Result<()> {
    let (one, two) = UnixStream::pair()?;
    let file = sys::memfd("ravel-lineage")?;
    let (socket, other, plain) = (one.as_raw_fd(), two.as_raw_fd(), file.as_raw_fd());
    let mut parent = Child::spawn(move |link| {
        let mut child = Child::spawn(move |link| {
            // The link to our parent's parent is not ours.
            link.send("ready")?;
            drop(sys::file_from(socket));
            link.recv()?;
            link.send("closed")?;
            // A copy under another number, and a file of its own.
            let copy = sys::file_from(plain).try_clone()?;
            drop(sys::file_from(plain));
            let own = sys::memfd("ravel-own")?;
            link.recv()?;
            link.send("copied")?;
            link.wait()?;
            drop((copy, own));
            Ok(())
        })?;
        link.send(&child.pid.to_string())?;
        loop {
            child.link.recv()?;
            link.send("next")?;
            link.wait()?;
            child.link.send("on")?;
        }
    })?;
    let child: Pid = parent.link.recv()?.parse()?;
    let shared = |parent: Pid| -> Result<(u64, u64, u64)> {
        let report = lineage(parent)?;
        let shared = kin(&report, child)?.shared.clone().context("no `shared`")?;
        check_eq!(
            (shared.files, shared.sockets),
            in_common(child, parent)?,
            "files and sockets, by kcmp()"
        );
        check_eq!(shared.fds, descriptors(child)?.len() as u64, "descriptors");
        Ok((shared.fds, shared.files, shared.sockets))
    };
    parent.link.recv()?;
    crate::process::wait_state(child, 'S')?;
    let (fds, files, sockets) = shared(parent.pid)?;
    check_eq!(sockets, 1, "sockets, one of two closed");
    check!(descriptors(child)?.contains_key(&other), "the other socket");
    parent.link.send("on")?;
    parent.link.recv()?;
    crate::process::wait_state(child, 'S')?;
    // One is a file of its own; the copy is the parent's file still.
    check_eq!(
        shared(parent.pid)?,
        (fds + 1, files, sockets),
        "after a copy and a new file"
    );
    // The same from below.
    let report = lineage(child)?;
    let of_parent = kin(&report, parent.pid)?.shared.clone();
    let of_parent = of_parent.context("no `shared` of the parent")?;
    check_eq!(
        (of_parent.files, of_parent.sockets),
        in_common(parent.pid, child)?,
        "files and sockets of the parent"
    );
    check_eq!(of_parent.sockets, 1, "sockets of the parent");
    parent.kill()
}

fn tables_that_clone_shares() -> Result<()> {
    for flags in [libc::CLONE_FILES, libc::CLONE_FS, 0] {
        let mut parent = Child::spawn(move |link| {
            let us = sys::getpid();
            match sys::fork_with(flags as u64, None)? {
                Forked::Parent(pid) => link.send(&pid.to_string())?,
                // It closes nothing: the descriptors may be its parent's.
                Forked::Child => {
                    die_with(us);
                    loop {
                        std::thread::park();
                    }
                }
            }
            link.wait().map(drop)
        })?;
        let child: Pid = parent.link.recv()?.parse()?;
        let report = checked(parent.pid)?;
        let kin = kin(&report, child)?;
        check_eq!(
            (kin.same_vm, kin.same_files, kin.same_fs),
            (false, flags == libc::CLONE_FILES, flags == libc::CLONE_FS),
            "same memory, descriptors, directory with flags {flags:#x}"
        );
        if kin.same_files {
            let shared = kin.shared.as_ref().context("no `shared`")?;
            check_eq!(shared.files, shared.fds, "of one table, all are shared");
        }
        parent.kill()?;
    }
    Ok(())
}

fn namespaces_of_their_own() -> Result<()> {
    let flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUSER;
    let mut child = Child::spawn_with(flags as u64, None, |link| {
        let grandchild = Child::idle()?;
        check_eq!(grandchild.pid, 2, "pid within the namespace");
        link.send("ready")?;
        link.wait().map(drop)
    })?;
    child.link.recv()?;
    let report = checked(sys::getpid())?;
    let (ours, theirs) = (kin(&report, sys::getpid())?, kin(&report, child.pid)?);
    check!(theirs.init && theirs.ns_pid == 1, "{theirs:?}");
    let pairs = |names: &ravel_records::Namespaces| {
        [
            names.pid_ns,
            names.uts_ns,
            names.ipc_ns,
            names.net_ns,
            names.cgroup_ns,
            names.user_ns,
        ]
    };
    for (one, other) in pairs(&ours.namespaces)
        .iter()
        .zip(pairs(&theirs.namespaces))
    {
        check!(*one != other && other != 0, "one namespace: {theirs:#?}");
    }
    let below: Vec<_> = report.children(child.pid as u32).collect();
    check_eq!(below.len(), 1, "children in the namespace");
    check_eq!(below[0].ns_pid, 2, "number in the namespace");
    check_eq!(below[0].generation, 2, "generation");
    // From within, its orphans' new parent is above it.
    let report = checked(below[0].pid as Pid)?;
    check_eq!(
        with_role(&report, Role::Ancestor)[..2],
        [child.pid, sys::getpid()],
        "ancestors across the namespace"
    );
    child.kill()
}

fn while_processes_fork_and_exit() -> Result<()> {
    let us = sys::getpid();
    let mut steady = Vec::new();
    for _ in 0..10 {
        steady.push(Child::idle()?);
    }
    let mut churners = Vec::new();
    for which in 0..3 {
        churners.push(Child::spawn(move |_| {
            let parent = sys::getpid();
            for round in which.. {
                match sys::fork()? {
                    Forked::Parent(pid) => drop(sys::wait(pid)?),
                    Forked::Child => {
                        die_with(parent);
                        // Orphans, that go to the runner.
                        for _ in 0..round % 3 {
                            if let Forked::Child = sys::fork()? {
                                std::thread::yield_now();
                                sys::exit_now(0);
                            }
                        }
                        sys::exit_now(0)
                    }
                }
            }
            Ok(())
        })?);
    }
    let lasting: BTreeSet<Pid> = steady.iter().chain(&churners).map(|c| c.pid).collect();
    let (mut reports, mut passing, mut moved) = (0, BTreeSet::new(), 0);
    let end = Instant::now() + moving();
    while Instant::now() < end || (reports < scale(50, 10) && Instant::now() < end + patience(20)) {
        let report = lineage(us)?;
        reports += 1;
        moved += report.summary.moved;
        check_eq!(report.summary.cut, 0, "cut");
        let mut seen = BTreeSet::new();
        for kin in &report.processes {
            check!(seen.insert(kin.pid as Pid), "told twice: {kin:?}");
            if kin.role != Role::Descendant {
                continue;
            }
            check!(
                kin.parent != 0 || kin.state == ProcessState::Exited,
                "no parent: {kin:?}"
            );
            check!(kin.generation >= 1 && kin.generation <= 3, "{kin:?}");
            if !lasting.contains(&(kin.pid as Pid)) {
                passing.insert(kin.pid);
            }
        }
        let missed: Vec<_> = lasting.difference(&seen).collect();
        check!(missed.is_empty(), "not told: {missed:?} in {report:#?}");
        for pid in &lasting {
            let kin = kin(&report, *pid)?;
            check_eq!(
                (kin.role.clone(), kin.generation, kin.parent as Pid),
                (Role::Descendant, 1, us),
                "a child that stays"
            );
            check!(kin.shared.is_some(), "{kin:?}");
        }
        // A churner may have ended between two reports on it; then it says so.
        for child in &churners {
            let tree = tree(child.pid)?;
            check_eq!(tree.lineage.header.pid as Pid, child.pid, "pid");
            let parent = tree.edge(us as u32).context("no edge to us")?;
            check!(parent.anon_vmas > 0, "shares nothing with us: {parent:?}");
        }
    }
    for churner in &mut churners {
        churner.kill()?;
    }
    crate::harness::say(format_args!(
        "{reports} reports, {} passing processes met, moved {moved}",
        passing.len()
    ));
    check!(reports >= 10, "only {reports} reports");
    check!(passing.len() >= 5, "only {} were met", passing.len());
    Ok(())
}

fn two_thousand_children() -> Result<()> {
    let children = Sleepers::new(scale(2000, 200))?;
    let us = sys::getpid();
    Holds::forget()?;
    let before = kernel_bytes()?;
    let start = Instant::now();
    let report = lineage(us)?;
    let seconds = start.elapsed().as_secs_f64();
    let grown = kernel_bytes()? - before;
    crate::harness::say(format_args!(
        "{} processes in {seconds:.2} s; {}; {grown} bytes after it",
        report.processes.len(),
        Holds::now()?
    ));
    let found: BTreeSet<Pid> = with_role(&report, Role::Descendant).into_iter().collect();
    let want: BTreeSet<Pid> = children.pids.iter().copied().collect();
    check!(found == want, "{} of {} told", found.len(), want.len());
    for pid in &children.pids {
        let kin = kin(&report, *pid)?;
        check!(kin.same_vm && !kin.same_files, "{kin:?}");
        check_eq!((kin.generation, kin.parent as Pid), (1, us), "{kin:?}");
    }
    let of_child = lineage(children.pids[0])?;
    check_eq!(
        of_child.summary.others,
        children.pids.len() as u64 - 1,
        "others in the address space"
    );
    Ok(())
}

fn cli_shows_the_tree() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(64)?;
    parent.write(area)?;
    let child = parent.fork()?;
    let mut other = parent.fork()?;
    other.exec()?;
    child.settle()?;
    other.settle()?;
    let pid = parent.pid.to_string();
    let ravel = |args: &[&str]| -> Result<String> {
        let output = Command::new(module::beside("ravel")?).args(args).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let shown: Tree = serde_json::from_str(&ravel(&["tree", "--json", &pid])?)?;
    let read = tree(parent.pid)?;
    let (of_shown, of_read) = (shown.edge(child.pid as u32), read.edge(child.pid as u32));
    check_eq!(of_shown, of_read, "the edge to the child");
    check!(of_read.is_some_and(|edge| edge.pages >= 64), "{of_read:?}");
    let text = ravel(&["tree", &pid])?;
    for part in [
        format!("├─ {}  ", child.pid),
        format!("└─ {}  ", other.pid),
        format!(
            "{} (child) shares no anon_vma with {pid}: new memory by exec().",
            other.pid
        ),
        "2 descendants, 0 others, 1 thread".into(),
    ] {
        check!(text.contains(&part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

/// A puppet that a test began with, and its first child.
fn pair(puppets: usize) -> Result<(Puppet, Puppet)> {
    let mut parent = Stage::new(puppets)?.start()?;
    let area = parent.map(8)?;
    parent.write(area)?;
    let child = parent.fork()?;
    Ok((parent, child))
}
