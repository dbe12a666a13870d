// SPDX-License-Identifier: GPL-2.0
//! How often a process that is read without pause has to wait for ravel.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use ravel_records::{AnonVmaReport, ChainsReport, CowReport};

use crate::harness::say;
use crate::module::query;
use crate::process::{Area, Child};
use crate::sys::{self, PAGE};
use crate::{check, check_eq, tests, tier};

tests!("polite":
    who_maps_seldom_waits_for_reports [120 s],
    threads_that_always_map_do_not_keep_a_report_off [240 s],
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

/// Two threads map and unmap without pause, beside VMAs that stand still. Each of those is in each report once, and that
/// takes no more than a few times as long as the kernel's own smaps.
fn threads_that_always_map_do_not_keep_a_report_off() -> Result<()> {
    let pieces = tier::scale(6000, 600);
    let area = Area::map(pieces)?;
    let mut child = Child::spawn(move |link| {
        for page in (area.start..area.end()).step_by(2 * PAGE) {
            sys::poke(page as usize, 1);
            sys::protect(page as usize + PAGE, PAGE, libc::PROT_READ)?;
        }
        for _ in 0..2 {
            thread::spawn(|| -> Result<()> {
                loop {
                    let start = sys::map_anon(16 * PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
                    sys::poke(start, 1);
                    sys::unmap(start, 16 * PAGE)?;
                }
            });
        }
        link.send("ready")?;
        link.wait().map(drop)
    })?;
    check_eq!(child.link.wait()?, "ready", "what the child says");
    let start = Instant::now();
    fs::read(format!("/proc/{}/smaps", child.pid))?;
    let smaps = start.elapsed();
    for report in ["anon_vma", "cow", "chains"] {
        let start = Instant::now();
        let (errno, answer) = query(format!("{report} {}", child.pid).as_bytes())?;
        check_eq!(errno, 0, "write");
        let text = answer.whole()?;
        let time = start.elapsed();
        let starts: Vec<u64> = match report {
            "anon_vma" => {
                let report = AnonVmaReport::parse(&text)?;
                report.vmas.iter().map(|vma| vma.start.0).collect()
            }
            "cow" => {
                let report = CowReport::parse(&text)?;
                report.vmas.iter().map(|vma| vma.start.0).collect()
            }
            _ => {
                let report = ChainsReport::parse(&text)?;
                report.vmas.iter().map(|chain| chain.start.0).collect()
            }
        };
        let inside = starts
            .iter()
            .filter(|start| (area.start..area.end()).contains(start));
        let want: Vec<u64> = (area.start..area.end()).step_by(PAGE).collect();
        check!(inside.eq(&want), "VMAs that stand still, in {report}");
        say(format_args!("{report}: {time:.2?}; smaps: {smaps:.2?}"));
        check!(
            time < smaps * 8,
            "{report} took {time:.2?}, and smaps {smaps:.2?}"
        );
    }
    child.kill()
}
