// SPDX-License-Identifier: GPL-2.0
//! Streams of events: what is told of known forks, execs and exits, and what is lost.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ravel_records::{Event, Exit, Scope};

use crate::process::{Child, Stage};
use crate::stream::{Forker, Made, check_numbers, children, client, forks};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("events":
    every_source_is_there,
    every_fork_and_exit_is_told_once,
    exit_tells_how_it_ended,
    exec_tells_the_program,
    line_leads_to_init,
    threads_are_not_told,
    tree_has_descendants_of_before_and_after,
    tree_keeps_orphans_and_nobody_else,
    pid_is_one_process_alone,
);

/// All sources.
pub(super) const ALL: &str = "sources=fork,exec,exit";

/// The functions that `packet` hangs on.
pub(super) const PACKET_FUNCTIONS: [&str; 13] = [
    "ip_rcv",
    "ipv6_rcv",
    "ip_list_rcv",
    "ipv6_list_rcv",
    "tcp_v4_rcv",
    "tcp_v6_rcv",
    "udp_rcv",
    "udpv6_rcv",
    "ip_output",
    "ip_mc_output",
    "ip6_output",
    "skb_consume_udp",
    "skb_release_head_state",
];

fn every_source_is_there() -> Result<()> {
    const HOOKS: [(&str, &[&str], &[&str]); 10] = [
        ("fork", &["sched/sched_process_fork"], &[]),
        ("exec", &["sched/sched_process_exec"], &[]),
        ("exit", &["sched/sched_process_exit"], &[]),
        ("tcp_state", &["sock/inet_sock_set_state"], &[]),
        (
            "reset",
            &["tcp/tcp_send_reset", "tcp/tcp_receive_reset"],
            &["tcp_send_active_reset"],
        ),
        ("drop", &["skb/kfree_skb"], &[]),
        ("shutdown", &[], &["inet_shutdown", "unix_shutdown"]),
        ("close", &[], &["locks_remove_posix"]),
        ("release", &[], &["sock_close"]),
        (
            "packet",
            &[
                "net/napi_gro_receive_entry",
                "net/napi_gro_frags_entry",
                "net/netif_receive_skb",
                "skb/skb_copy_datagram_iovec",
                "net/net_dev_queue",
                "net/net_dev_start_xmit",
                "skb/consume_skb",
                "skb/kfree_skb",
            ],
            &PACKET_FUNCTIONS,
        ),
    ];
    let sources = client().sources()?.sources;
    check_eq!(sources.len(), HOOKS.len(), "sources");
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let words = |names: Vec<&str>| match names.join(",") {
        none if none.is_empty() => "none".to_owned(),
        names => names,
    };
    for (source, (name, tracepoints, functions)) in sources.iter().zip(HOOKS) {
        let short = tracepoints.iter().filter_map(|path| path.split('/').nth(1));
        check_eq!(source.name, name, "name");
        check_eq!(source.tracepoints, words(short.collect()), "tracepoints");
        check_eq!(source.functions, words(functions.to_vec()), "functions");
        check_eq!(source.missing, 0, "what is missing of {name}");
        for path in tracepoints {
            let path = format!("/sys/kernel/tracing/events/{path}");
            check!(Path::new(&path).exists(), "{name}: tracefs has no {path}");
        }
        for function in functions {
            let end = format!(" {function}");
            check!(
                symbols.lines().any(|line| line.ends_with(&end)),
                "{name}: no {function} in the kernel"
            );
        }
    }
    Ok(())
}

fn every_fork_and_exit_is_told_once() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("once", &format!("{ALL} tree={}", forker.pid()))?;
    let before = sys::boot_ns()?;
    let pids = forker.fork(200)?;
    let after = sys::boot_ns()?;
    let events = stream.drain()?;
    check_eq!(
        check_numbers(&events, 1)?,
        401,
        "the number behind the last"
    );
    check_eq!(children(&events), pids, "children");
    let exits: Vec<&Exit> = events
        .iter()
        .filter_map(|event| match event {
            Event::Exit(exit) => Some(exit),
            _ => None,
        })
        .collect();
    check_eq!(exits.len(), 200, "exits");
    for (at, (fork, exit)) in forks(&events).into_iter().zip(exits).enumerate() {
        check_eq!(fork.pid as i32, forker.pid(), "who forked");
        check_eq!(fork.tid, fork.pid, "its thread");
        check_eq!(exit.pid, fork.child, "who exited");
        check_eq!(exit.born, fork.child_born, "when it was born");
        check_eq!(
            (exit.code, exit.signal, exit.core),
            (at as u32 % 100, 0, false),
            "how it ended"
        );
        check_eq!(
            exit.comm,
            fork.comm,
            "its name, which it had from its parent"
        );
        check_eq!(exit.line.first(), Some(&fork.pid), "its parent");
        check_eq!(
            exit.line.get(1),
            Some(&std::process::id()),
            "and that one's"
        );
        for time in [fork.time, exit.time] {
            check!(
                (before..after).contains(&time),
                "{time}: not in {before}..{after}"
            );
        }
        // The child is made, then told of.
        check!(
            fork.child_born <= fork.time,
            "born after it was told: {fork:?}"
        );
    }
    let state = stream.state()?;
    check_eq!(
        (state.events, state.waiting, state.lost, state.acked),
        (401 - 1, 0, 0, 400),
        "events, waiting, lost, acked"
    );
    check_eq!(state.scope, Scope::Tree, "scope");
    check_eq!(state.pid as i32, forker.pid(), "pid");
    check_eq!(state.attempts, 400, "records handed out");
    Ok(())
}

/// The one exit event of a process.
fn exit_of(events: &[Event], pid: i32) -> Result<&Exit> {
    let mut found = events.iter().filter_map(|event| match event {
        Event::Exit(exit) if exit.pid as i32 == pid => Some(exit),
        _ => None,
    });
    let exit = found.next().context("no exit of it")?;
    check!(found.next().is_none(), "two exits of one process");
    Ok(exit)
}

fn exit_tells_how_it_ended() -> Result<()> {
    let mut killed = Child::idle()?;
    let mut signalled = Child::idle()?;
    let mut coded = Child::spawn(|_| sys::exit_now(37))?;
    sys::wait_zombie(coded.pid)?;
    let stream = Made::new("ends", "sources=exit")?;
    let mut late = Child::spawn(|_| sys::exit_now(255))?;
    killed.end_by(libc::SIGKILL)?.ok();
    signalled.end_by(libc::SIGTERM)?.ok();
    check_eq!(sys::wait(late.pid)?, Ok(255), "what wait() says");
    let events = stream.drain()?;
    let how = |pid| exit_of(&events, pid).map(|exit| (exit.code, exit.signal));
    check_eq!(how(killed.pid)?, (0, libc::SIGKILL as u32), "the killed");
    check_eq!(
        how(signalled.pid)?,
        (0, libc::SIGTERM as u32),
        "the signalled"
    );
    check_eq!(how(late.pid)?, (255, 0), "exit(255)");
    check!(
        exit_of(&events, coded.pid).is_err(),
        "an exit from before is told"
    );
    drop(coded.join());
    drop(late.join());
    Ok(())
}

fn exec_tells_the_program() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let stream = Made::new("execs", &format!("sources=exec pid={}", puppet.pid))?;
    puppet.exec()?;
    let events = stream.drain()?;
    let [Event::Exec(exec)] = events.as_slice() else {
        anyhow::bail!("wanted one exec: {events:?}");
    };
    check_eq!(exec.pid as i32, puppet.pid, "pid");
    check_eq!(exec.file.as_bytes(), b"/proc/self/exe", "file");
    check!(!exec.file_cut, "a short name is cut");
    let comm = fs::read(format!("/proc/{}/comm", puppet.pid))?;
    check_eq!(exec.comm.as_bytes(), comm.trim_ascii_end(), "comm");
    // One that is too long for its place.
    let long = format!("/proc/./{}self/exe", "./".repeat(40));
    let mut child = Child::spawn(move |link| {
        link.wait()?;
        let error = std::os::unix::process::CommandExt::exec(
            std::process::Command::new(long).arg("--list"),
        );
        Err(error.into())
    })?;
    let stream = Made::new("long", &format!("sources=exec tree={}", child.pid))?;
    child.link.send("go")?;
    child.join()?;
    let events = stream.drain()?;
    let [Event::Exec(exec)] = events.as_slice() else {
        anyhow::bail!("wanted one exec: {events:?}");
    };
    check_eq!(exec.file.as_bytes().len(), 61, "bytes of a long name");
    check!(exec.file.as_bytes().starts_with(b"/proc/././"), "{exec:?}");
    check!(exec.file_cut, "a long name is not marked");
    Ok(())
}

fn line_leads_to_init() -> Result<()> {
    // More generations than a line has room for.
    let stage = Stage::new(10)?;
    let mut puppets = vec![stage.start()?];
    for _ in 1..10 {
        let next = puppets.last_mut().context("no puppet")?.fork()?;
        puppets.push(next);
    }
    let stream = Made::new("line", "sources=exit")?;
    let last = puppets.pop().context("no puppet")?;
    let pid = last.pid;
    last.exit()?;
    let short = Child::spawn(|_| sys::exit_now(0))?;
    sys::wait_zombie(short.pid)?;
    let events = stream.drain()?;
    let line: Vec<i32> = puppets
        .iter()
        .rev()
        .map(|puppet| puppet.pid)
        .take(8)
        .collect();
    let told: Vec<i32> = exit_of(&events, pid)?
        .line
        .iter()
        .map(|pid| *pid as i32)
        .collect();
    check_eq!(told, line, "a long line");
    // A short one ends at the process that the kernel began.
    let mut want = Vec::new();
    let mut at = sys::getpid();
    while at > 0 {
        want.push(at as u32);
        let status = fs::read_to_string(format!("/proc/{at}/status"))?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
        at = parent.context("no PPid")?.trim().parse()?;
    }
    check!(want.len() < 8, "too deep for this test: {want:?}");
    check_eq!(exit_of(&events, short.pid)?.line, want, "a short line");
    Ok(())
}

fn threads_are_not_told() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let stream = Made::new("threads", &format!("{ALL} tree={}", puppet.pid))?;
    puppet.add_thread()?;
    puppet.add_thread()?;
    check_eq!(stream.drain()?, [], "events of threads");
    let pid = puppet.pid;
    puppet.exit()?;
    let events = stream.drain()?;
    check_eq!(events.len(), 1, "events of exit_group() with three threads");
    exit_of(&events, pid).map(drop)
}

fn tree_has_descendants_of_before_and_after() -> Result<()> {
    let stage = Stage::new(6)?;
    let mut root = stage.start()?;
    let mut other = stage.start()?;
    let mut before = root.fork()?;
    let mut deep = before.fork()?;
    let stream = Made::new("tree", &format!("sources=fork tree={}", root.pid))?;
    let after = deep.fork()?;
    let apart = other.fork()?;
    let events = stream.drain()?;
    check_eq!(
        children(&events),
        [after.pid as u32],
        "children, but for {}",
        apart.pid
    );
    check_eq!(forks(&events)[0].pid as i32, deep.pid, "who forked");
    check_eq!(
        forks(&events)[0].line[..2],
        [before.pid as u32, root.pid as u32],
        "its line"
    );
    Ok(())
}

fn tree_keeps_orphans_and_nobody_else() -> Result<()> {
    let stage = Stage::new(4)?;
    let mut root = stage.start()?;
    let stream = Made::new("orphans", &format!("sources=fork tree={}", root.pid))?;
    let mut middle = root.fork()?;
    let mut orphan = middle.fork_lasting()?;
    middle.exit()?;
    // Whose child it is now, is not in the tree.
    let later = orphan.fork()?;
    let pids = [orphan.pid, later.pid];
    let told = children(&stream.drain()?);
    check_eq!(told.len(), 3, "forks told");
    check_eq!(
        told[1..],
        pids.map(|pid| pid as u32),
        "the orphan and its child"
    );
    // A stream made now goes by the parents of now.
    let second = Made::new("now", &format!("sources=exit tree={}", root.pid))?;
    orphan.exit()?;
    check_eq!(second.drain()?, [], "events of an orphan from before");
    Ok(())
}

fn pid_is_one_process_alone() -> Result<()> {
    let stage = Stage::new(3)?;
    let mut one = stage.start()?;
    let stream = Made::new("one", &format!("{ALL} pid={}", one.pid))?;
    let mut child = one.fork()?;
    let grandchild = child.fork()?;
    child.exec()?;
    grandchild.exit()?;
    child.exit()?;
    let events = stream.drain()?;
    check_eq!(events.len(), 1, "events: {events:?}");
    check_eq!(forks(&events)[0].pid as i32, one.pid, "who forked");
    Ok(())
}
