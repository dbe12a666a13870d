// SPDX-License-Identifier: GPL-2.0
//! Report sharers: who holds an open file, compared with what the test itself shared out.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use anyhow::{Context, Result};
use ravel_records::{Holds, SharersReport};

use super::peers::pair;
use crate::module::query;
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

mod closed;

use closed::{
    connection_asked_for_ends_at_once, connections_passed_over_end_at_once,
    lock_of_a_file_asked_for_ends_at_once,
};

tests!("sharers":
    descriptors_after_dup_and_fork,
    descriptor_far_behind_in_a_sparse_table,
    agrees_with_proc_for_every_socket,
    table_that_is_shared_counts_once,
    messages_on_their_way,
    messages_in_a_connection_that_nobody_accepted,
    message_within_a_message_is_not_named,
    registered_with_a_ring,
    registered_in_many_slots_of_a_ring,
    watched_by_epoll_without_a_reference,
    call_under_way_is_not_named,
    bad_descriptors_are_refused,
    connection_asked_for_ends_at_once,
    lock_of_a_file_asked_for_ends_at_once,
    connections_passed_over_end_at_once,
);

/// The report, also of a file that others take and give back meanwhile.
fn moving(pid: Pid, fd: &impl AsRawFd) -> Result<SharersReport> {
    let fd = fd.as_raw_fd();
    let (errno, answer) = query(format!("sharers {pid} {fd}").as_bytes())?;
    check_eq!(errno, 0, "the write, that gives {answer:?}");
    let text = answer.whole()?;
    SharersReport::parse(&text).with_context(|| String::from_utf8_lossy(&text).into_owned())
}

fn sharers(pid: Pid, fd: &impl AsRawFd) -> Result<SharersReport> {
    let report = moving(pid, fd)?;
    check!(!report.summary.moved, "moved: {report:#?}");
    let counts = &report.summary;
    check_eq!(
        counts.named + counts.unnamed,
        counts.refs,
        "named and unnamed"
    );
    Ok(report)
}

/// (pid, descriptor, how, references) of each.
fn holders(report: &SharersReport) -> Vec<(Pid, i32, Holds, u64)> {
    let mut all: Vec<_> = report
        .sharers
        .iter()
        .map(|s| (s.pid as Pid, s.fd as i32, s.holds.clone(), s.counted))
        .collect();
    all.sort();
    all
}

/// Checks who holds a descriptor of ours, and that nobody else does.
fn check_holders(
    fd: &impl AsRawFd,
    mut want: Vec<(Pid, i32, Holds, u64)>,
    unnamed: u64,
) -> Result<()> {
    let report = sharers(sys::getpid(), fd)?;
    want.sort();
    check_eq!(holders(&report), want, "holders");
    check_eq!(report.summary.unnamed, unnamed, "unnamed");
    check_eq!(report.summary.missed, 0, "missed");
    Ok(())
}

fn descriptors_after_dup_and_fork() -> Result<()> {
    let us = sys::getpid();
    let (one, _two) = pair()?;
    let fd = one.as_raw_fd();
    let held = |pid, fd| (pid, fd, Holds::Descriptor, 1);
    check_holders(&one, vec![held(us, fd)], 0)?;
    let copy = one.try_clone()?;
    let other = copy.as_raw_fd();
    check_holders(&one, vec![held(us, fd), held(us, other)], 0)?;
    let mut child = Child::idle()?;
    let mut all = vec![
        held(us, fd),
        held(us, other),
        held(child.pid, fd),
        held(child.pid, other),
    ];
    all.sort();
    check_holders(&one, all.clone(), 0)?;
    check_eq!(
        holders(&sharers(child.pid, &one)?),
        all,
        "holders, asked of the child"
    );
    check_eq!(own_socket(&one)?.0.file_refs, 4, "file_refs in `sockets`");
    child.kill()?;
    drop(copy);
    check_holders(&one, vec![held(us, fd)], 0)
}

fn descriptor_far_behind_in_a_sparse_table() -> Result<()> {
    const FAR: i32 = 900_000;
    let us = sys::getpid();
    sys::allow_descriptors(1 << 20)?;
    let (one, _two) = pair()?;
    let far = sys::dup_from(&one, FAR)?;
    let held = |fd| (us, fd, Holds::Descriptor, 1);
    check_holders(&one, vec![held(one.as_raw_fd()), held(FAR)], 0)?;
    check_holders(&far, vec![held(one.as_raw_fd()), held(FAR)], 0)?;
    check_eq!(own_socket(&far)?.0.file_refs, 2, "file_refs in `sockets`");
    Ok(())
}

/// Every (pid, descriptor) of the machine that is the socket with that inode, by /proc.
fn of_proc(inode: u64) -> Result<BTreeSet<(Pid, i32)>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for fd in fds.flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            if target.to_string_lossy() == format!("socket:[{inode}]") {
                found.insert((pid, fd.file_name().to_string_lossy().parse()?));
            }
        }
    }
    Ok(found)
}

fn agrees_with_proc_for_every_socket() -> Result<()> {
    let mut kept = Vec::new();
    let mut children = Vec::new();
    for i in 0..6 {
        kept.push(sys::socketpair(libc::SOCK_STREAM)?);
        if i % 2 == 0 {
            children.push(Child::idle()?);
        }
    }
    for (one, _) in &kept {
        let inode = own_socket(one)?.0.inode;
        let report = sharers(sys::getpid(), one)?;
        let found: BTreeSet<_> = report
            .sharers
            .iter()
            .map(|s| (s.pid as Pid, s.fd as i32))
            .collect();
        check_eq!(found, of_proc(inode)?, "holders by /proc");
        check_eq!(report.summary.unnamed, 0, "unnamed");
        check_eq!(report.file.inode, inode, "inode");
        check!(
            report.file.socket && !report.file.watched,
            "{:?}",
            report.file
        );
    }
    let file = fs::File::open("/dev/null")?;
    let report = sharers(sys::getpid(), &file)?;
    check!(
        !report.file.socket && report.summary.refs == 1,
        "{report:?}"
    );
    Ok(())
}

fn table_that_is_shared_counts_once() -> Result<()> {
    let us = sys::getpid();
    let (one, _two) = pair()?;
    let fd = one.as_raw_fd();
    let wait_on = sys::pipe(false)?;
    let (mut said, tell) = sys::pipe(false)?;
    let pid = sys::clone_vm(libc::CLONE_FILES, wait_on.0.as_raw_fd(), tell.as_raw_fd())?;
    std::io::Read::read_exact(&mut said, &mut [0; 4])?;
    let report = sharers(us, &one)?;
    let mut all = holders(&report);
    // Which of the two counts depends on their numbers.
    all.sort_by_key(|holder| holder.3);
    let pids: BTreeSet<_> = all.iter().map(|holder| (holder.0, holder.1)).collect();
    check_eq!(pids, BTreeSet::from([(us, fd), (pid, fd)]), "holders");
    let counts: Vec<_> = all.iter().map(|holder| holder.3).collect();
    check_eq!(counts, [0, 1], "references of each");
    check_eq!(report.sharers[0].table, report.sharers[1].table, "tables");
    check_eq!(
        (report.summary.refs, report.summary.unnamed),
        (1, 0),
        "refs, unnamed"
    );
    sys::kill(pid, libc::SIGKILL)?;
    sys::wait(pid)?.err().context("it was not killed")?;
    Ok(())
}

fn messages_on_their_way() -> Result<()> {
    let us = sys::getpid();
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (to, from) = sys::socketpair(kind)?;
        let (sent, _peer) = pair()?;
        let fd = sent.as_raw_fd();
        sys::send_descriptor(&to, &sent)?;
        let here = (us, fd, Holds::Descriptor, 1);
        let on_its_way = |n| (us, from.as_raw_fd(), Holds::Message, n);
        check_holders(&sent, vec![here.clone(), on_its_way(1)], 0)?;
        sys::send_descriptor(&to, &sent)?;
        sys::send_descriptor(&to, &to)?;
        check_holders(&sent, vec![here.clone(), on_its_way(2)], 0)?;
        // The same socket once more is the same messages.
        let again = from.try_clone()?;
        let told_again = (us, again.as_raw_fd(), Holds::Message, 0);
        check_holders(&sent, vec![here.clone(), on_its_way(2), told_again], 0)?;
        drop(again);
        sys::recv(&from, 1, 0)?;
        check_holders(&sent, vec![here.clone(), on_its_way(1)], 0)?;
        sys::recv(&from, 1, 0)?;
        check_holders(&sent, vec![here], 0)?;
    }
    Ok(())
}

fn messages_in_a_connection_that_nobody_accepted() -> Result<()> {
    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let name = format!("\0ravel-test sharers {}", sys::getpid());
    let address = sys::Address::unix(name.as_bytes());
    sys::bind(&listener, &address)?;
    sys::listen(&listener, 5)?;
    let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(&client, &address)?;
    let (sent, _peer) = pair()?;
    sys::send_descriptor(&client, &sent)?;
    let us = sys::getpid();
    let here = (us, sent.as_raw_fd(), Holds::Descriptor, 1);
    let waits = (us, listener.as_raw_fd(), Holds::Message, 1);
    check_holders(&sent, vec![here.clone(), waits], 0)?;
    let accepted = sys::accept(&listener)?;
    let waits = (us, accepted.as_raw_fd(), Holds::Message, 1);
    check_holders(&sent, vec![here, waits], 0)
}

fn message_within_a_message_is_not_named() -> Result<()> {
    let (to, from) = sys::socketpair(libc::SOCK_STREAM)?;
    let (outer_to, _outer_from) = sys::socketpair(libc::SOCK_STREAM)?;
    let (sent, _peer) = pair()?;
    sys::send_descriptor(&to, &sent)?;
    sys::send_descriptor(&outer_to, &from)?;
    // Nobody has the socket with the message any more, but for the other message.
    drop(from);
    let here = (sys::getpid(), sent.as_raw_fd(), Holds::Descriptor, 1);
    check_holders(&sent, vec![here], 1)
}

fn registered_with_a_ring() -> Result<()> {
    let us = sys::getpid();
    let (one, two) = pair()?;
    let ring = sys::ring()?;
    let fds = [one.as_raw_fd(), two.as_raw_fd(), one.as_raw_fd()];
    sys::ring_register(&ring, &fds)?;
    let here = (us, one.as_raw_fd(), Holds::Descriptor, 1);
    let there = (us, ring.as_raw_fd(), Holds::Ring, 2);
    check_holders(&one, vec![here.clone(), there], 0)?;
    let there = (us, ring.as_raw_fd(), Holds::Ring, 1);
    check_holders(
        &two,
        vec![(us, two.as_raw_fd(), Holds::Descriptor, 1), there],
        0,
    )?;
    drop(ring);
    super::peers::wait_for("the ring's end", || Ok(own_socket(&one)?.0.file_refs == 1))?;
    check_holders(&one, vec![here], 0)
}

fn registered_in_many_slots_of_a_ring() -> Result<()> {
    let us = sys::getpid();
    sys::allow_descriptors(20_000)?;
    let (one, _two) = pair()?;
    let ring = sys::ring()?;
    let mut fds = vec![-1; 10_000];
    // More than are looked at in one hold of the ring's lock: the ends of the holds, too.
    for slot in [0, 1, 4095, 4096, 8191, 8192, 9_999] {
        fds[slot] = one.as_raw_fd();
    }
    sys::ring_register(&ring, &fds)?;
    let here = (us, one.as_raw_fd(), Holds::Descriptor, 1);
    let there = (us, ring.as_raw_fd(), Holds::Ring, 7);
    check_holders(&one, vec![here, there], 0)
}

fn watched_by_epoll_without_a_reference() -> Result<()> {
    let (one, _two) = pair()?;
    check!(
        !sharers(sys::getpid(), &one)?.file.watched,
        "watched by nobody"
    );
    let set: OwnedFd = sys::epoll_of(&one)?;
    let report = sharers(sys::getpid(), &one)?;
    check!(report.file.watched, "not told as watched");
    check_eq!(
        (report.summary.refs, report.summary.unnamed),
        (1, 0),
        "refs, unnamed"
    );
    drop(set);
    check!(!sharers(sys::getpid(), &one)?.file.watched, "still watched");
    Ok(())
}

fn call_under_way_is_not_named() -> Result<()> {
    let (one, _two) = pair()?;
    let fd = one.as_raw_fd();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| sys::recv(&one, 1, 0));
        let checked = super::peers::wait_for("the reader", || {
            // fdget() of a process with several threads takes a reference.
            let counts = moving(sys::getpid(), &fd)?.summary;
            Ok(!counts.moved && counts.unnamed == 1)
        });
        sys::shutdown(&one, libc::SHUT_RD)?;
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        checked
    })
}

fn bad_descriptors_are_refused() -> Result<()> {
    let us = sys::getpid();
    let free = 900;
    let (errno, answer) = query(format!("sharers {us} {free}").as_bytes())?;
    check_eq!(
        (errno, answer.errno),
        (0, libc::EBADF),
        "errno of the write, the read"
    );
    for request in ["", " ", " x", " -1", " 0x1", " 1 2", " 1234567890"] {
        let (errno, _) = query(format!("sharers {us}{request}").as_bytes())?;
        check_eq!(errno, libc::EINVAL, "errno of {request:?}");
    }
    let out = Command::new(crate::module::beside("ravel")?)
        .args(["sharers", &us.to_string(), &free.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    check!(
        said.contains("no such descriptor") && said.contains("try: "),
        "the CLI says {said}"
    );
    Ok(())
}
