// SPDX-License-Identifier: GPL-2.0
//! Streams of events, and processes that make a known number of them.

use std::fs;

use anyhow::{Context, Result, ensure};
use ravel_records::client::Client;
use ravel_records::{Error, Event, Fork, Reader};

use crate::module::DIR;
use crate::process::Child;
use crate::sys::{self, Pid};

/// The module, by the library.
pub fn client() -> Client {
    Client::new(DIR)
}

/// The errno of an error that is no more than that, else 0.
pub fn errno_of(error: &Error) -> i32 {
    match error {
        Error::Io { source, .. } => sys::errno(source),
        _ => 0,
    }
}

/// What came of something that may fail with an errno: 0 where it did not.
pub fn errno<T>(result: Result<T, Error>) -> i32 {
    result.map_or_else(|error| errno_of(&error), |_| 0)
}

/// A stream, that is removed at the end.
pub struct Made(pub &'static str);

impl Made {
    /// Makes it: `sources=... bytes=...`.
    pub fn new(name: &'static str, terms: &str) -> Result<Self> {
        client().control_streams(&format!("create {name} {terms}"))?;
        Ok(Self(name))
    }

    /// A reader with a descriptor of its own.
    pub fn reader(&self) -> Result<Reader> {
        Ok(client().events(self.0)?)
    }

    /// Its record in the list.
    pub fn state(&self) -> Result<ravel_records::Stream> {
        let all = client().streams()?.streams;
        all.into_iter()
            .find(|stream| stream.name == self.0)
            .context("it is not in the list")
    }

    /// Everything that is ready, acknowledged batch by batch.
    pub fn drain(&self) -> Result<Vec<Event>> {
        self.batches(usize::MAX)
    }

    /// The same, but of so many batches: what never pauses may be quicker than its reader.
    pub fn batches(&self, most: usize) -> Result<Vec<Event>> {
        let mut reader = self.reader()?;
        let mut all = Vec::new();
        for _ in 0..most {
            let Some(batch) = reader.batch()? else {
                break;
            };
            reader.acknowledge(None)?;
            all.extend(batch.events);
        }
        Ok(all)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // A test that removes it itself has done so, or says why not.
        let _ = client().control_streams(&format!("remove {}", self.0));
    }
}

/// A process that forks children as told, each of which exits at once with a code from 0 to 99.
pub struct Forker {
    /// The process.
    pub child: Child,
}

impl Forker {
    /// One that runs wherever it may, or on one CPU.
    pub fn new(cpu: Option<usize>) -> Result<Self> {
        let child = Child::spawn(move |link| {
            if let Some(cpu) = cpu {
                sys::run_on(cpu)?;
            }
            loop {
                let count: usize = link.wait()?.parse()?;
                let mut pids = Vec::new();
                for at in 0..count {
                    let pid = sys::brief_child(at as u8 % 100)?;
                    pids.push(pid.to_string());
                    sys::wait(pid)?.ok();
                }
                link.send(&pids.join(" "))?;
            }
        })?;
        Ok(Self { child })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Has it fork: the children's pids, in order.
    pub fn fork(&mut self, count: usize) -> Result<Vec<u32>> {
        self.begin(count)?;
        self.end()
    }

    /// Has it begin to.
    pub fn begin(&mut self, count: usize) -> Result<()> {
        self.child.link.send(&count.to_string())
    }

    /// Waits until it is done, for as long as the test may take.
    pub fn end(&mut self) -> Result<Vec<u32>> {
        let pids = self.child.link.wait()?;
        let pids: Result<Vec<u32>, _> = pids.split_whitespace().map(str::parse).collect();
        Ok(pids?)
    }
}

/// The fork events.
pub fn forks(events: &[Event]) -> Vec<&Fork> {
    let forks = events.iter().filter_map(|event| match event {
        Event::Fork(fork) => Some(fork),
        _ => None,
    });
    forks.collect()
}

/// The children of fork events.
pub fn children(events: &[Event]) -> Vec<u32> {
    forks(events).iter().map(|fork| fork.child).collect()
}

/// Checks that events are numbered from `first` on without a gap, loss records standing for as many as they
/// say, in the order of their times: the number behind the last.
pub fn check_numbers(events: &[Event], first: u64) -> Result<u64> {
    let (mut next, mut time) = (first, 0);
    for event in events {
        ensure!(
            event.seq() == next,
            "number {} where {next} belongs: {event:?}",
            event.seq()
        );
        ensure!(
            event.time() >= time,
            "an event from before {time}: {event:?}"
        );
        next += event.count();
        time = event.time();
    }
    Ok(next)
}

/// How many events are lost, by the loss records.
pub fn lost(events: &[Event]) -> u64 {
    let losses = events
        .iter()
        .filter(|event| matches!(event, Event::Loss(_)));
    losses.map(Event::count).sum()
}

/// How many CPUs there can be.
pub fn possible_cpus() -> Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
    Ok(last.parse::<usize>()? + 1)
}
