// SPDX-License-Identifier: GPL-2.0
//! Streams of events: who reserves what, for how long, and what becomes of it when he does not answer.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ravel_records::{Batch, Event, Reader};

use crate::harness::say;
use crate::module::{self, Answer, DIR};
use crate::process::Child;
use crate::random::Random;
use crate::stream::{Forker, Made, check_numbers, children, client, errno};
use crate::sys;
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("leases":
    batch_is_whole_at_any_buffer_size,
    terms_bound_a_batch,
    acknowledged_is_never_seen_again,
    part_of_a_batch_can_be_acknowledged,
    two_readers_share_without_doubles,
    many_readers_share_a_flood [180 s],
    passed_deadline_gives_it_to_the_next,
    late_reader_is_told_so,
    late_for_the_end_is_late_too,
    given_back_at_once_or_later,
    closed_descriptor_gives_it_back,
    killed_reader_gives_it_back,
    copy_of_a_descriptor_keeps_the_lease,
    as_many_leases_as_there_can_be,
    every_kill_delivers_again [180 s],
);

/// A stream with that many events in it, ready, and the children that they are of.
pub(super) fn filled(
    name: &'static str,
    count: usize,
    more: &str,
) -> Result<(Made, Vec<u32>, Forker)> {
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork tree={} {more}", forker.pid());
    let stream = Made::new(name, terms.trim_end())?;
    let pids = forker.fork(count)?;
    Ok((stream, pids, forker))
}

pub(super) fn next(reader: &mut Reader) -> Result<Batch> {
    reader.batch()?.context("nothing is ready")
}

/// Checks a batch: these children, all handed out that often.
pub(super) fn check_batch(batch: &Batch, pids: &[u32], attempt: u32) -> Result<()> {
    check_eq!(children(&batch.events), pids, "children");
    for event in &batch.events {
        check_eq!(event.attempt(), attempt, "attempt of {event:?}");
    }
    Ok(())
}

/// ready, reserved, delayed, failed, acknowledged.
pub(super) fn states(stream: &Made) -> Result<[u64; 5]> {
    let state = stream.state()?;
    Ok([
        state.ready,
        state.reserved,
        state.delayed,
        state.failed,
        state.acked,
    ])
}

fn batch_is_whole_at_any_buffer_size() -> Result<()> {
    let (stream, pids, _forker) = filled("buffers", 30, "attempts=9")?;
    for size in [1, 7, 100, 4096, 1 << 20] {
        let path = format!("{DIR}/events/buffers/events");
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        check_eq!(file.read(&mut [])?, 0, "a read of no bytes");
        check_eq!(states(&stream)?, [30, 0, 0, 0, 0], "states after it");
        let text = Answer::read(&mut file, size).whole()?;
        let batch = Batch::parse(&text)?;
        check_eq!(batch.header.stream, "buffers", "stream");
        check_eq!(
            children(&batch.events),
            pids,
            "children, {size} bytes at once"
        );
        // It stays at its end as long as the lease holds.
        check_eq!(file.read(&mut [0; 10])?, 0, "a read at the end");
        check_eq!(states(&stream)?, [0, 30, 0, 0, 0], "states");
        check!(
            stream.reader()?.batch()?.is_none(),
            "a second reader gets something"
        );
        check_eq!(module::write_errno(&mut file, b"release\n"), 0, "release");
    }
    Ok(())
}

fn terms_bound_a_batch() -> Result<()> {
    let (stream, pids, _forker) = filled("terms", 60, "")?;
    let mut reader = stream.reader()?;
    reader.terms("events=7")?;
    let batch = next(&mut reader)?;
    check_batch(&batch, &pids[..7], 1)?;
    reader.acknowledge(None)?;
    reader.terms("events=4096 bytes=2048")?;
    let batch = next(&mut reader)?;
    let told = batch.events.len();
    check_batch(&batch, &pids[7..7 + told], 1)?;
    reader.give_back(0)?;
    let mut text = Vec::new();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{DIR}/events/terms/events"))?;
    check_eq!(
        module::write_errno(&mut file, b"lease bytes=2048"),
        0,
        "lease"
    );
    file.read_to_end(&mut text)?;
    let records = text
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"fork "));
    let sizes: Vec<usize> = records.map(<[u8]>::len).collect();
    check_eq!(sizes.len(), told, "records in the same bytes");
    let sum: usize = sizes.iter().sum();
    let most = sizes.iter().max().copied().unwrap_or(0);
    check!(
        sum <= 2048 && sum + most + 10 > 2048,
        "{sum} bytes of records"
    );
    let before = sys::boot_ns()?;
    reader.terms("ms=5000")?;
    let deadline = next(&mut reader)?.header.deadline;
    let after = sys::boot_ns()?;
    let lease = 5_000_000_000;
    check!(
        (before + lease..=after + lease).contains(&deadline),
        "deadline {deadline}, asked for between {before} and {after}"
    );
    Ok(())
}

fn acknowledged_is_never_seen_again() -> Result<()> {
    let (stream, pids, mut forker) = filled("acked", 10, "")?;
    let mut reader = stream.reader()?;
    check_eq!(states(&stream)?, [10, 0, 0, 0, 0], "states at first");
    check_batch(&next(&mut reader)?, &pids, 1)?;
    check_eq!(states(&stream)?, [0, 10, 0, 0, 0], "states of a lease");
    reader.acknowledge(None)?;
    check_eq!(states(&stream)?, [0, 0, 0, 0, 10], "states at the end");
    check_eq!(
        errno(reader.acknowledge(None)),
        libc::ENODATA,
        "a second acknowledgement"
    );
    check_eq!(
        errno(reader.give_back(0)),
        libc::ENODATA,
        "giving back what is acknowledged"
    );
    check!(reader.batch()?.is_none(), "a batch out of nothing");
    drop(reader);
    let more = forker.fork(3)?;
    let events = stream.drain()?;
    check_eq!(children(&events), more, "children");
    check_eq!(
        check_numbers(&events, 11)?,
        14,
        "the number behind the last"
    );
    Ok(())
}

fn part_of_a_batch_can_be_acknowledged() -> Result<()> {
    let (stream, pids, _forker) = filled("part", 10, "")?;
    let mut reader = stream.reader()?;
    next(&mut reader)?;
    reader.acknowledge(Some(4))?;
    check_eq!(states(&stream)?, [0, 6, 0, 0, 4], "states");
    for seq in [4, 1, 11, u64::MAX] {
        check_eq!(
            errno(reader.acknowledge(Some(seq))),
            libc::ENOENT,
            "errno for {seq}"
        );
    }
    check_eq!(
        states(&stream)?,
        [0, 6, 0, 0, 4],
        "states after what was refused"
    );
    reader.give_back(0)?;
    let mut other = stream.reader()?;
    other.terms("events=2")?;
    check_batch(&next(&mut other)?, &pids[4..6], 2)?;
    check_batch(&next(&mut reader)?, &pids[6..], 2)?;
    // A number of somebody else's batch.
    check_eq!(
        errno(reader.acknowledge(Some(5))),
        libc::ENOENT,
        "errno for another's"
    );
    reader.acknowledge(Some(10))?;
    other.acknowledge(Some(6))?;
    check_eq!(states(&stream)?, [0, 0, 0, 0, 10], "states at the end");
    Ok(())
}

fn two_readers_share_without_doubles() -> Result<()> {
    let (stream, pids, _forker) = filled("two", 40, "")?;
    let (mut one, mut two) = (stream.reader()?, stream.reader()?);
    one.terms("events=3")?;
    two.terms("events=5")?;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (first, second) = (next(&mut one)?, next(&mut two)?);
        seen.extend(children(&first.events));
        seen.extend(children(&second.events));
        two.acknowledge(None)?;
        one.acknowledge(None)?;
    }
    check_eq!(seen, pids, "children");
    check!(
        one.batch()?.is_none() && two.batch()?.is_none(),
        "something is left"
    );
    Ok(())
}

fn many_readers_share_a_flood() -> Result<()> {
    let mut forkers = [Forker::new(None)?, Forker::new(None)?];
    let stream = Made::new("many", &format!("sources=fork,exit tree={}", sys::getpid()))?;
    let count = scale(300, 80);
    for forker in &mut forkers {
        forker.begin(count)?;
    }
    let wanted = 4 * count;
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| -> Result<()> {
        let read = |events: usize| -> Result<()> {
            let mut reader = stream.reader()?;
            reader.terms(&format!("events={events}"))?;
            loop {
                let told = all.lock().map_err(|_| anyhow!("poisoned"))?.len();
                if told >= wanted {
                    return Ok(());
                }
                // Another may take all of it first.
                sys::poll(&reader.as_fd(), libc::POLLIN, 100)?;
                let Some(batch) = reader.batch()? else {
                    continue;
                };
                reader.acknowledge(None)?;
                all.lock()
                    .map_err(|_| anyhow!("poisoned"))?
                    .extend(batch.events);
            }
        };
        let readers: Vec<_> = [1, 3, 10, 200]
            .into_iter()
            .map(|n| scope.spawn(move || read(n)))
            .collect();
        for reader in readers {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        Ok(())
    })?;
    let mut events = all.into_inner().map_err(|_| anyhow!("poisoned"))?;
    for forker in &mut forkers {
        forker.end()?;
    }
    events.sort_by_key(Event::seq);
    check_eq!(
        check_numbers(&events, 1)?,
        wanted as u64 + 1,
        "the number behind the last"
    );
    check!(
        events.iter().all(|event| event.attempt() == 1),
        "something came twice"
    );
    Ok(())
}

fn passed_deadline_gives_it_to_the_next() -> Result<()> {
    let (stream, pids, _forker) = filled("deadline", 10, "")?;
    let (mut slow, mut other) = (stream.reader()?, stream.reader()?);
    slow.terms("ms=300 events=6")?;
    let deadline = next(&mut slow)?.header.deadline;
    check_batch(&next(&mut other)?, &pids[6..], 1)?;
    other.acknowledge(None)?;
    check!(
        other.batch()?.is_none(),
        "what is reserved is given to another"
    );
    loop {
        let before = sys::boot_ns()?;
        if let Some(batch) = other.batch()? {
            check!(
                sys::boot_ns()? >= deadline,
                "given to another before the deadline"
            );
            check_batch(&batch, &pids[..6], 2)?;
            break;
        }
        check!(before < deadline, "not given to another after the deadline");
        thread::sleep(Duration::from_millis(5));
    }
    check_eq!(
        errno(slow.acknowledge(None)),
        libc::ESTALE,
        "errno of a late acknowledgement"
    );
    check_eq!(
        errno(slow.acknowledge(None)),
        libc::ENODATA,
        "errno of one more"
    );
    check_eq!(states(&stream)?, [0, 6, 0, 0, 4], "states");
    other.acknowledge(None)?;
    check!(slow.batch()?.is_none(), "acknowledged events come again");
    Ok(())
}

fn late_reader_is_told_so() -> Result<()> {
    let (stream, pids, _forker) = filled("late", 20, "")?;
    let path = format!("{DIR}/events/late/events");
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    check_eq!(module::write_errno(&mut file, b"lease ms=100"), 0, "lease");
    file.read_exact(&mut [0; 200])?;
    thread::sleep(Duration::from_millis(150));
    check!(
        sys::poll(&file, libc::POLLIN, 0)?,
        "poll() says nothing of it"
    );
    let error = file
        .read(&mut [0; 200])
        .err()
        .context("the rest can be read")?;
    check_eq!(sys::errno(&error), libc::ESTALE, "errno");
    // That is told once; then comes a new batch.
    let batch = Batch::parse(&Answer::read(&mut file, 4096).whole()?)?;
    check_batch(&batch, &pids, 2)?;
    // Read to its end: the next read begins the next batch by itself.
    thread::sleep(Duration::from_millis(150));
    let batch = Batch::parse(&Answer::read(&mut file, 4096).whole()?)?;
    check_batch(&batch, &pids, 3)?;
    check_eq!(states(&stream)?, [0, 20, 0, 0, 0], "states");
    Ok(())
}

/// Who reads until there is no more is not to take the next batch for more of the same.
fn late_for_the_end_is_late_too() -> Result<()> {
    let (_stream, pids, _forker) = filled("end", 20, "")?;
    let path = format!("{DIR}/events/end/events");
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let terms = b"lease ms=100 events=5";
    check_eq!(module::write_errno(&mut file, terms), 0, "lease");
    let mut text = vec![0; 1 << 16];
    let len = file.read(&mut text)?;
    check_batch(&Batch::parse(&text[..len])?, &pids[..5], 1)?;
    thread::sleep(Duration::from_millis(150));
    check!(
        sys::poll(&file, libc::POLLIN, 0)?,
        "poll() says nothing of it"
    );
    let error = file.read(&mut text).err().context("it goes on")?;
    check_eq!(sys::errno(&error), libc::ESTALE, "errno");
    let len = file.read(&mut text)?;
    check_batch(&Batch::parse(&text[..len])?, &pids[..5], 2)?;
    Ok(())
}

fn given_back_at_once_or_later() -> Result<()> {
    let (stream, pids, mut forker) = filled("back", 6, "attempts=9")?;
    let mut reader = stream.reader()?;
    next(&mut reader)?;
    reader.give_back(0)?;
    check_eq!(states(&stream)?, [6, 0, 0, 0, 0], "states at once");
    check_batch(&next(&mut reader)?, &pids, 2)?;
    let before = sys::boot_ns()?;
    reader.give_back(400)?;
    check_eq!(states(&stream)?, [0, 0, 6, 0, 0], "states of a delay");
    // What comes meanwhile does not wait for it.
    let more = forker.fork(2)?;
    check_batch(&next(&mut reader)?, &more, 1)?;
    reader.acknowledge(None)?;
    let batch = loop {
        if let Some(batch) = reader.batch()? {
            break batch;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let waited = sys::boot_ns()? - before;
    check!(waited >= 400_000_000, "ready after {waited} ns");
    check_batch(&batch, &pids, 3)?;
    Ok(())
}

fn closed_descriptor_gives_it_back() -> Result<()> {
    let (stream, pids, _forker) = filled("closed", 12, "")?;
    let mut reader = stream.reader()?;
    reader.terms("events=8")?;
    next(&mut reader)?;
    reader.acknowledge(Some(2))?;
    drop(reader);
    check_eq!(states(&stream)?, [10, 0, 0, 0, 2], "states");
    let batch = next(&mut stream.reader()?)?;
    check_eq!(children(&batch.events), pids[2..], "children");
    let attempts: Vec<u32> = batch.events.iter().map(Event::attempt).collect();
    check_eq!(attempts, [2, 2, 2, 2, 2, 2, 1, 1, 1, 1], "attempts");
    Ok(())
}

/// A process that reserves a batch, says so, and acknowledges it when it is told to.
fn holder(name: &'static str) -> Result<Child> {
    let mut child = Child::spawn(move |link| {
        let mut reader = client().events(name)?;
        let batch = reader.batch()?.context("nothing is ready")?;
        link.send(&batch.events.len().to_string())?;
        link.wait()?;
        Ok(reader.acknowledge(None)?)
    })?;
    check!(child.link.recv()?.parse::<usize>()? > 0, "an empty batch");
    Ok(child)
}

fn killed_reader_gives_it_back() -> Result<()> {
    let (stream, pids, _forker) = filled("killed", 5, "attempts=4")?;
    for attempt in 1..=3 {
        let mut child = holder("killed")?;
        check_eq!(
            states(&stream)?,
            [0, 5, 0, 0, 0],
            "states of attempt {attempt}"
        );
        child.kill()?;
        check_eq!(
            states(&stream)?,
            [5, 0, 0, 0, 0],
            "states after attempt {attempt}"
        );
    }
    let mut reader = stream.reader()?;
    check_batch(&next(&mut reader)?, &pids, 4)?;
    reader.acknowledge(None)?;
    check_eq!(states(&stream)?, [0, 0, 0, 0, 5], "states at the end");
    Ok(())
}

fn copy_of_a_descriptor_keeps_the_lease() -> Result<()> {
    let (stream, _pids, _forker) = filled("copy", 5, "")?;
    let mut reader = stream.reader()?;
    next(&mut reader)?;
    let copy = reader.as_fd().try_clone_to_owned()?;
    drop(reader);
    check_eq!(states(&stream)?, [0, 5, 0, 0, 0], "states with a copy left");
    drop(copy);
    check_eq!(states(&stream)?, [5, 0, 0, 0, 0], "states with none");
    Ok(())
}

fn as_many_leases_as_there_can_be() -> Result<()> {
    let (stream, pids, _forker) = filled("leases", 70, "")?;
    let mut readers = Vec::new();
    for at in 0..64 {
        let mut reader = stream.reader()?;
        reader.terms("events=1")?;
        check_batch(&next(&mut reader)?, &pids[at..=at], 1)?;
        readers.push(reader);
    }
    check_eq!(stream.state()?.leases, 64, "leases");
    let mut more = stream.reader()?;
    check_eq!(errno(more.batch()), libc::EBUSY, "errno of the 65th");
    readers[10].acknowledge(None)?;
    check_batch(&next(&mut more)?, &pids[64..], 1)?;
    Ok(())
}

fn every_kill_delivers_again() -> Result<()> {
    let rounds = scale(60, 15);
    let mut forker = Forker::new(None)?;
    let stream = Made::new(
        "kills",
        &format!("sources=fork tree={} attempts=1000", forker.pid()),
    )?;
    let mut random = Random::new(7);
    let mut acked = Vec::new();
    let mut happened = Vec::new();
    for round in 0..rounds {
        happened.extend(forker.fork(5)?);
        // A worker that takes batches, tells us of each before it acknowledges, and is killed amid that.
        let mut worker = Child::spawn(|link| {
            let mut reader = client().events("kills")?;
            reader.terms("events=3")?;
            while let Some(batch) = reader.batch()? {
                let told: Vec<String> = batch.events.iter().map(|e| e.seq().to_string()).collect();
                link.send(&told.join(" "))?;
                reader.acknowledge(None)?;
            }
            link.send("done")?;
            link.wait()?;
            Ok(())
        })?;
        let stop = random.below(6);
        for _ in 0..stop {
            let line = worker.link.recv()?;
            if line == "done" {
                break;
            }
            for seq in line.split(' ') {
                acked.push(seq.parse::<u64>()?);
            }
        }
        worker.kill()?;
        // What the worker said after we stopped listening, it may have done.
        while let Ok(line) = worker.link.wait() {
            if line == "done" {
                break;
            }
            for seq in line.split(' ') {
                acked.push(seq.parse::<u64>()?);
            }
        }
        check_eq!(stream.state()?.reserved, 0, "reserved after round {round}");
    }
    let rest = stream.drain()?;
    let mut times: HashMap<u64, u32> = HashMap::new();
    for seq in acked.iter().copied().chain(rest.iter().map(Event::seq)) {
        *times.entry(seq).or_default() += 1;
    }
    let wanted = happened.len() as u64;
    for seq in 1..=wanted {
        check!(times.contains_key(&seq), "event {seq} was never delivered");
    }
    check_eq!(times.len() as u64, wanted, "events delivered");
    check_eq!(states(&stream)?, [0, 0, 0, 0, wanted], "states at the end");
    let twice = times.values().filter(|times| **times > 1).count();
    say(format!(
        "{rounds} kills, {wanted} events, {twice} of them delivered again"
    ));
    Ok(())
}
