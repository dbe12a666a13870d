// SPDX-License-Identifier: GPL-2.0
//! Streams of events: what has no room, and in which order the rest comes.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ravel_records::Event;

use super::netfilters::{Cgroup, cgroups};
use crate::harness::say;
use crate::process::Child;
use crate::stream::{Forker, Made, check_numbers, children, client, forks, lost, possible_cpus};
use crate::sys;
use crate::tier::{patience, scale};
use crate::{check, check_eq, tests};

tests!("events":
    full_stream_drops_the_newest_and_says_where,
    every_cpu_tells_of_its_own_loss,
    order_is_that_of_time_across_cpus,
    full_store_leaves_the_rest_in_the_rings,
    flood_is_delivered_or_counted [180 s],
    memory_is_bounded,
    memory_of_readers_is_counted_and_freed,
    memory_is_charged_to_the_cgroup,
);

/// Bytes of the smallest stream, and how many events one CPU's ring has in it.
fn smallest() -> Result<(u64, usize)> {
    let bytes = 16 << 10;
    Ok((bytes, bytes as usize / 2 / possible_cpus()? / 184))
}

fn full_stream_drops_the_newest_and_says_where() -> Result<()> {
    let (bytes, room) = smallest()?;
    let mut forker = Forker::new(Some(0))?;
    let terms = format!("sources=fork bytes={bytes} tree={}", forker.pid());
    let stream = Made::new("full", &terms)?;
    let mut next = 1;
    for round in 0..3 {
        let pids = forker.fork(room + 40 + round)?;
        let between = sys::boot_ns()?;
        let events = stream.drain()?;
        check_eq!(
            children(&events),
            pids[..room],
            "the oldest, in round {round}"
        );
        let Some(Event::Loss(loss)) = events.last() else {
            anyhow::bail!("no loss at the end: {events:?}");
        };
        check_eq!(loss.count as usize, 40 + round, "lost in round {round}");
        check_eq!(loss.cpu, 0, "CPU");
        check_eq!(events.len(), room + 1, "records");
        check!(
            loss.time < loss.last && loss.last < between,
            "times of {loss:?}, before {between}"
        );
        next = check_numbers(&events, next)?;
        check_eq!(stream.state()?.events, next - 1, "events of the state");
        check_eq!(
            stream.state()?.lost as usize,
            (0..=round).map(|round| 40 + round).sum::<usize>(),
            "lost by the state"
        );
    }
    // Nobody reads: the state counts what is lost all the same, and what it costs nothing to
    // look.
    forker.fork(room + 5)?;
    let state = stream.state()?;
    check_eq!(
        state.events,
        next - 1 + room as u64 + 5,
        "events without a reader"
    );
    check_eq!(state.lost as usize, 3 * 40 + 3 + 5, "lost without a reader");
    Ok(())
}

fn every_cpu_tells_of_its_own_loss() -> Result<()> {
    let (bytes, room) = smallest()?;
    let mut forkers = [Forker::new(Some(0))?, Forker::new(Some(1))?];
    let terms = format!("sources=fork bytes={bytes} tree={}", sys::getpid());
    let stream = Made::new("cpus", &terms)?;
    let first = forkers[0].fork(room + 10)?;
    let second = forkers[1].fork(room + 20)?;
    let events = stream.drain()?;
    let want = [&first[..room], &second[..room]].concat();
    check_eq!(children(&events), want, "the oldest of both");
    let losses: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Loss(loss) => Some((loss.cpu, loss.count)),
            _ => None,
        })
        .collect();
    check_eq!(losses, [(0, 10), (1, 20)], "losses");
    check!(
        matches!(events[room], Event::Loss(_)),
        "the first loss is not between the two: {events:?}"
    );
    check_numbers(&events, 1).map(drop)
}

fn order_is_that_of_time_across_cpus() -> Result<()> {
    let mut forkers = [Forker::new(Some(0))?, Forker::new(Some(1))?];
    let stream = Made::new(
        "order",
        &format!("sources=fork,exit tree={}", sys::getpid()),
    )?;
    let count = 300;
    for forker in &mut forkers {
        forker.begin(count)?;
    }
    let mut events = Vec::new();
    let wanted = 4 * count;
    while events.len() < wanted {
        events.extend(stream.drain()?);
    }
    let mut pids: Vec<u32> = Vec::new();
    for forker in &mut forkers {
        pids.extend(forker.end()?);
    }
    check_eq!(
        check_numbers(&events, 1)?,
        wanted as u64 + 1,
        "the number behind the last"
    );
    let mut told = children(&events);
    let cpus: Vec<u32> = forks(&events).iter().map(|fork| fork.cpu).collect();
    check!(
        cpus.windows(2).filter(|pair| pair[0] != pair[1]).count() > 2,
        "the CPUs did not run at the same time"
    );
    told.sort_unstable();
    pids.sort_unstable();
    check_eq!(told, pids, "children");
    check_eq!(stream.drain()?, [], "events at the end");
    Ok(())
}

fn full_store_leaves_the_rest_in_the_rings() -> Result<()> {
    let (bytes, room) = smallest()?;
    let mut forker = Forker::new(Some(0))?;
    let terms = format!("sources=fork bytes={bytes} tree={}", forker.pid());
    let stream = Made::new("store", &terms)?;
    let mut pids = Vec::new();
    // Each look at the list moves what is in the ring to the store, until that is full.
    let places = loop {
        pids.extend(forker.fork(room.min(5))?);
        let state = stream.state()?;
        check_eq!(state.lost, 0, "lost on the way");
        check_eq!(
            state.ready + state.waiting,
            pids.len() as u64,
            "ready and waiting"
        );
        if state.waiting > 0 {
            break state.ready as usize;
        }
    };
    let fill = room - (pids.len() - places);
    pids.extend(forker.fork(fill + 7)?);
    let state = stream.state()?;
    check_eq!(
        (state.ready, state.waiting, state.lost),
        (places as u64, room as u64, 7),
        "ready, waiting, lost"
    );
    let events = stream.drain()?;
    check_eq!(children(&events), pids[..places + room], "children");
    check_eq!(lost(&events), 7, "lost");
    check_numbers(&events, 1).map(drop)
}

fn flood_is_delivered_or_counted() -> Result<()> {
    let (bytes, _) = smallest()?;
    let mut forkers = [Forker::new(None)?, Forker::new(None)?, Forker::new(None)?];
    let terms = format!("sources=fork bytes={bytes} tree={}", sys::getpid());
    let stream = Made::new("flood", &terms)?;
    let count = scale(400, 100);
    for forker in &mut forkers {
        forker.begin(count)?;
    }
    let mut events = Vec::new();
    let mut reader = stream.reader()?;
    reader.terms("events=5")?;
    let happened = 3 * count as u64;
    let (mut told, mut lost_before) = (0, 0);
    while told < happened {
        // Read only once more is lost, so that there is always too much.
        let state = stream.state()?;
        if state.lost == lost_before && state.events < happened {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        lost_before = state.lost;
        for _ in 0..4 {
            if let Some(batch) = reader.batch()? {
                reader.acknowledge(None)?;
                told += batch.events.iter().map(Event::count).sum::<u64>();
                events.extend(batch.events);
            }
        }
    }
    let mut pids = Vec::new();
    for forker in &mut forkers {
        pids.extend(forker.end()?);
    }
    check_eq!(
        check_numbers(&events, 1)?,
        happened + 1,
        "the number behind the last"
    );
    let lost = lost(&events);
    check_eq!(
        forks(&events).len() as u64 + lost,
        happened,
        "delivered and lost"
    );
    check!(lost > 0, "nothing was lost: the test shows nothing");
    for child in children(&events) {
        check!(pids.contains(&child), "{child} is nobody's child");
    }
    say(format!(
        "{lost} of {happened} lost, {} records",
        events.len()
    ));
    Ok(())
}

/// Kilobytes that /proc/meminfo has under a key.
fn meminfo(key: &str) -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    Ok(number.with_context(|| format!("no {key}"))?.parse()?)
}

fn memory_is_bounded() -> Result<()> {
    let mut forker = Forker::new(None)?;
    for (bytes, filter) in [(16u64 << 10, false), (1 << 20, true), (32 << 20, false)] {
        let before = meminfo("VmallocUsed")?;
        let tree = format!("tree={}", forker.pid());
        let terms = format!(
            "sources=fork,exit bytes={bytes} {}",
            if filter { &tree } else { "" }
        );
        let stream = Made::new("memory", terms.trim_end())?;
        let state = stream.state()?;
        check_eq!(state.bytes, bytes, "bytes");
        let limit = bytes + if filter { 512 << 10 } else { 0 };
        check!(
            state.memory <= limit && state.memory > limit * 3 / 4,
            "memory {}, of {limit}",
            state.memory
        );
        let made = meminfo("VmallocUsed")?;
        check!(
            (made - before) * 1024 <= limit as i64 + (128 << 10),
            "{} KiB for {bytes}",
            made - before
        );
        // As full as it gets.
        forker.fork(150)?;
        stream.state()?;
        forker.fork(100)?;
        // The stacks of processes that have ended go after a while.
        let more = || -> Result<i64> { Ok(meminfo("VmallocUsed")? - made) };
        let end = Instant::now() + patience(10);
        while more()? > 128 && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        check!(more()? <= 128, "{} KiB more once it is full", more()?);
        check_eq!(stream.state()?.memory, state.memory, "memory at the end");
    }
    Ok(())
}

fn memory_of_readers_is_counted_and_freed() -> Result<()> {
    let terms = format!("sources=shutdown pid={} bytes=4194304", sys::getpid());
    let stream = Made::new("batches", &terms)?;
    let memory = || -> Result<u64> { Ok(stream.state()?.memory) };
    let base = memory()?;
    let mut reader = stream.reader()?;
    check_eq!(
        memory()?,
        base,
        "memory with a reader that has read nothing"
    );
    let (one, _other) = sys::socketpair(libc::SOCK_STREAM)?;
    for _ in 0..3000 {
        sys::shutdown(&one, libc::SHUT_RDWR)?;
    }
    reader.terms("events=4096 bytes=1048576")?;
    let batch = reader.batch()?.context("nothing is ready")?;
    check_eq!(batch.events.len(), 3000, "events");
    let with_batch = memory()? - base;
    check!(
        (256 << 10..2200 << 10).contains(&with_batch),
        "{with_batch} bytes for a batch of 3000 events"
    );
    reader.acknowledge(None)?;
    let kept = memory()? - base;
    check!(kept <= 128 << 10, "{kept} bytes are kept without a batch");
    drop(reader);
    check_eq!(memory()?, base, "memory without a reader");
    Ok(())
}

fn memory_is_charged_to_the_cgroup() -> Result<()> {
    let top = cgroups()?;
    let has_memory = |path: &Path| -> Result<bool> {
        let controllers = fs::read_to_string(path.join("cgroup.controllers"))?;
        Ok(controllers.split_whitespace().any(|name| name == "memory"))
    };
    if !has_memory(&top)? {
        say("the kernel has no memory cgroups of version 2");
        return Ok(());
    }
    fs::write(top.join("cgroup.subtree_control"), "+memory")?;
    let cgroup = Cgroup::new(top.join("ravel-charged"))?;
    let charged = || -> Result<u64> {
        Ok(fs::read_to_string(cgroup.0.join("memory.current"))?
            .trim()
            .parse()?)
    };
    let path = cgroup.0.clone();
    let mut maker = Child::spawn(move |link| {
        fs::write(path.join("cgroup.procs"), sys::getpid().to_string())?;
        link.send("joined")?;
        link.wait()?;
        let _held = client().hold_stream("create charged sources=fork bytes=16777216")?;
        link.send("made")?;
        link.wait().map(drop)
    })?;
    maker.link.recv()?;
    let before = charged()?;
    maker.link.send("make")?;
    maker.link.recv()?;
    let more = charged()?.saturating_sub(before);
    check!(more > 15 << 20, "{more} bytes are charged for 16 MiB");
    maker.kill()
}
