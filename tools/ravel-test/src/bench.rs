// SPDX-License-Identifier: GPL-2.0
//! Measurements beside each other in one run: what is told are ratios, since seconds are the machine's.
//!
//! `ravel-test --bench flat` (of which `events` and `instructions` are parts) is for a VM whose clock counts instructions,
//! `ravel-test --bench beside` (of which `target`, `sockets`, `packets`, `loss` and `queue` are) for any.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::module;
use crate::sys::{self, Pid};

mod beside;
mod events;
mod flat;
mod packets;
mod queue;
mod sockets;
mod takers;
mod walk;

/// Runs what is asked for.
pub fn run(words: &[&str]) -> Result<()> {
    if let ["queue"] = words {
        // Of the module it needs nothing.
        return queue::jobs();
    }
    module::mount_debugfs()?;
    if !module::is_loaded() {
        module::insert()?;
    }
    match words {
        ["flat"] => {
            flat::run()?;
            events::run()?;
            takers::instructions()?;
            sockets::instructions()
        }
        ["events"] => {
            events::run()?;
            takers::instructions()
        }
        ["loss"] => takers::first_loss(),
        ["sockets"] => {
            sockets::busy()?;
            sockets::owners(1, 20_000)
        }
        ["target"] => beside::target(),
        ["instructions"] => sockets::instructions(),
        ["packets"] => packets::run(),
        ["beside"] => {
            walk::quiet()?;
            walk::moving()?;
            beside::shared_memory()?;
            beside::target()?;
            sockets::busy()?;
            sockets::owners(1, 20_000)?;
            packets::run()?;
            takers::first_loss()?;
            queue::jobs()
        }
        _ => bail!(
            "usage: ravel-test --bench flat|events|instructions|beside|target|sockets|packets|loss|queue"
        ),
    }
}

/// Reads a report to its end, into the same buffer again and again, as a program does that wants its
/// bytes: how many there were.
fn read_report(report: &str, pid: Pid, buffer: &mut [u8]) -> Result<usize> {
    let mut file = module::open_query()?;
    file.write_all(format!("{report} {pid}").as_bytes())?;
    read_all(&mut file, buffer)
}

fn read_all(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut bytes = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
    }
}

/// The least time of several tries.
fn least(tries: usize, mut f: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..tries {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// Nanoseconds on a CPU, of all threads.
fn spent(pid: Pid) -> Result<f64> {
    Ok(sys::cpu_ns(pid)? as f64)
}

/// What a program took.
#[derive(Default)]
struct Usage {
    cpu: Duration,
    kilobytes: u64,
}

impl Usage {
    /// Runs it to its end, and throws away what it says.
    fn of(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let (end, cpu, kilobytes) = sys::wait_usage(child.id() as Pid)?;
        ensure!(end == Ok(0), "{command:?} ended with {end:?}");
        Ok(Self { cpu, kilobytes })
    }
}
