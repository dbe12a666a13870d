//! `ravel watch`: packets on their way through the stack, by a stream that lives as long as this command.

mod capture;
mod numbers;
mod process;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ravel_records::client::Client;
use ravel_records::walks::{Crossing, Walks};
use ravel_records::{Event, Point, json};
use rustix::io::Errno;
use serde::Serialize;

use crate::Failure;
use crate::cli::{Create, EventSource, Watch};
use crate::clock::{Clock, utc};
use crate::events::{GATHERING, errno, not_made, refused, request};
use crate::stop::Stop;
use crate::view;
use capture::Capture;
use numbers::Numbers;
use process::Process;

/// A line of JSON.
#[derive(Serialize)]
struct Row<'r> {
    #[serde(flatten)]
    crossing: Option<&'r Crossing>,
    #[serde(flatten)]
    event: &'r Event,
    /// The wall-clock time of the event in UTC, as that clock stands now.
    real: String,
}

/// What the rows show.
struct Rows<'c> {
    walks: Walks,
    /// Only what is of this one.
    process: Option<Process<'c>>,
    /// The number behind the last event: what comes again, since it was not acknowledged in time, was told.
    next: u64,
    /// Only what is dropped: the crossings of what may yet be.
    held: Option<Held>,
    out: Out<'c>,
    /// Packets that were shown and have ended.
    ended: u64,
}

/// Where they go.
struct Out<'c> {
    form: Form,
    rows: view::watch::Rows,
    numbers: Numbers,
    text: String,
    clock: Clock,
    capture: Option<(&'c Path, Capture<BufWriter<File>>)>,
}

/// What is printed.
enum Form {
    Nothing,
    Rows,
    Json,
}

/// How much is fetched at once.
const TERMS: &str = "events=2048 bytes=524288 form=binary";

/// How many packets are held at most that have not ended.
const MOST_HELD: usize = 1 << 16;

/// How many of their crossings: one packet that is read with MSG_PEEK again and again has any number.
const MOST_CROSSINGS: usize = 1 << 18;

/// Does what the command says.
pub fn run(args: &Watch, client: &Client) -> Result<(), Failure> {
    let stop = Stop::listen().map_err(Failure::Output)?;
    let process = args.pid.map(|pid| Process::new(client, pid)).transpose()?;
    let create = Create {
        stream: format!("watch-{}", std::process::id()),
        sources: vec![EventSource::Packet],
        bytes: Some(args.bytes),
        attempts: None,
        pid: None,
        tree: None,
        only: args.only.clone(),
    };
    let capture = args.write.as_deref().map(|path| {
        let made = Capture::create(path).map_err(|error| not_written(path, error));
        Ok::<_, Failure>((path, made?))
    });
    let out = Out {
        form: match (args.json, &args.write) {
            (true, _) => Form::Json,
            (false, None) => Form::Rows,
            (false, Some(_)) => Form::Nothing,
        },
        rows: view::watch::Rows::new(crate::has_colours(), own_netns()),
        numbers: Numbers::default(),
        text: String::new(),
        clock: Clock::now(),
        capture: capture.transpose()?,
    };
    let _own = client
        .hold_stream(&request(&create))
        .map_err(|error| not_made(&create, error))?;
    let broken = |error| refused(&create.stream, error);
    let mut reader = client.events(&create.stream).map_err(broken)?;
    reader.terms(TERMS).map_err(broken)?;
    let mut rows = Rows {
        walks: Walks::new(),
        process,
        next: 1,
        held: args.dropped.then(Held::default),
        out,
        ended: 0,
    };
    if let Form::Rows = rows.out.form {
        crate::print(view::watch::HEAD)?;
    }
    // Not only where there is nothing to tell, which may never be.
    while stop.asked() == 0 && args.count.is_none_or(|count| rows.ended < count) {
        let Some(batch) = reader.batch().map_err(broken)? else {
            stop.wait(Some(reader.as_fd()), None)
                .map_err(Failure::Output)?;
            stop.sleep(GATHERING);
            continue;
        };
        rows.out.set_clock(Clock::now());
        for event in &batch.events {
            rows.add(event)?;
        }
        rows.out.flush()?;
        match reader.acknowledge(None) {
            Err(error) if errno(&error) != Some(Errno::STALE) => return Err(broken(error)),
            _ => {}
        }
    }
    if let Some(evicted @ 1..) = rows.held.as_ref().map(|held| held.evicted) {
        let _ = writeln!(
            anstream::stderr(),
            "ravel: {evicted} packets that had not ended were given up: had they been dropped, they would not be shown"
        );
    }
    let streams = client.streams().map_err(broken)?.streams;
    let missed = streams.iter().find(|stream| stream.name == create.stream);
    if let Some(missed) = missed
        .map(|stream| stream.missed)
        .filter(|missed| *missed > 0)
    {
        let _ = writeln!(
            anstream::stderr(),
            "ravel: {missed} crossings in non-maskable interrupts were not told"
        );
    }
    Ok(())
}

impl Rows<'_> {
    fn add(&mut self, event: &Event) -> Result<(), Failure> {
        if event.seq() < self.next {
            return Ok(());
        }
        self.next = event.seq() + event.count();
        let crossing = self.walks.take(event);
        if let (Some(process), Event::Packet(packet), Some(crossing)) =
            (&mut self.process, event, &crossing)
        {
            if !process.has(packet, crossing)? {
                return Ok(());
            }
        }
        let (Some(held), Event::Packet(packet), Some(crossing)) =
            (&mut self.held, event, &crossing)
        else {
            // What is freed after it was consumed or dropped has ended before.
            self.ended += u64::from(crossing.as_ref().is_some_and(|crossing| crossing.ends));
            return self.out.tell(event, crossing.as_ref());
        };
        let dropped = packet.point == Point::Drop;
        let shown = held.hold(event, crossing, dropped);
        for (event, crossing) in shown {
            self.out.tell(&event, Some(&crossing))?;
        }
        self.ended += u64::from(dropped && crossing.ends);
        Ok(())
    }
}

impl Out<'_> {
    /// Converts times by this clock from now on: the wall clock may have been set since the last batch.
    fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        if let Some((_, capture)) = &mut self.capture {
            capture.set_clock(clock);
        }
    }

    fn tell(&mut self, event: &Event, crossing: Option<&Crossing>) -> Result<(), Failure> {
        let shown = crossing.map(|crossing| self.numbers.renumber(crossing));
        let crossing = shown.as_ref();
        match self.form {
            Form::Nothing => {}
            Form::Rows => self.rows.add(&mut self.text, event, crossing),
            Form::Json => {
                let row = Row {
                    crossing,
                    event,
                    real: utc(self.clock.real_ns(event.time())),
                };
                let mut line = Vec::new();
                json::write_line(&mut line, &row).map_err(Failure::Output)?;
                self.text += &String::from_utf8_lossy(&line);
            }
        }
        if let Some((path, capture)) = &mut self.capture {
            let taken = capture.take(event, crossing);
            taken.map_err(|error| not_written(path, error))?;
        }
        Ok(())
    }

    /// A batch is acknowledged once all of it has gone out.
    fn flush(&mut self) -> Result<(), Failure> {
        crate::write(self.text.as_bytes())?;
        self.text.clear();
        if let Some((path, capture)) = &mut self.capture {
            capture.flush().map_err(|error| not_written(path, error))?;
        }
        Ok(())
    }
}

/// The network namespace of this command; 0 where that cannot be read, so that each is foreign.
fn own_netns() -> u64 {
    std::fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino())
}

fn not_written(path: &Path, error: io::Error) -> Failure {
    Failure::File(path.display().to_string(), error)
}

/// The crossings of packets that may yet be dropped.
#[derive(Default)]
struct Held {
    packets: BTreeMap<u64, Vec<(Event, Crossing)>>,
    /// Their crossings.
    crossings: usize,
    /// Packets that were given up, since there were too many.
    evicted: u64,
}

impl Held {
    /// Keeps a crossing, and returns all of its packet's once that is dropped.
    fn hold(
        &mut self,
        event: &Event,
        crossing: &Crossing,
        dropped: bool,
    ) -> Vec<(Event, Crossing)> {
        let crossings = self.packets.entry(crossing.packet).or_default();
        crossings.push((event.clone(), *crossing));
        self.crossings += 1;
        let shown = match dropped {
            true => mem::take(crossings),
            false => Vec::new(),
        };
        self.crossings -= shown.len();
        if crossing.ended {
            let ended = self.packets.remove(&crossing.packet);
            self.crossings -= ended.map_or(0, |ended| ended.len());
        }
        while self.packets.len() > MOST_HELD || self.crossings > MOST_CROSSINGS {
            let Some((_, evicted)) = self.packets.pop_first() else {
                break;
            };
            self.crossings -= evicted.len();
            self.evicted += 1;
        }
        shown
    }
}
