//! `ravel events`: streams are made, read and removed here.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
pub use ravel_common::streams::errno;
use ravel_common::streams::{self, FAILED_AGAIN, again, late};
use ravel_records::client::Client;
use ravel_records::{Error, Event, Reader, json};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::Failure;
use crate::cli::{Create, EventSource, Events, EventsArgs, Failed, Reading};
use crate::clock::{Clock, utc};
use crate::remedy::Remedy;
use crate::screen::Screen;
use crate::spool::writer::Writer;
use crate::stop::Stop;
use crate::view;

mod spooled;

/// Does what the command says.
pub fn run(args: &EventsArgs, client: &Client) -> Result<(), Failure> {
    match (&args.command, &args.stream, &args.read) {
        (Some(command), ..) => manage(command, client),
        (_, Some(stream), _) => read(stream, &args.reading, client),
        (.., Some(folder)) => spooled::print(folder, args.reading.json),
        (None, None, None) => {
            let text = "neither a stream nor a spool is named";
            Err(Failure::Events(Remedy::new(
                text,
                "--stream STREAM, or --read DIR",
            )))
        }
    }
}

fn manage(command: &Events, client: &Client) -> Result<(), Failure> {
    match command {
        Events::List { json } => {
            let streams = client.streams()?;
            if *json {
                return crate::output::print_json(&streams, true);
            }
            {
                let screen = Screen::of_stdout();
                let list = view::events::list(&streams, &screen);
                crate::print(&view::listing::fold(&list, screen.width))
            }
        }
        Events::Create(args) => client
            .control_streams(&request(args))
            .map_err(|error| not_made(args, error)),
        Events::Remove { stream } => client
            .control_streams(&format!("remove {stream}"))
            .map_err(|error| refused(stream, error)),
        Events::Failed(args) => {
            failed(args, client).map_err(|error| refused(&args.stream, error))?
        }
        Events::Read(args) => read(&args.stream, &args.reading, client),
    }
}

/// The request that makes a stream.
pub fn request(args: &Create) -> String {
    let names: Vec<_> = args.sources.iter().map(|source| name(*source)).collect();
    let mut request = format!("create {} sources={}", args.stream, names.join(","));
    let terms = [
        ("bytes", args.bytes),
        ("attempts", args.attempts.map(u64::from)),
        ("pid", args.pid.map(u64::from)),
        ("tree", args.tree.map(u64::from)),
        ("cgroup", args.only.cgroup),
        ("port", args.only.port.map(u64::from)),
        ("protocol", args.only.protocol.map(u64::from)),
    ];
    for (key, value) in terms {
        if let Some(value) = value {
            request += &format!(" {key}={value}");
        }
    }
    if let Some(socket) = &args.only.socket {
        request += &format!(" socket={socket}");
    }
    if let Some(address) = args.only.address {
        request += &format!(" address={address}");
    }
    request
}

/// As the command line and the module have it.
fn name(source: EventSource) -> String {
    let value = source.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn failed(args: &Failed, client: &Client) -> Result<Result<(), Failure>, Error> {
    let order = match (args.replay, args.clear) {
        (true, _) => "replay",
        (_, true) => "clear",
        _ => {
            let mut failed = client.failed(&args.stream)?;
            let wanted = |event: &Event| args.seq.is_none_or(|seq| event.seq() == seq);
            failed.events.retain(wanted);
            return Ok(match args.json {
                true => crate::output::print_json(&failed, true),
                false => crate::print(&view::events::lines(&failed.events)),
            });
        }
    };
    let which = args.seq.map_or(String::new(), |seq| format!(" {seq}"));
    client.mend(&args.stream, &format!("{order}{which}"))?;
    Ok(Ok(()))
}

/// Where the records of a stream go.
enum Sink {
    Lines,
    Json,
    /// To files; this program ends once it has acknowledged what is in them.
    Spool(Box<Writer>, Stop),
}

impl Sink {
    fn of(stream: &str, args: &Reading) -> Result<Self, Failure> {
        Ok(match (&args.spool, args.json) {
            (Some(folder), _) => {
                let spool = spooled::open(folder, stream)?;
                Self::Spool(Box::new(spool), Stop::listen().map_err(Failure::Output)?)
            }
            (None, true) => Self::Json,
            (None, false) => Self::Lines,
        })
    }

    fn take(&mut self, events: &[Event]) -> Result<(), Failure> {
        match self {
            Self::Lines => crate::print(&view::events::lines(events)),
            Self::Json => crate::write(&json_lines(events)?),
            Self::Spool(spool, _) => spooled::append(spool, events),
        }
    }

    fn asked_to_stop(&self) -> bool {
        matches!(self, Self::Spool(_, stop) if stop.asked() > 0)
    }

    fn wait(&self, reader: &Reader) -> io::Result<()> {
        match self {
            Self::Spool(_, stop) => {
                stop.wait(Some(reader.as_fd()), Some(FAILED_AGAIN))?;
                stop.sleep(GATHERING);
            }
            _ => {
                wait(reader)?;
                thread::sleep(GATHERING);
            }
        }
        Ok(())
    }
}

/// How long more is waited for once there is something: to fetch one event takes far more than to tell it.
pub const GATHERING: Duration = Duration::from_millis(10);

/// Hands on batch after batch. A batch is acknowledged once all of it has gone out: where that fails, or we
/// are killed, it will go out by the next reader.
fn read(stream: &str, args: &Reading, client: &Client) -> Result<(), Failure> {
    let broken = |error| refused(stream, error);
    let mut reader = client.events(stream).map_err(broken)?;
    let mut sink = Sink::of(stream, args)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut most = 0;
    while left > 0 && !sink.asked_to_stop() {
        if most != left.min(256) {
            most = left.min(256);
            let ms = u64::from(args.lease) * 1000;
            let terms = format!("events={most} ms={ms} form=binary");
            reader.terms(&terms).map_err(broken)?;
        }
        let Some(batch) = reader.batch().map_err(broken)? else {
            // To write records down is no work that a record could make fail: those that have were with
            // readers that were killed.
            if args.spool.is_some() && again(client, stream).map_err(broken)? {
                continue;
            }
            if args.no_wait {
                break;
            }
            sink.wait(&reader).map_err(Failure::Output)?;
            continue;
        };
        sink.take(&batch.events)?;
        match reader.acknowledge(None) {
            Ok(()) => {}
            Err(error) if errno(&error) == Some(Errno::STALE) => late(),
            Err(error) => return Err(broken(error)),
        }
        left -= batch.events.len() as u64;
    }
    Ok(())
}

fn wait(reader: &Reader) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Row<'e> {
    #[serde(flatten)]
    event: &'e Event,
    /// The wall-clock time of the event in UTC, as that clock stands now.
    real: String,
}

fn json_lines(events: &[Event]) -> Result<Vec<u8>, Failure> {
    let clock = Clock::now();
    let mut text = Vec::new();
    for event in events {
        let row = Row {
            event,
            real: utc(clock.real_ns(event.time())),
        };
        json::write_line(&mut text, &row).map_err(Failure::Output)?;
    }
    Ok(text)
}

/// Why a stream could not be made, where its filter has to do with it.
pub fn not_made(args: &Create, error: Error) -> Failure {
    let nameless = args.sources.iter().find(|source| {
        use EventSource::{Drop, Packet, Reset, TcpState};
        matches!(source, TcpState | Reset | Drop | Packet)
    });
    let of_process = args.sources.iter().find(|source| {
        use EventSource::{Exec, Exit, Fork};
        matches!(source, Fork | Exec | Exit)
    });
    let names_socket = args.only.socket.is_some()
        || args.only.address.is_some()
        || args.only.port.is_some()
        || args.only.protocol.is_some();
    let remedy = match (errno(&error), nameless, of_process) {
        (Some(Errno::INVAL), Some(source), _) if args.pid.is_some() || args.tree.is_some() => {
            Remedy::new(
                format!(
                    "the kernel does not say which process a {} is of",
                    name(*source)
                ),
                "--socket PID:FD, --cgroup, --address or --port, or a stream of its own",
            )
        }
        (Some(Errno::INVAL), _, Some(source)) if names_socket => Remedy::new(
            format!("{} is about a process, not a socket", name(*source)),
            "a stream of its own for it",
        ),
        (Some(Errno::BADF), ..) => Remedy::new(
            "the process has no such descriptor",
            "ravel sockets PID, for those it has",
        ),
        (Some(Errno::NOTSOCK), ..) => Remedy::new(
            "this descriptor is no socket",
            "ravel sockets PID, for those that are",
        ),
        (Some(Errno::NOENT), ..) if args.only.cgroup.is_some() => Remedy::new(
            "there is no such cgroup of version 2",
            "a directory below /sys/fs/cgroup, or where cgroup2 is mounted",
        ),
        _ => return refused(&args.stream, error),
    };
    Failure::Events(remedy)
}

/// Explains why a stream could not be created, read or removed.
pub fn refused(stream: &str, error: Error) -> Failure {
    Failure::Events(streams::refused(stream, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn requests_say_what_was_asked_for() {
        let of = |words: &str| {
            let words = ["ravel", "events", "create"]
                .into_iter()
                .chain(words.split(' '));
            match Cli::try_parse_from(words).ok()?.command? {
                Command::Events(args) => match args.command? {
                    Events::Create(args) => Some(request(&args)),
                    _ => None,
                },
                _ => None,
            }
        };
        for (words, wanted) in [
            ("a --sources fork", "create a sources=fork"),
            (
                "jobs --sources exit,fork --tree 7 --bytes 65536 --attempts 9",
                "create jobs sources=exit,fork bytes=65536 attempts=9 tree=7",
            ),
            ("b --pid 12 --sources exec", "create b sources=exec pid=12"),
            (
                "n --sources tcp_state,drop --port 80 --address ::1 --socket 7:3 --cgroup 99",
                "create n sources=tcp_state,drop cgroup=99 port=80 socket=7:3 address=::1",
            ),
        ] {
            assert_eq!(of(words).as_deref(), Some(wanted), "{words}");
        }
        for words in [
            "a",
            "a --sources open",
            "a --sources fork --pid 1 --tree 1",
            "a --sources fork --bytes 1",
            "a --sources fork --attempts 0",
            "a --sources drop --port 0",
            "a --sources drop --port 65536",
            "a --sources drop --address 10.0.0",
            "a --sources drop --socket 7",
            "a --sources drop --cgroup /proc/self/nothing",
            "--sources fork",
        ] {
            assert_eq!(of(words), None, "{words}");
        }
    }
}
