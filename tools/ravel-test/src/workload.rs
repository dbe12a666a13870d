// SPDX-License-Identifier: GPL-2.0
//! Processes to measure with: `ravel-test --workload crowd CHILDREN AREAS PAGES WRITTEN`; and one that works for a queue,
//! `note FILE`.
//!
//! A program of its own, so that it shares memory with nobody but its children.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Area, die_with};
use crate::sys::{self, Forked, PAGE, Pid};
use crate::tier;

/// A workload that runs, until it is dropped.
pub struct Workload {
    child: Child,
    /// Its memory.
    pub areas: Vec<Area>,
}

impl Workload {
    /// A process with `areas` areas of `pages` written pages, and children that have written some of them anew.
    pub fn crowd(children: usize, areas: usize, pages: usize, written: usize) -> Result<Self> {
        let words = [children, areas, pages, written].map(|number| number.to_string());
        Self::start("crowd", &words, pages)
    }

    fn start(kind: &str, words: &[String], pages: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--workload", kind])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a workload")?;
        let stdout = child.stdout.take().context("no stdout")?;
        ensure!(
            sys::poll(&stdout, libc::POLLIN, PATIENCE.as_millis() as i32)?,
            "the workload is not ready in time"
        );
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut words = line.split_whitespace();
        ensure!(
            words.next() == Some("ready"),
            "the workload failed: {line:?}"
        );
        let area = |start: &str| -> Result<Area> {
            Ok(Area {
                start: start.parse()?,
                len: (pages * PAGE) as u64,
            })
        };
        let areas = words.map(area).collect::<Result<_>>()?;
        Ok(Self { child, areas })
    }

    /// Its first process.
    pub fn pid(&self) -> Pid {
        self.child.id() as Pid
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its children die with it, and are ours then where we are a subreaper.
        while sys::reap_any().is_ok_and(|reaped| reaped.is_some()) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// How long a workload may take to be ready.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs one, in the process that was started for it.
pub fn run(words: &[&str]) -> Result<()> {
    if let ["note", path] = words {
        return note(path);
    }
    let (kind, numbers) = words.split_first().context("no workload is named")?;
    let numbers: Vec<usize> = numbers
        .iter()
        .map(|word| Ok(word.parse()?))
        .collect::<Result<_>>()?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    match (*kind, numbers.as_slice()) {
        ("crowd", [children, areas, pages, written]) => crowd(*children, *areas, *pages, *written),
        _ => bail!("no such workload: {words:?}"),
    }
}

/// For `ravel work --keep`: notes each job, in one write, before it says that it is done.
fn note(path: &str) -> Result<()> {
    let mut notes = File::options().create(true).append(true).open(path)?;
    for line in std::io::stdin().lines() {
        notes.write_all(format!("\n{}\n", line?).as_bytes())?;
        println!("done");
    }
    Ok(())
}

fn map(areas: usize, pages: usize) -> Result<Vec<Area>> {
    let map = |_| -> Result<Area> {
        let area = Area::map(pages)?;
        sys::advise(
            area.start as usize,
            area.len as usize,
            libc::MADV_NOHUGEPAGE,
        )?;
        area.touch();
        Ok(area)
    };
    (0..areas).map(map).collect()
}

fn tell(areas: &[Area]) -> Result<()> {
    let starts = areas.iter().map(|area| format!(" {}", area.start));
    println!("ready{}", starts.collect::<String>());
    Ok(std::io::stdout().flush()?)
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

fn crowd(children: usize, areas: usize, pages: usize, written: usize) -> Result<()> {
    let areas = map(areas, pages)?;
    let (mut done, tell_done) = sys::pipe(true)?;
    let us = sys::getpid();
    for _ in 0..children {
        if let Forked::Child = sys::fork().context("fork")? {
            die_with(us);
            for area in &areas {
                area.pages(0, written as u64).touch();
            }
            (&tell_done).write_all(b"x")?;
            wait_for_ever()
        }
    }
    done.read_exact(&mut vec![0; children])?;
    // The last of them may still be on the way to its sleep.
    std::thread::sleep(tier::patience(1) / 20);
    tell(&areas)?;
    wait_for_ever()
}
