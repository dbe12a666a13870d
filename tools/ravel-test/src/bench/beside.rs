// SPDX-License-Identifier: GPL-2.0
//! Reports beside the files of /proc: what they take, and what their target feels of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{least, read_all, read_report};
use crate::process::{Area, Child};
use crate::sys::{self, Forked, PAGE, Pid};

/// `cow` against the files of /proc that give the same answer: which pages are anonymous, and shared.
pub fn shared_memory() -> Result<()> {
    println!(
        "How much of a process' memory is shared since its fork: time, as a ratio to report cow"
    );
    for (pages, written) in [(2_000, 0), (20_000, 0), (20_000, 10_000), (60_000, 30_000)] {
        let mut parent = Child::spawn(move |link| {
            let area = Area::map(pages)?;
            sys::advise(
                area.start as usize,
                area.len as usize,
                libc::MADV_NOHUGEPAGE,
            )?;
            area.touch();
            let us = sys::getpid();
            let child = match sys::fork()? {
                Forked::Parent(pid) => pid,
                Forked::Child => {
                    crate::process::die_with(us);
                    for page in (0..2 * written as u64).step_by(2) {
                        area.pages(page, 1).touch();
                    }
                    loop {
                        thread::park();
                    }
                }
            };
            thread::sleep(Duration::from_millis(200) + Duration::from_micros(written as u64 * 100));
            link.send(&child.to_string())?;
            link.wait().map(drop)
        })?;
        let child: Pid = parent.link.wait()?.parse()?;
        let mut buffer = vec![0; 1 << 20];
        let mut told = 0;
        let cow = least(5, || {
            let report = crate::report::cow(child)?;
            told = report.summary.pages.shared;
            Ok(())
        })?;
        let chains = least(5, || read_report("chains", child, &mut buffer).map(drop))?;
        let smaps = least(5, || {
            let mut file = File::open(format!("/proc/{child}/smaps"))?;
            read_all(&mut file, &mut buffer).map(drop)
        })?;
        let mut counted = 0;
        let pagemap = least(3, || {
            counted = by_pagemap(child)?;
            Ok(())
        })?;
        ensure!(
            told == counted,
            "cow has {told} shared pages, /proc {counted}"
        );
        let ratio = |time: Duration| time.as_secs_f64() / cow.as_secs_f64();
        println!(
            "  {pages:>6} pages, {written:>6} copied: cow 1, chains {:.2}, smaps alone {:.2}, \
             smaps, pagemap and kpage* {:.2}",
            ratio(chains),
            ratio(smaps),
            ratio(smaps + pagemap)
        );
        parent.kill()?;
    }
    Ok(())
}

/// Anonymous pages of private mappings that others map too, as /proc tells: a word of pagemap for each
/// page, and for each that is there its flags and its mapcount, in as few reads as frames allow.
fn by_pagemap(pid: Pid) -> Result<u64> {
    let (counts, flags) = (
        File::open("/proc/kpagecount")?,
        File::open("/proc/kpageflags")?,
    );
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut shared = 0;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let range = words.next().and_then(|range| range.split_once('-'));
        let (start, end) = range.context("no range")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        if words.next().is_none_or(|perms| perms.ends_with('s')) || line.ends_with("[vsyscall]") {
            continue;
        }
        let mut bytes = vec![0; ((end - start) / PAGE as u64 * 8) as usize];
        pagemap.read_exact_at(&mut bytes, start / PAGE as u64 * 8)?;
        let mut frames: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .filter(|entry| entry >> 63 == 1)
            .map(|entry| entry & ((1 << 55) - 1))
            .collect();
        frames.sort_unstable();
        let mut at = 0;
        while at < frames.len() {
            // Frames that nearly follow each other are read at once.
            let mut to = at + 1;
            while to < frames.len()
                && frames[to] - frames[to - 1] <= 16
                && frames[to] - frames[at] < 8192
            {
                to += 1;
            }
            let first = frames[at];
            let len = ((frames[to - 1] - first + 1) * 8) as usize;
            let (mut count, mut flag) = (vec![0; len], vec![0; len]);
            counts.read_exact_at(&mut count, first * 8)?;
            flags.read_exact_at(&mut flag, first * 8)?;
            for frame in &frames[at..to] {
                let place = ((frame - first) * 8) as usize;
                let word = |of: &[u8]| {
                    u64::from_ne_bytes(of[place..place + 8].try_into().unwrap_or_default())
                };
                let (flags, count) = (word(&flag), word(&count));
                let anon = flags & crate::pagemap::kpf::ANON != 0
                    && flags & (crate::pagemap::kpf::KSM | crate::pagemap::kpf::ZERO) == 0;
                shared += u64::from(anon && count > 1);
            }
            at = to;
        }
    }
    Ok(shared)
}

/// Milliseconds of one turn of the target.
const TURN: u64 = 1500;
/// Turns under each reader.
const TURNS: usize = 4;

/// What a process that is read without pause waits for: its slowest hundredth of calls.
pub fn target() -> Result<()> {
    println!(
        "99th percentile of a target's calls while it is read without pause, as a ratio to nobody reading\n\
         (and reads of the whole report for each 1,000 calls)"
    );
    let mut child = Child::spawn(|link| {
        let areas: Vec<Area> = (0..200).map(|_| Area::map(20)).collect::<Result<_>>()?;
        areas.iter().for_each(Area::touch);
        link.send("ready")?;
        loop {
            let order = link.wait()?;
            let end = Instant::now() + Duration::from_millis(TURN);
            let mut times = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                act(&order, &areas)?;
                times.push(start.elapsed().as_nanos().to_string());
            }
            link.send(&times.join(" "))?;
        }
    })?;
    child.link.wait()?;
    let readers = ["nobody", "anon_vma", "cow", "chains", "smaps"];
    for call in ["fork", "fault", "mmap"] {
        let mut times: Vec<Vec<u64>> = vec![Vec::new(); readers.len()];
        let mut reads = vec![0u64; readers.len()];
        // By turns, so that what else the machine does meets all alike.
        for _ in 0..TURNS {
            for (place, reader) in readers.iter().enumerate() {
                let running = Reader::start(reader, child.pid);
                child.link.send(call)?;
                let line = child.link.wait()?;
                reads[place] += running.stop()?;
                for time in line.split(' ') {
                    times[place].push(time.parse()?);
                }
            }
        }
        let p99 = |times: &[u64]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[(times.len() * 99 / 100).min(times.len() - 1)] as f64
        };
        let nobody = p99(&times[0]);
        let cells = readers.iter().enumerate().skip(1).map(|(place, reader)| {
            let each = reads[place] * 1000 / times[place].len() as u64;
            format!("{reader} {:.2} ({each})", p99(&times[place]) / nobody)
        });
        println!("  {call:<6} {}", cells.collect::<Vec<_>>().join("  "));
    }
    child.kill()
}

/// One call of the target.
fn act(call: &str, areas: &[Area]) -> Result<()> {
    match call {
        "fork" => match sys::fork()? {
            Forked::Parent(pid) => {
                let _ = sys::wait(pid)?;
            }
            Forked::Child => sys::exit_now(0),
        },
        "fault" => {
            let area = areas[0];
            sys::advise(area.start as usize, area.len as usize, libc::MADV_DONTNEED)?;
            area.touch();
        }
        "mmap" => {
            let start = sys::map_anon(16 * PAGE, libc::PROT_READ)?;
            sys::unmap(start, 16 * PAGE)?;
        }
        other => bail!("no such call: {other}"),
    }
    Ok(())
}

/// Reads of a process, one after another, until stopped.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl Reader {
    fn start(what: &str, pid: Pid) -> Self {
        let (stop, reads) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = (what != "nobody").then(|| {
            let (stop, reads, what) = (stop.clone(), reads.clone(), what.to_owned());
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    match what.as_str() {
                        "smaps" => {
                            let mut file = File::open(format!("/proc/{pid}/smaps"))?;
                            read_all(&mut file, &mut buffer)?
                        }
                        report => read_report(report, pid, &mut buffer)?,
                    };
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self {
            stop,
            reads,
            thread,
        }
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            thread
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??;
        }
        Ok(self.reads.load(Ordering::Relaxed))
    }
}
