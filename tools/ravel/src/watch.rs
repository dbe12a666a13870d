//! `ravel watch`: packets on their way through the stack, by a stream that lives as long as this command.

mod process;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;

use ravel_records::client::Client;
use ravel_records::walks::{Crossing, Walks};
use ravel_records::{Event, Packet, Point};
use rustix::io::Errno;
use serde::Serialize;

use crate::Failure;
use crate::cli::{Create, EventSource, Watch};
use crate::events::{errno, not_made, refused, request};
use crate::stop::Stop;
use crate::view;
use process::Process;

/// A line of JSON.
#[derive(Serialize)]
struct Row<'r> {
    #[serde(flatten)]
    crossing: Option<Crossing>,
    #[serde(flatten)]
    event: &'r Event,
}

/// What is told in rows.
struct Rows<'c> {
    walks: Walks,
    /// Only what is of this one.
    process: Option<Process<'c>>,
    /// The number behind the last event: what comes again, since it was not acknowledged in time, was told.
    next: u64,
    /// Only what is dropped: the rows of what may yet be.
    held: Option<BTreeMap<u64, String>>,
    json: bool,
    /// Packets that were told of and have ended.
    ended: u64,
}

/// How many packets are held at most that have not ended.
const MOST_HELD: usize = 1 << 16;

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
        socket: args.socket.clone(),
        cgroup: args.cgroup,
        address: args.address,
        port: args.port,
        protocol: args.protocol,
    };
    let _own = client
        .hold_stream(&request(&create))
        .map_err(|error| not_made(&create, error))?;
    let broken = |error| refused(&create.stream, error);
    let mut reader = client.events(&create.stream).map_err(broken)?;
    let mut rows = Rows {
        walks: Walks::new(),
        process,
        next: 1,
        held: args.dropped.then(BTreeMap::new),
        json: args.json,
        ended: 0,
    };
    if !args.json {
        crate::print(view::watch::HEAD)?;
    }
    // Not only where there is nothing to tell, which may never be.
    while stop.asked() == 0 && args.count.is_none_or(|count| rows.ended < count) {
        let Some(batch) = reader.batch().map_err(broken)? else {
            stop.wait(Some(reader.as_fd()), None)
                .map_err(Failure::Output)?;
            continue;
        };
        let mut text = String::new();
        for event in &batch.events {
            rows.add(event, &mut text)?;
        }
        match args.json {
            true => crate::write(text.as_bytes())?,
            false => crate::print(&text)?,
        }
        match reader.acknowledge(None) {
            Err(error) if errno(&error) != Some(Errno::STALE) => return Err(broken(error)),
            _ => {}
        }
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
    fn add(&mut self, event: &Event, text: &mut String) -> Result<(), Failure> {
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
        let row = match self.json {
            true => {
                let row = Row { crossing, event };
                let row = serde_json::to_string(&row);
                row.map_err(|error| Failure::Output(io::Error::other(error)))? + "\n"
            }
            false => view::watch::row(event, crossing.as_ref()),
        };
        let (Event::Packet(packet), Some(crossing)) = (event, crossing) else {
            text.push_str(&row);
            return Ok(());
        };
        let told = match &mut self.held {
            None => {
                text.push_str(&row);
                true
            }
            Some(held) => hold(held, packet, &crossing, row, text),
        };
        // What is freed after it was consumed or dropped has ended before.
        self.ended += u64::from(told && crossing.ends);
        Ok(())
    }
}

/// Keeps the row, and gives all of the packet's where it is dropped: whether it was.
fn hold(
    held: &mut BTreeMap<u64, String>,
    packet: &Packet,
    crossing: &Crossing,
    row: String,
    text: &mut String,
) -> bool {
    let rows = held.entry(crossing.packet).or_default();
    rows.push_str(&row);
    let dropped = packet.point == Point::Drop;
    if dropped {
        text.push_str(rows);
    }
    if crossing.ended {
        held.remove(&crossing.packet);
    } else if held.len() > MOST_HELD {
        held.pop_first();
    }
    dropped
}
