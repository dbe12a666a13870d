// SPDX-License-Identifier: GPL-2.0
//! What an event takes of whoever makes it, beside ftrace's own record of the same tracepoint or function.

use std::cell::OnceCell;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::least;
use crate::process::Child;
use crate::stream::Made;
use crate::sys;

/// Events of the kernel's tracers, in an instance of tracefs that is ours.
struct Ftrace(PathBuf);

impl Ftrace {
    /// Records events, `SYSTEM/NAME`, where a filter in the tracer's own words lets them through.
    fn new(events: &[&str], filter: Option<&str>) -> Result<Self> {
        let dir = PathBuf::from("/sys/kernel/tracing/instances/ravel-bench");
        fs::create_dir(&dir).context("make an instance of tracefs")?;
        let new = Self(dir);
        // As much memory as the stream's rings have.
        fs::write(new.0.join("buffer_size_kb"), (BYTES / 2048).to_string())?;
        for event in events {
            let event = new.0.join("events").join(event);
            if let Some(filter) = filter {
                fs::write(event.join("filter"), filter).context("set a filter")?;
            }
            fs::write(event.join("enable"), "1")?;
        }
        Ok(new)
    }

    /// How many it has.
    fn count(&self) -> Result<usize> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).count())
    }
}

/// The tracer's event of a function, which has no tracepoint.
const FUNCTION: &str = "ravel_bench/unix_shutdown";

/// Has the tracers know of it, until dropped.
struct FunctionEvent;

impl FunctionEvent {
    const FILE: &str = "/sys/kernel/tracing/kprobe_events";

    fn new() -> Result<Self> {
        fs::write(Self::FILE, format!("p:{FUNCTION} unix_shutdown")).context("probe a function")?;
        Ok(Self)
    }
}

impl Drop for FunctionEvent {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, format!("-:{FUNCTION}"));
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        // A rmdir of tracefs, which takes all that is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Each so short that some meet no interrupt.
const TRIES: usize = 30;

/// Memory of a stream.
const BYTES: usize = 16 << 20;

/// What makes events, and how each of the two is told to record them.
struct Subject {
    what: &'static str,
    sources: &'static str,
    tracepoints: &'static [&'static str],
    /// A filter that lets nothing through, for either.
    nothing: (&'static str, &'static str),
    /// How many events a round makes.
    events: usize,
    rounds: usize,
    round: fn() -> Result<()>,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        what: "TCP state",
        sources: "tcp_state",
        tracepoints: &["sock/inet_sock_set_state"],
        nothing: (" port=1", "sport == 1"),
        events: 2,
        rounds: 200,
        round: listen_and_close,
    },
    Subject {
        what: "shutdown",
        sources: "shutdown",
        tracepoints: &[FUNCTION],
        // Process 1 shuts nothing meanwhile.
        nothing: (" pid=1", "common_pid == 1"),
        events: 1,
        rounds: 200,
        round: shut,
    },
];

/// From CLOSE to LISTEN, and back.
fn listen_and_close() -> Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    Ok(sys::listen(&socket, 1)?)
}

/// Shut already, it stays so.
fn shut() -> Result<()> {
    thread_local!(static PAIR: OnceCell<(OwnedFd, OwnedFd)> = const { OnceCell::new() });
    PAIR.with(|pair| {
        if pair.get().is_none() {
            let _ = pair.set(sys::socketpair(libc::SOCK_STREAM)?);
        }
        let (one, _) = pair.get().context("no pair")?;
        Ok(sys::shutdown(one, libc::SHUT_RDWR)?)
    })
}

/// A process that does nothing but make a subject's events.
struct Maker<'s> {
    subject: &'s Subject,
    child: Child,
}

impl<'s> Maker<'s> {
    fn new(subject: &'s Subject) -> Result<Self> {
        let (rounds, round) = (subject.rounds, subject.round);
        let child = Child::spawn(move |link| {
            while link.wait().is_ok() {
                let time = least(TRIES, || (0..rounds).try_for_each(|_| round()))?;
                link.send(&time.as_nanos().to_string())?;
            }
            Ok(())
        })?;
        Ok(Self { subject, child })
    }

    /// Nanoseconds, each an instruction, of all rounds.
    fn take(&mut self) -> Result<f64> {
        self.child.link.send("go")?;
        Ok(self.child.link.wait()?.parse()?)
    }

    fn with_stream(&mut self, filter: &str) -> Result<(f64, usize)> {
        let terms = format!("sources={} bytes={BYTES}{filter}", self.subject.sources);
        let stream = Made::new("bench", &terms)?;
        let time = self.take()?;
        let told = stream.drain()?.len();
        let state = stream.state()?;
        ensure!(
            state.lost == 0 && state.missed == 0,
            "the stream was too small: {state:?}"
        );
        Ok((time, told))
    }

    fn with_ftrace(&mut self, filter: Option<&str>) -> Result<(f64, usize)> {
        let ftrace = Ftrace::new(self.subject.tracepoints, filter)?;
        let time = self.take()?;
        Ok((time, ftrace.count()?))
    }
}

impl Subject {
    fn run(&self) -> Result<()> {
        // What begins with the boot has ended then. Time passes fast where nothing runs.
        thread::sleep(Duration::from_secs(20));
        let mut maker = Maker::new(self)?;
        let nobody = maker.take()?;
        let (ravel, told) = maker.with_stream("")?;
        let (ftrace, traced) = maker.with_ftrace(None)?;
        let (ravel_not, not_told) = maker.with_stream(self.nothing.0)?;
        let (ftrace_not, not_traced) = maker.with_ftrace(Some(self.nothing.1))?;
        let after = maker.take()?;
        maker.child.kill()?;
        let made = TRIES * self.rounds * self.events;
        ensure!(told == made, "{told} events in the stream, {made} made");
        ensure!(traced == made, "{traced} events in ftrace, {made} made");
        ensure!(
            (not_told, not_traced) == (0, 0),
            "filters let through {not_told} and {not_traced} events"
        );
        let cost = |time: f64| (time - nobody) / (self.rounds * self.events) as f64;
        println!(
            "  {:<12} recorded: ravel {:.0}, ftrace {:.0} (ratio {:.2}); rejected by a filter: ravel {:.0}, \
             ftrace {:.0}; once the stream is gone: {:.0}",
            self.what,
            cost(ravel),
            cost(ftrace),
            cost(ravel) / cost(ftrace),
            cost(ravel_not),
            cost(ftrace_not),
            cost(after),
        );
        Ok(())
    }
}

/// For a VM whose clock counts instructions.
pub fn run() -> Result<()> {
    println!("Guest instructions that an event adds (aim: within 1.2 of ftrace's):");
    let _function = FunctionEvent::new()?;
    SUBJECTS.iter().try_for_each(Subject::run)
}
