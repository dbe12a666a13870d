//! `ravel watch`: packets on their way through the stack, by a stream that lives as long as this command.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use ravel_records::client::Client;
use ravel_records::walks::{Crossing, Walks};
use ravel_records::{Event, Packet, Point};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Failure;
use crate::cli::{Create, EventSource, Watch};
use crate::events::{acknowledge, not_made, refused, request};
use crate::view;

/// The command's own stream, which is removed at the end.
struct Own<'c> {
    client: &'c Client,
    name: String,
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = self
            .client
            .control_streams(&format!("remove {}", self.name));
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Row<'r> {
    #[serde(flatten)]
    crossing: Option<Crossing>,
    #[serde(flatten)]
    event: &'r Event,
}

/// What is told in rows.
struct Rows {
    walks: Walks,
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
    let signals = signals().map_err(Failure::Output)?;
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
    };
    client
        .control_streams(&request(&create))
        .map_err(|error| not_made(&create, error))?;
    let own = Own {
        client,
        name: create.stream,
    };
    let broken = |error| refused(&own.name, error);
    let mut reader = client.events(&own.name).map_err(broken)?;
    let mut rows = Rows {
        walks: Walks::new(),
        held: args.dropped.then(BTreeMap::new),
        json: args.json,
        ended: 0,
    };
    if !args.json {
        crate::print(view::watch::HEAD)?;
    }
    while args.count.is_none_or(|count| rows.ended < count) {
        match reader.batch().map_err(broken)? {
            Some(batch) => {
                let mut text = String::new();
                for event in &batch.events {
                    rows.add(event, &mut text)?;
                }
                match args.json {
                    true => crate::write(text.as_bytes())?,
                    false => crate::print(&text)?,
                }
                acknowledge(&mut reader, "fewer packets: --port, --address or --socket")
                    .map_err(broken)?;
            }
            None => {
                if !wait(&reader, &signals).map_err(Failure::Output)? {
                    break;
                }
            }
        }
    }
    let streams = client.streams().map_err(broken)?.streams;
    let missed = streams.iter().find(|stream| stream.name == own.name);
    if let Some(missed) = missed
        .map(|stream| stream.missed)
        .filter(|missed| *missed > 0)
    {
        let _ = writeln!(
            anstream::stderr(),
            "ravel: {missed} crossings were not told: another probe ran on that CPU just then"
        );
    }
    Ok(())
}

impl Rows {
    fn add(&mut self, event: &Event, text: &mut String) -> Result<(), Failure> {
        let crossing = self.walks.take(event);
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

/// Readable once we are to end.
fn signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Waits for events; false: we are to end.
fn wait(reader: &ravel_records::Reader, signals: &UnixStream) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::new(reader, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds[1].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
