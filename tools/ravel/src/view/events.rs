//! Events as lines, and streams as a table.

pub mod net;

use std::fmt::{self, Display, Formatter, Write};

use comfy_table::Cell;
use ravel_records::{Event, Id, Scope, Stream, Streams};

use super::table::{Column, bad, dim, note, number, table};
use crate::screen::{BAD, DIM, NAME, NOTE, STRONG, Screen, count, plain, size};

const COLUMNS: [(&str, Column); 11] = [
    ("STREAM", Column::Left),
    ("SOURCES", Column::Left),
    ("OF", Column::Left),
    ("MEMORY", Column::Right),
    ("EVENTS", Column::Right),
    ("LOST", Column::Right),
    ("READY", Column::Right),
    ("RESERVED", Column::Right),
    ("DELAYED", Column::Right),
    ("FAILED", Column::Right),
    ("ACKED", Column::Right),
];

/// The streams as a table.
pub fn list(streams: &Streams, screen: &Screen) -> String {
    let mut text = String::new();
    if !streams.streams.is_empty() {
        let mut rows = table(screen, &COLUMNS);
        for stream in &streams.streams {
            rows.add_row(row(stream));
        }
        text = super::table::lines(&rows, 0);
        text.push('\n');
    }
    let summary = &streams.summary;
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{STRONG}{}{STRONG:#} of {} that there can be.",
        count(summary.streams, "stream", "streams"),
        summary.limit
    );
    text
}

/// What its events have to be of; empty for anything.
fn whose(stream: &Stream) -> String {
    let mut parts = Vec::new();
    match stream.scope {
        Scope::All => {}
        Scope::Tree => parts.push(format!("{} and below", stream.pid)),
        _ => parts.push(stream.pid.to_string()),
    }
    if stream.socket != Id::NONE {
        parts.push(format!("socket {}", stream.socket));
    }
    if stream.cgroup != 0 {
        parts.push(format!("cgroup {}", stream.cgroup));
    }
    let address = plain(&stream.address);
    if !address.is_empty() {
        parts.push(address);
    }
    if stream.port != 0 {
        parts.push(format!("port {}", stream.port));
    }
    if stream.protocol != 0 {
        parts.push(format!("protocol {}", stream.protocol));
    }
    parts.join(", ")
}

/// What is lost stands in the stream; what is missed, nowhere.
fn lost(stream: &Stream) -> u64 {
    stream.lost + stream.missed
}

fn row(stream: &Stream) -> Vec<Cell> {
    let whose = match whose(stream) {
        all if all.is_empty() => dim("all"),
        whose => Cell::new(whose),
    };
    let marked = |value: u64, mark: fn(u64) -> Cell| match value {
        0 => dim(0),
        value => mark(value),
    };
    vec![
        Cell::new(&stream.name),
        Cell::new(&stream.sources),
        whose,
        Cell::new(size(stream.memory)),
        number(stream.events),
        marked(lost(stream), bad),
        number(stream.ready + stream.waiting),
        number(stream.reserved),
        number(stream.delayed),
        marked(stream.failed, note),
        number(stream.acked),
    ]
}

/// One line for each.
pub fn lines(events: &[Event]) -> String {
    events.iter().map(line).collect()
}

/// One line.
pub fn line(event: &Event) -> String {
    let mut text = format!("{DIM}{:>6} {}{DIM:#}  ", event.seq(), Seconds(event.time()));
    // Writing to a String does not fail.
    let _ = match event {
        Event::Fork(fork) => write!(
            text,
            "fork  {} {NAME}{}{NAME:#} made {}",
            fork.pid,
            plain(&fork.comm),
            fork.child
        ),
        Event::Exec(exec) => write!(
            text,
            "exec  {} {NAME}{}{NAME:#} is {}{}",
            exec.pid,
            plain(&exec.comm),
            plain(&exec.file),
            if exec.file_cut { "…" } else { "" }
        ),
        Event::Exit(exit) => {
            let how = match (exit.signal, exit.core) {
                (0, _) => format!("exit code {}", exit.code),
                (signal, false) => format!("killed by signal {signal}"),
                (signal, true) => format!("killed by signal {signal}, memory dumped"),
            };
            write!(
                text,
                "exit  {} {NAME}{}{NAME:#} {how}, after {:#} s",
                exit.pid,
                plain(&exit.comm),
                Seconds(exit.time.saturating_sub(exit.born))
            )
        }
        Event::TcpState(_)
        | Event::Reset(_)
        | Event::Drop(_)
        | Event::Shutdown(_)
        | Event::Close(_)
        | Event::Release(_)
        | Event::Packet(_) => text.write_str(&net::line(event)),
        Event::Loss(loss) => write!(
            text,
            "{BAD}lost  {} on CPU {}, until {:#}{BAD:#}",
            count(loss.count, "event", "events"),
            loss.cpu,
            Seconds(loss.last)
        ),
    };
    if event.attempt() > 1 {
        let _ = write!(text, "  {NOTE}attempt {}{NOTE:#}", event.attempt());
    }
    text.push('\n');
    text
}

/// Nanoseconds as seconds, to the microsecond, in thirteen columns; with `#`, in as few as it takes.
pub struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000);
        let width = if f.alternate() { 0 } else { 6 };
        write!(f, "{seconds:>width$}.{micros:06}")
    }
}

/// A number as it stands in a table; a dash where there is none.
pub struct OrDash<N>(pub Option<N>);

impl<N: Display> Display for OrDash<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(number) => number.fmt(f),
            None => f.pad("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use ravel_records::Batch;

    #[test]
    fn a_batch_as_lines() {
        let text = include_bytes!("../../../ravel-records/tests/samples/events-batch.txt");
        let batch = Batch::parse(text).unwrap();
        insta::assert_snapshot!(strip_str(&lines(&batch.events)).to_string());
    }

    #[test]
    fn events_of_the_network_as_lines() {
        let text = include_bytes!("../../../ravel-records/tests/samples/events-network.txt");
        let batch = Batch::parse(text).unwrap();
        insta::assert_snapshot!(strip_str(&lines(&batch.events)).to_string());
    }

    #[test]
    fn streams_as_a_table() {
        let text = include_bytes!("../../../ravel-records/tests/samples/streams.txt");
        let streams = Streams::parse(text).unwrap();
        let wide = Screen { width: None };
        insta::assert_snapshot!(strip_str(&list(&streams, &wide)).to_string());
    }
}
