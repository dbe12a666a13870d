// SPDX-License-Identifier: GPL-2.0
//! How often a process that is read without pause has to wait for ravel.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::harness::say;
use crate::module::query;
use crate::process::{Area, Child};
use crate::sys::{self, PAGE};
use crate::{check, tests, tier};

tests!("polite":
    who_maps_seldom_waits_for_reports [120 s],
);

/// How often this thread has slept, as the scheduler counts.
fn sleeps() -> Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(count.context("no count of switches")?.trim().parse()?)
}

fn who_maps_seldom_waits_for_reports() -> Result<()> {
    let rounds = tier::scale(20_000, 3000) as u64;
    let mut child = Child::spawn(move |link| {
        let areas: Vec<Area> = (0..200).map(|_| Area::map(20)).collect::<Result<_>>()?;
        areas.iter().for_each(Area::touch);
        link.send("ready")?;
        loop {
            link.wait()?;
            let before = sleeps()?;
            for _ in 0..rounds {
                let start = sys::map_anon(16 * PAGE, libc::PROT_READ)?;
                sys::unmap(start, 16 * PAGE)?;
            }
            link.send(&(sleeps()? - before).to_string())?;
        }
    })?;
    child.link.wait()?;
    let area = |pid| format!("page {pid} 0x1000 0x7fffffffe000");
    let requests = ["anon_vma", "cow", "chains"].map(|report| format!("{report} {}", child.pid));
    for request in requests.into_iter().chain([area(child.pid)]) {
        let stop = AtomicBool::new(false);
        let (slept, reads) = thread::scope(|scope| -> Result<(u64, u64)> {
            let reader = scope.spawn(|| -> Result<u64> {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (errno, answer) = query(request.as_bytes())?;
                    check!(errno == 0 && answer.errno == 0, "{request}: {answer:?}");
                    reads += 1;
                }
                Ok(reads)
            });
            let slept = child.link.send("go").and_then(|()| child.link.wait());
            stop.store(true, Ordering::Relaxed);
            let reads = reader
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??;
            Ok((slept?.parse()?, reads))
        })?;
        say(format_args!(
            "{request}: {slept} sleeps in {rounds} calls of mmap() and of munmap(), {reads} reads"
        ));
        check!(reads >= 1, "hardly a report was read: {request}");
        // Each hold keeps off one call at most, and comes after a hundred times as long without one; or after 20 ms,
        // in which a kernel that checks itself does fewer calls.
        check!(
            slept * tier::scale(20, 10) as u64 <= rounds,
            "{slept} of {rounds} times it had to wait while {request} was read"
        );
    }
    child.kill()
}
