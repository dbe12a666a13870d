// SPDX-License-Identifier: GPL-2.0
//! Which process a pid means: threads, exec(), shared address spaces, names.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::{AnonVmaReport, Attached, Id, Relation};

use crate::module::{self, Answer, BUFFER, REPORTS, attach, detach, query, read_file, report_text};
use crate::process::{self, Area, Child, Puppet, Stage, hex};
use crate::report::{anon, chain, check_members, numbers, parse_anon, sockets, vma};
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("identity":
    any_thread_names_its_process,
    attaching_a_thread_attaches_its_process,
    threads_are_one_member,
    process_whose_leader_exited_is_reported,
    sockets_of_a_process_whose_leader_exited,
    exec_gives_the_new_memory,
    folder_stays_valid_over_exec,
    clone_vm_child_is_the_same_member,
    vfork_child_is_the_same_member,
    names_of_any_bytes,
    name_of_another_thread_is_not_the_process_name,
    pid_is_looked_up_in_the_writers_namespace,
    pid_one_in_a_namespace_is_not_init,
);

fn written() -> Result<(Puppet, Area)> {
    let mut puppet = Stage::new(2)?.start()?;
    let area = puppet.map(1)?;
    puppet.write(area)?;
    Ok((puppet, area))
}

fn any_thread_names_its_process() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    let area = puppet.map_written(1, 1)?[0];
    let threads = [puppet.add_thread()?, puppet.add_thread()?];
    for tid in threads {
        check!(tid != puppet.pid, "thread id {tid} is the pid");
        process::wait_state(tid, 'S')?;
    }
    let by_pid = anon(puppet.pid)?;
    vma(&by_pid, area)?;
    for tid in threads {
        let by_tid = anon(tid)?;
        check_eq!(by_tid.header.pid as Pid, puppet.pid, "pid in the header");
        check_eq!(by_tid.vmas, by_pid.vmas, "VMAs by a thread's id");
        check_eq!(
            by_tid.anon_vmas,
            by_pid.anon_vmas,
            "anon_vmas by a thread's id"
        );
    }
    Ok(())
}

fn attaching_a_thread_attaches_its_process() -> Result<()> {
    let (mut puppet, _) = written()?;
    let tid = puppet.add_thread()?;
    attach(tid)?;
    check_eq!(module::folders()?, [puppet.pid], "folders");
    let again = module::write_file("attach", puppet.pid.to_string().as_bytes())?;
    check_eq!(
        again,
        libc::EEXIST,
        "attaching the process after its thread"
    );
    detach(tid)?;
    let left = module::folders()?;
    check!(
        left.is_empty(),
        "folders after the detach by the thread's id: {left:?}"
    );
    Ok(())
}

fn threads_are_one_member() -> Result<()> {
    let (mut puppet, area) = written()?;
    for _ in 0..5 {
        puppet.add_thread()?;
    }
    let report = anon(puppet.pid)?;
    let group = chain(&report, area)?[0];
    check_members(group, area, &[(puppet.pid, Relation::Self_)])?;
    check_eq!(numbers(group), (0, 1, 1, 1, 1), "numbers");
    Ok(())
}

fn process_whose_leader_exited_is_reported() -> Result<()> {
    let (mut puppet, area) = written()?;
    puppet.set_comm(b"headless")?;
    attach(puppet.pid)?;
    let tid: Pid = puppet.call("leaderexit")?.parse()?;
    process::wait_state(puppet.pid, 'Z')?;
    for asked in [puppet.pid, tid] {
        let report = anon(asked)?;
        check_eq!(
            report.header.pid as Pid,
            puppet.pid,
            "pid in the header, asked by {asked}"
        );
        check_eq!(report.header.comm, "headless", "comm, asked by {asked}");
        let group = chain(&report, area)?[0];
        check_members(group, area, &[(puppet.pid, Relation::Self_)])?;
    }
    let attached = String::from_utf8(read_file("attached")?.whole()?)?;
    check!(attached.contains(" state=live"), "attached: {attached}");
    let report = parse_anon(&read_file(&format!("{}/anon_vma", puppet.pid))?.whole()?)?;
    vma(&report, area)?;
    // The thread that is left answers for the process, and ends it.
    puppet.exit()?;
    let (errno, _) = query(format!("anon_vma {tid}").as_bytes())?;
    check_eq!(errno, libc::ESRCH, "errno for the thread after its end");
    module::detach_all()
}

fn sockets_of_a_process_whose_leader_exited() -> Result<()> {
    let (one, _two) = sys::socketpair(libc::SOCK_STREAM)?;
    let mut puppet = Stage::new(1)?.start()?;
    puppet.call("leaderexit")?;
    process::wait_state(puppet.pid, 'Z')?;
    let report = sockets(puppet.pid)?;
    let fd = one.as_raw_fd() as u32;
    let socket = report
        .socket(fd)
        .with_context(|| format!("no descriptor {fd}: {report:?}"))?;
    check_eq!(socket.file_refs, 2, "file_refs: ours and the puppet's");
    Ok(())
}

fn exec_gives_the_new_memory() -> Result<()> {
    let (mut parent, area) = written()?;
    let mut child = parent.fork()?;
    let before = anon(child.pid)?;
    vma(&before, area)?;
    let mm_before = own_mm(&before)?;
    child.exec()?;
    let after = anon(child.pid)?;
    check_eq!(after.header.pid as Pid, child.pid, "pid");
    let comm = fs::read(format!("/proc/{}/comm", child.pid))?;
    check_eq!(after.header.comm.as_bytes(), comm.trim_ascii_end(), "comm");
    check!(own_mm(&after)? != mm_before, "mm: still the old one");
    for group in after.anon_vmas.values() {
        check_eq!(
            group.members,
            group.active_vmas,
            "members of {group:?}: nothing is shared"
        );
    }
    let report = anon(parent.pid)?;
    let root = chain(&report, area)?[0];
    check_members(root, area, &[(parent.pid, Relation::Self_)])?;
    check_eq!(
        numbers(root),
        (0, 1, 1, 1, 1),
        "the root that the child has left"
    );
    Ok(())
}

fn own_mm(report: &AnonVmaReport) -> Result<Id> {
    let members = report.anon_vmas.values().flat_map(|group| &group.member);
    let own = members
        .filter(|m| m.relation == Relation::Self_)
        .map(|m| m.mm)
        .next();
    own.context("no member that is the process itself")
}

fn folder_stays_valid_over_exec() -> Result<()> {
    let (mut puppet, area) = written()?;
    attach(puppet.pid)?;
    let name = format!("{}/anon_vma", puppet.pid);
    vma(&parse_anon(&read_file(&name)?.whole()?)?, area)?;
    puppet.exec()?;
    puppet.settle()?;
    let text = read_file(&name)?.whole()?;
    check!(
        text == report_text("anon_vma", puppet.pid)?,
        "folder and query differ after exec"
    );
    let report = parse_anon(&text)?;
    check_eq!(
        report.vma_at(area.start),
        None,
        "record of what was there before exec"
    );
    let written = puppet.map(2)?;
    puppet.write(written)?;
    let report = parse_anon(&read_file(&name)?.whole()?)?;
    vma(&report, written)?;
    detach(puppet.pid)
}

/// Checks that a process which shares the puppet's memory is no member of its own.
fn check_shared(puppet: Pid, other: Pid, area: Area) -> Result<()> {
    let want = [(puppet, Relation::Self_)];
    for asked in [puppet, other] {
        let report = anon(asked)?;
        check_eq!(report.header.pid as Pid, asked, "pid in the header");
        let group = chain(&report, area)?[0];
        check_eq!(numbers(group), (0, 1, 1, 1, 1), "numbers, asked by {asked}");
        check_members(group, area, &want).with_context(|| format!("asked by {asked}"))?;
    }
    Ok(())
}

fn clone_vm_child_is_the_same_member() -> Result<()> {
    let (mut puppet, area) = written()?;
    let (mut said, tell) = sys::pipe(true)?;
    let (wait_on, mut go) = sys::pipe(true)?;
    share_vm(&mut puppet, 0, &wait_on, &tell)?;
    let answered: Pid = puppet.answer()?.parse()?;
    let mut pid = [0; 4];
    said.read_exact(&mut pid)?;
    check_eq!(Pid::from_ne_bytes(pid), answered, "pid of the child");
    check_shared(puppet.pid, answered, area)?;
    go.write_all(b"x")?;
    puppet.call(&format!("reap {answered}"))?;
    Ok(())
}

fn vfork_child_is_the_same_member() -> Result<()> {
    let (mut puppet, area) = written()?;
    let (mut said, tell) = sys::pipe(true)?;
    let (wait_on, mut go) = sys::pipe(true)?;
    share_vm(&mut puppet, libc::CLONE_VFORK, &wait_on, &tell)?;
    let mut pid = [0; 4];
    said.read_exact(&mut pid)?;
    let child = Pid::from_ne_bytes(pid);
    // The puppet sleeps in vfork().
    check_shared(puppet.pid, child, area)?;
    go.write_all(b"x")?;
    check_eq!(puppet.answer()?, child.to_string(), "pid of the child");
    puppet.call(&format!("reap {child}")).map(drop)
}

/// Makes a puppet clone with CLONE_VM. The pipes must be older than the puppet's fork: they are
/// opened by it through ours.
fn share_vm(puppet: &mut Puppet, flags: i32, wait_on: &File, tell: &File) -> Result<()> {
    let us = sys::getpid();
    let mut open = |file: &File, mode: &str| {
        let path = format!("/proc/{us}/fd/{}", file.as_raw_fd());
        puppet.call(&format!("{mode} {}", hex(path.as_bytes())))
    };
    let wait_on = open(wait_on, "open")?;
    let tell = open(tell, "open")?;
    puppet.order(&format!("sharevm {flags} {wait_on} {tell}"))
}

fn names_of_any_bytes() -> Result<()> {
    let names: &[&[u8]] = &[
        b"two words",
        b"\"quoted\"",
        b"(paren) ) R 1",
        b"back\\slash\\",
        b"new\nline\ttab",
        b"\xff\xfe\x80\x01\x7f",
        b"a=b pid=1",
        b" ",
        b"",
        b"fifteen bytes!!",
    ];
    let (mut puppet, area) = written()?;
    attach(puppet.pid)?;
    for name in names {
        let shown = String::from_utf8_lossy(name);
        puppet.set_comm(name)?;
        let report = anon(puppet.pid)?;
        check_eq!(report.header.comm.as_bytes(), *name, "comm of {shown:?}");
        let member = &chain(&report, area)?[0].member[0];
        check_eq!(
            member.comm.as_bytes(),
            *name,
            "comm of {shown:?} as a member"
        );
        let attached = Attached::parse(&read_file("attached")?.whole()?)?;
        check_eq!(
            attached.attached[0].comm.as_bytes(),
            *name,
            "comm of {shown:?} in `attached`"
        );
        check_eq!(
            sockets(puppet.pid)?.header.comm.as_bytes(),
            *name,
            "comm in `sockets`"
        );
    }
    detach(puppet.pid)
}

fn name_of_another_thread_is_not_the_process_name() -> Result<()> {
    let (mut puppet, _) = written()?;
    puppet.set_comm(b"main name")?;
    let thread = puppet
        .call(&format!("thread {}", hex(b"thread name")))?
        .parse()?;
    let comm = fs::read(format!("/proc/{}/task/{thread}/comm", puppet.pid))?;
    check_eq!(comm, b"thread name\n", "name of the thread in /proc");
    check_eq!(
        anon(thread)?.header.comm,
        "main name",
        "comm, asked by the thread"
    );
    Ok(())
}

/// Runs something in a child that is pid 1 of a namespace, where /proc is the old one.
fn in_namespace(f: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
    let flags = libc::CLONE_NEWPID as u64;
    let mut child = Child::spawn_with(flags, None, |link| {
        let outside: Pid = link.recv()?.parse()?;
        check_eq!(sys::getpid(), 1, "our pid in the namespace");
        f(outside)
    })?;
    child.link.send(&child.pid.to_string())?;
    child.join()
}

fn pid_is_looked_up_in_the_writers_namespace() -> Result<()> {
    // A file opened here, outside, and written inside: what counts is who writes.
    let mut opened_outside = module::open_query()?;
    in_namespace(move |outside| {
        let mut grandchild = Child::idle()?;
        check!(
            grandchild.pid < 10,
            "pid {} in the namespace",
            grandchild.pid
        );
        for name in REPORTS {
            let request = format!("{name} {}", grandchild.pid);
            check_eq!(
                module::write_errno(&mut opened_outside, request.as_bytes()),
                0,
                "write"
            );
            let text = Answer::read(&mut opened_outside, BUFFER).whole()?;
            let head = String::from_utf8_lossy(&text);
            let head = head.lines().next().context("no header")?.to_owned();
            let named: Pid = head
                .split(' ')
                .find_map(|word| word.strip_prefix("pid="))
                .context("no pid in the header")?
                .parse()?;
            check!(
                named > outside,
                "pid {named} in the header of {name}: not the initial namespace's"
            );
            let comm = fs::read(format!("/proc/{named}/status"))?;
            let want = format!("\nNSpid:\t{named}\t{}\n", grandchild.pid);
            check!(
                String::from_utf8_lossy(&comm).contains(&want),
                "pid {named} is another process"
            );
        }
        // A pid of the outer namespace means nothing here.
        let (errno, _) = query(format!("anon_vma {outside}").as_bytes())?;
        check_eq!(errno, libc::ESRCH, "errno for a pid of the outer namespace");
        attach(grandchild.pid)?;
        let folders = module::folders()?;
        check!(
            folders.len() == 1 && folders[0] > outside,
            "folders: {folders:?}"
        );
        detach(grandchild.pid)?;
        grandchild.kill()
    })
}

fn pid_one_in_a_namespace_is_not_init() -> Result<()> {
    in_namespace(|outside| {
        let report = anon(1)?;
        check_eq!(report.header.pid as Pid, outside, "pid in the header");
        let area = Area::map(1)?;
        sys::poke(area.start as usize, 1);
        let report = anon(1)?;
        let group = chain(&report, area)?[0];
        check_members(group, area, &[(outside, Relation::Self_)])
    })
}
