// SPDX-License-Identifier: GPL-2.0
//! Streams of events: what poll() waits for.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ravel_records::Reader;

use super::events_leases::{check_batch, filled, next, states};
use crate::stream::{Forker, Made, client};
use crate::sys;
use crate::tier::{patience, scale};
use crate::{check, check_eq, tests};

tests!("leases":
    poll_wakes_for_an_event,
    poll_wakes_for_deadlines_and_delays,
    poll_wakes_for_what_another_gives_back,
    poll_wakes_whoever_else_looks_at_the_deadline [120 s],
    poll_for_nothing_wakes_at_the_end,
    epoll_entry_raises_no_interrupts,
);

/// How long poll() waits for a reader to have something.
fn wait(reader: &Reader, most: u64) -> Result<Option<Duration>> {
    let start = Instant::now();
    let ready = sys::poll(
        &reader.as_fd(),
        libc::POLLIN,
        patience(most).as_millis() as i32,
    )?;
    // At the end of its time poll() looks once more, whether or not it was woken.
    let waited = Some(start.elapsed()).filter(|waited| *waited < patience(most));
    Ok(waited.filter(|_| ready))
}

fn poll_wakes_for_an_event() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("poll", &format!("sources=fork tree={}", forker.pid()))?;
    let mut reader = stream.reader()?;
    let quiet = sys::poll(&reader.as_fd(), libc::POLLIN, 200)?;
    check!(!quiet, "ready with nothing in it");
    check!(
        sys::poll(&reader.as_fd(), libc::POLLOUT, 0)?,
        "not writable"
    );
    for round in 0..20 {
        thread::scope(|scope| -> Result<()> {
            let waiting = scope.spawn(|| wait(&reader, 10));
            // Now and then it is there before anyone waits.
            thread::sleep(Duration::from_millis(round * 3 % 20));
            forker.fork(1)?;
            let waited = waiting.join().map_err(|_| anyhow!("it panicked"))??;
            check!(waited.is_some(), "not woken in round {round}");
            Ok(())
        })?;
        let batch = next(&mut reader)?;
        check_eq!(batch.events.len(), 1, "events of round {round}");
        // With all of its batch read, there is nothing more for this reader.
        check!(
            !sys::poll(&reader.as_fd(), libc::POLLIN, 0)?,
            "ready with a batch at hand"
        );
        reader.acknowledge(None)?;
    }
    Ok(())
}

fn poll_wakes_for_deadlines_and_delays() -> Result<()> {
    let (stream, pids, _forker) = filled("due", 4, "attempts=9")?;
    let (mut slow, mut other) = (stream.reader()?, stream.reader()?);
    slow.terms("ms=300")?;
    let deadline = next(&mut slow)?.header.deadline;
    check!(wait(&other, 10)?.is_some(), "not woken by the deadline");
    let late = sys::boot_ns()?
        .checked_sub(deadline)
        .context("woken before the deadline")?;
    check!(late < patience(2).as_nanos() as u64, "woken {late} ns late");
    check_batch(&next(&mut other)?, &pids, 2)?;
    other.give_back(300)?;
    let waited = wait(&slow, 10)?.context("not woken by the end of the delay")?;
    check!(
        waited > Duration::from_millis(200),
        "woken after {waited:?}"
    );
    check_batch(&next(&mut slow)?, &pids, 3)?;
    // Its own deadline wakes a reader, too: there is something to reserve again.
    check!(wait(&slow, 10)?.is_some(), "not woken by its own deadline");
    check_batch(&next(&mut slow)?, &pids, 4)?;
    Ok(())
}

fn poll_wakes_for_what_another_gives_back() -> Result<()> {
    let (stream, pids, _forker) = filled("given", 4, "attempts=2")?;
    let waiting = stream.reader()?;
    for round in 0..3 {
        let mut holder = stream.reader()?;
        next(&mut holder)?;
        thread::scope(|scope| -> Result<()> {
            let poll = scope.spawn(|| wait(&waiting, 10));
            thread::sleep(Duration::from_millis(30));
            match round {
                0 => holder.give_back(0)?,
                _ => drop(holder),
            }
            if round == 1 {
                // That was the last attempt.
                check_eq!(states(&stream)?, [0, 0, 0, 4, 0], "states");
                client().mend("given", "replay")?;
            }
            check!(
                poll.join().map_err(|_| anyhow!("it panicked"))??.is_some(),
                "not woken in round {round}"
            );
            Ok(())
        })?;
    }
    check_batch(&next(&mut stream.reader()?)?, &pids, 2)?;
    Ok(())
}

/// Others who look at the stream just after a deadline find the batch ready before the timer fires.
/// Who sleeps is woken all the same.
fn poll_wakes_whoever_else_looks_at_the_deadline() -> Result<()> {
    let (stream, _pids, _forker) = filled("looks", 1, "attempts=1000")?;
    let (mut holder, sleeper) = (stream.reader()?, stream.reader()?);
    holder.terms("ms=20")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let look = || -> Result<()> {
            let reader = stream.reader()?;
            while !done.load(Relaxed) {
                sys::poll(&reader.as_fd(), libc::POLLIN, 0)?;
            }
            Ok(())
        };
        let lookers = [(), ()].map(|()| scope.spawn(look));
        let rounds = (0..scale(200, 50)).try_for_each(|round| {
            // It is handed out only while it is ready: the round before has ended.
            next(&mut holder)?;
            let waited = wait(&sleeper, 10)?;
            check!(waited.is_some(), "not woken in round {round}");
            Ok(())
        });
        done.store(true, Relaxed);
        for looker in lookers {
            looker.join().map_err(|_| anyhow!("it panicked"))??;
        }
        rounds
    })
}

fn poll_for_nothing_wakes_at_the_end() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("end", &format!("sources=fork tree={}", forker.pid()))?;
    let reader = stream.reader()?;
    // At the end of its time it would find the same.
    let waits = |events| -> Result<(i16, bool)> {
        let (begin, most) = (Instant::now(), patience(20));
        let found = sys::poll_for(&reader.as_fd(), events, most.as_millis() as i32)?;
        Ok((found, begin.elapsed() < most))
    };
    thread::scope(|scope| -> Result<()> {
        let waiting = [0, libc::POLLPRI].map(|events| scope.spawn(move || waits(events)));
        thread::sleep(Duration::from_millis(100));
        forker.fork(1)?;
        thread::sleep(Duration::from_millis(100));
        check!(
            waiting.iter().all(|thread| !thread.is_finished()),
            "woken by an event"
        );
        drop(stream);
        for thread in waiting {
            let found = thread.join().map_err(|_| anyhow!("it panicked"))??;
            check_eq!(
                found,
                (libc::POLLHUP, true),
                "what poll() finds, and in time"
            );
        }
        Ok(())
    })
}

/// How many interrupts all CPUs have had for work that was put off from where it could not be done.
fn work_interrupts() -> Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let mut lines = text.lines().map(str::trim_start);
    let line = lines.find_map(|line| line.strip_prefix("IWI:"));
    let counts = line.context("no IWI in /proc/interrupts")?;
    let counts = counts
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok());
    Ok(counts.sum())
}

/// An epoll instance is entered into the wait queue for as long as it has the descriptor. Events
/// wake it when somebody has looked and found nothing, and not each time.
fn epoll_entry_raises_no_interrupts() -> Result<()> {
    let stream = Made::new("quiet", &format!("sources=shutdown pid={}", sys::getpid()))?;
    let reader = stream.reader()?;
    let epoll = sys::epoll_of(&reader.as_fd())?;
    let (one, _other) = sys::socketpair(libc::SOCK_STREAM)?;
    let flood = || -> Result<u64> {
        let before = work_interrupts()?;
        for _ in 0..1000 {
            sys::shutdown(&one, libc::SHUT_RDWR)?;
        }
        Ok(work_interrupts()? - before)
    };
    check!(
        !sys::poll(&epoll, libc::POLLIN, 0)?,
        "ready with nothing in it"
    );
    // The first wakes the instance.
    let interrupts = flood()?;
    check!(interrupts < 200, "{interrupts} interrupts for 1000 events");
    check!(sys::poll(&epoll, libc::POLLIN, 0)?, "not ready");
    let interrupts = flood()?;
    check!(interrupts < 200, "{interrupts} interrupts for 1000 more");
    Ok(())
}
