// SPDX-License-Identifier: GPL-2.0
//! Events taken down by a reader of a stream, and the same ones by others: ftrace, bpftrace, the audit daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::events::{EXEC, Ftrace, Maker, Subject, TCP_STATE, TRIES};
use super::spent;
use crate::module;
use crate::process;
use crate::server::until;
use crate::stream::Made;
use crate::sys::{self, Pid};

/// Who takes events down, each to a file, as a line or more for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// `ravel events read --json`, by leases that it acknowledges.
    Ravel,
    /// `trace_pipe`.
    Ftrace,
    /// A program that prints what ftrace does.
    Bpftrace,
    /// `auditd`, with a rule for execve().
    Audit,
}

/// One of them at work.
struct Taker {
    who: Who,
    out: PathBuf,
    child: Child,
    stream: Option<Made>,
    ftrace: Option<Ftrace>,
}

/// Where programs are that the VM has not.
const TRACERS: &str = "/run/ravel/peers/tracers";

/// A program of those.
pub(super) fn tracer(name: &str) -> Command {
    let mut command = Command::new(format!("{TRACERS}/{name}"));
    command.env(
        "LD_LIBRARY_PATH",
        format!("{TRACERS}/usr/lib/x86_64-linux-gnu"),
    );
    command
}

impl Taker {
    /// Has one take down what a subject makes, in that many bytes for all CPUs.
    fn start(who: Who, subject: &Subject, bytes: usize) -> Result<Self> {
        let out = PathBuf::from("/tmp/taken");
        let file = File::create(&out)?;
        let (mut stream, mut ftrace) = (None, None);
        let cpus = crate::stream::possible_cpus()?;
        let mut command = match who {
            Who::Ravel => {
                let terms = format!("sources={} bytes={bytes}", subject.sources);
                stream = Some(Made::new("taken", &terms)?);
                let mut command = Command::new(module::beside("ravel")?);
                command.args(["events", "read", "taken", "--json"]);
                command
            }
            Who::Ftrace => {
                let made = Ftrace::new(subject.tracepoints, None, bytes / cpus)?;
                let mut command = Command::new("cat");
                command.arg(made.0.join("trace_pipe"));
                ftrace = Some(made);
                command
            }
            Who::Bpftrace => {
                let mut command = tracer("usr/bin/bpftrace");
                let pages = (bytes / cpus / sys::PAGE).to_string();
                command
                    .env("BPFTRACE_PERF_RB_PAGES", pages)
                    .args(["-e", subject.program]);
                command
            }
            Who::Audit => {
                let folder = Path::new("/tmp/audit");
                let _ = fs::remove_dir_all(folder);
                fs::create_dir(folder)?;
                let settings = format!(
                    "log_file = {}\nlog_format = RAW\nflush = NONE\nfreq = 0\nnum_logs = 0\nmax_log_file_action = IGNORE\n\
                     space_left = 2\nadmin_space_left = 1\nwrite_logs = yes\nlocal_events = yes\n",
                    out.display()
                );
                fs::write(folder.join("auditd.conf"), settings)?;
                let mut command = tracer("usr/sbin/auditd");
                command.args(["-n", "-s", "enable", "-c"]).arg(folder);
                command
            }
        };
        let output = if who == Who::Audit {
            Stdio::null()
        } else {
            file.into()
        };
        let child = command.stdin(Stdio::null()).stdout(output).spawn();
        let new = Self {
            who,
            out,
            child: child.with_context(|| format!("start {command:?}"))?,
            stream,
            ftrace,
        };
        if who == Who::Audit {
            thread::sleep(Duration::from_secs(2));
            audit(&["-b", "8192"])?;
            audit(&[
                "-a",
                "always,exit",
                "-F",
                "arch=b64",
                "-S",
                "execve",
                "-k",
                "taken",
            ])?;
        }
        Ok(new)
    }

    /// How many events it has.
    fn count(&self) -> Result<usize> {
        let text = fs::read(&self.out)?;
        let is_one = |line: &&[u8]| match self.who {
            Who::Ravel => line.starts_with(b"{"),
            Who::Ftrace => line.windows(2).any(|two| two == b": "),
            Who::Bpftrace => line.starts_with(b"> "),
            Who::Audit => line.starts_with(b"type=SYSCALL") && line.ends_with(b"key=\"taken\""),
        };
        Ok(text.split(|byte| *byte == b'\n').filter(is_one).count())
    }

    /// Waits until it has no more to come: how many it has.
    fn settle(&self) -> Result<usize> {
        let mut last = self.count()?;
        loop {
            thread::sleep(Duration::from_millis(700));
            let now = self.count()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Waits until it takes events down, by making some: how many it has by then.
    fn warm(&self, round: fn() -> Result<()>) -> Result<usize> {
        until("the first event is taken down", || {
            round()?;
            thread::sleep(Duration::from_millis(100));
            Ok(self.count()? > 0)
        })?;
        self.settle()
    }

    /// What it says that it lost. What is not told, and not there, is to be found by who made it.
    fn lost(&self) -> Result<u64> {
        Ok(match (&self.stream, &self.ftrace, self.who) {
            (Some(stream), ..) => stream.state()?.lost,
            (_, Some(ftrace), _) => ftrace.lost()?,
            (.., Who::Bpftrace) => {
                let text = String::from_utf8_lossy(&fs::read(&self.out)?).into_owned();
                let losses = text.lines().filter_map(|line| line.strip_prefix("Lost "));
                let counts = losses.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
                counts.sum()
            }
            _ => {
                let text =
                    String::from_utf8(tracer("usr/sbin/auditctl").arg("-s").output()?.stdout)?;
                let line = text.lines().find_map(|line| line.strip_prefix("lost "));
                line.context("auditctl does not say what is lost")?
                    .trim()
                    .parse()?
            }
        })
    }

    /// Nanoseconds of CPU that it has taken, with the kernel's thread that works for it.
    fn cpu(&self) -> Result<f64> {
        let mut time = spent(self.child.id() as Pid)?;
        if self.who == Who::Audit {
            time += spent(kernel_thread("kauditd")?)?;
        }
        Ok(time)
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        if self.who == Who::Audit {
            let _ = audit(&["-D"]);
            let _ = audit(&["-e", "0"]);
        }
        let _ = sys::kill(self.child.id() as i32, libc::SIGTERM);
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn audit(words: &[&str]) -> Result<()> {
    let output = tracer("usr/sbin/auditctl").args(words).output()?;
    ensure!(output.status.success(), "auditctl {words:?}: {output:?}");
    Ok(())
}

fn kernel_thread(name: &str) -> Result<Pid> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("no kernel thread {name}")
}

/// Instructions for each event, of who makes it and of who takes it down. For a VM whose clock counts instructions.
pub fn instructions() -> Result<()> {
    println!(
        "Guest instructions for each event, of who makes it + of who takes it down to a file:"
    );
    for (subject, takers) in [
        (&TCP_STATE, &[Who::Ravel, Who::Ftrace, Who::Bpftrace][..]),
        (&EXEC, &[Who::Ravel, Who::Ftrace, Who::Bpftrace, Who::Audit]),
    ] {
        let mut maker = Maker::new(subject)?;
        let nobody = maker.take()?;
        let made = TRIES * subject.rounds * subject.events()?;
        for who in takers {
            let taker = Taker::start(*who, subject, 16 << 20)?;
            let before = taker.warm(subject.round)?;
            let cpu = taker.cpu()?;
            let time = maker.take()?;
            let taken = taker.settle()? - before;
            let cpu = taker.cpu()? - cpu;
            let lost = taker.lost()?;
            drop(taker);
            let each = (subject.rounds * subject.events()?) as f64;
            println!(
                "  {:<10} {who:?}: {:.0} + {:.0} ({taken} of {made} taken down, {lost} said to be lost)",
                subject.what,
                (time - nobody) / each,
                cpu / made as f64,
            );
        }
        maker.end()?;
    }
    Ok(())
}

/// A process on one CPU that makes a subject's events at a rate.
fn paced(subject: &'static Subject) -> Result<process::Child> {
    process::Child::spawn(move |link| {
        sys::run_on(0)?;
        let events = subject.events()?;
        while let Ok(line) = link.wait() {
            let rate: usize = line.parse()?;
            let each = rate / 1000 / events;
            let start = Instant::now();
            for tick in 1..=SECONDS * 1000 {
                (0..each).try_for_each(|_| (subject.round)())?;
                let due = Duration::from_millis(tick as u64);
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    thread::sleep(early);
                }
            }
            let made = each * events * SECONDS * 1000;
            link.send(&format!("{made} {}", start.elapsed().as_micros()))?;
        }
        Ok(())
    })
}

/// How long each rate is kept up.
const SECONDS: usize = 2;

/// The rate at which each begins to lose, with as much memory.
pub fn first_loss() -> Result<()> {
    println!(
        "Events a second (a TCP state each) that are taken down to a file before the first is lost, of 1 MiB each:"
    );
    let mut first = Vec::new();
    for who in [Who::Ravel, Who::Ftrace, Who::Bpftrace] {
        let mut maker = paced(&TCP_STATE)?;
        let taker = Taker::start(who, &TCP_STATE, 1 << 20)?;
        let mut count = taker.warm(TCP_STATE.round)?;
        // The highest rate without a loss, and the lowest with one.
        let (mut whole, mut lossy) = (0.0, None);
        let mut rate = 4_000.0_f64;
        let mut halvings = 0;
        while halvings < 4 {
            let cpu = taker.cpu()?;
            maker.link.send(&format!("{}", rate as usize))?;
            let line = maker.link.wait()?;
            let (made, time) = line.split_once(' ').context("no time")?;
            let (made, time): (usize, f64) = (made.parse()?, time.parse()?);
            let real = made as f64 * 1e6 / time;
            let now = taker.settle()?;
            let cpu = (taker.cpu()? - cpu) / (now - count).max(1) as f64;
            let missing = made as i64 - (now - count) as i64;
            count = now;
            println!(
                "  {who:?}: {real:.0} a second, {missing} missing ({} said to be lost), {cpu:.0} ns of CPU for each",
                taker.lost()?
            );
            if missing > 0 {
                lossy = Some(real);
            } else {
                whole = real;
                if lossy.is_none() && time > SECONDS as f64 * 1.1e6 {
                    // No more can be made.
                    break;
                }
            }
            rate = match lossy {
                Some(lossy) => {
                    halvings += 1;
                    (whole + lossy) / 2.0
                }
                None => rate * 1.5,
            };
        }
        drop(taker);
        maker.kill()?;
        first.push((lossy.unwrap_or(whole), lossy.is_some()));
    }
    let [ours, _, theirs] = first[..] else {
        bail!("not all were measured");
    };
    let word = |lost: bool| {
        if lost {
            "loses at"
        } else {
            "loses nothing up to"
        }
    };
    println!(
        "  ravel {} {:.2} of the rate that bpftrace {} (aim: later than bpftrace)",
        word(ours.1),
        ours.0 / theirs.0,
        word(theirs.1)
    );
    Ok(())
}
