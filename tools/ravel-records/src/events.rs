//! Streams of events: a batch that a reader has reserved, what failed, and the lists `streams` and
//! `sources`.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::netevents::{Close, Dropped, Packet, Release, Reset, Shut, TcpState};
use crate::{Error, FORMAT, Id, Line, ReportName, Scope, Text};

record! {
    /// A `fork` record: a process made another.
    Fork {
        /// Sequence number in the stream.
        seq: u64,
        /// Number of this attempt to hand it out.
        attempt: u32,
        /// When, in nanoseconds since boot.
        time: u64,
        /// On which CPU.
        cpu: u32,
        /// The process that called fork().
        pid: u32,
        /// Its thread that did.
        tid: u32,
        /// When that process was made, in nanoseconds since boot.
        born: u64,
        /// Its name.
        comm: Text,
        /// Its parents, nearest first.
        line: Vec<u32>,
        /// The new process.
        child: u32,
        /// When it was made, in nanoseconds since boot: its `born` in later events.
        child_born: u64,
    }
}

record! {
    /// An `exec` record: a process began another program.
    Exec {
        /// Sequence number in the stream.
        seq: u64,
        /// Number of this attempt to hand it out.
        attempt: u32,
        /// When, in nanoseconds since boot.
        time: u64,
        /// On which CPU.
        cpu: u32,
        /// The process.
        pid: u32,
        /// Its thread, the only one from now on.
        tid: u32,
        /// When the process was made, in nanoseconds since boot.
        born: u64,
        /// Its new name.
        comm: Text,
        /// Its parents, nearest first.
        line: Vec<u32>,
        /// The program, as it was named to execve().
        file: Text,
        /// Whether that was longer.
        file_cut: bool,
    }
}

record! {
    /// An `exit` record: a process' last thread ended.
    Exit {
        /// Sequence number in the stream.
        seq: u64,
        /// Number of this attempt to hand it out.
        attempt: u32,
        /// When, in nanoseconds since boot.
        time: u64,
        /// On which CPU.
        cpu: u32,
        /// The process.
        pid: u32,
        /// That thread.
        tid: u32,
        /// When the process was made, in nanoseconds since boot.
        born: u64,
        /// Its name.
        comm: Text,
        /// Its parents, nearest first.
        line: Vec<u32>,
        /// What it gave to exit().
        code: u32,
        /// The signal that ended it, or 0.
        signal: u32,
        /// Whether its memory was dumped.
        core: bool,
    }
}

record! {
    /// A `loss` record: events that the stream had no room for, in their place.
    Loss {
        /// Sequence number of the first of them.
        seq: u64,
        /// Number of this attempt to hand the record out.
        attempt: u32,
        /// When the first of them was, in nanoseconds since boot.
        time: u64,
        /// When the last of them was.
        last: u64,
        /// On which CPU they were.
        cpu: u32,
        /// How many they are.
        count: u64,
    }
}

/// A record of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process made another.
    Fork(Fork),
    /// A process began another program.
    Exec(Exec),
    /// A process ended.
    Exit(Exit),
    /// A socket went to another state.
    TcpState(TcpState),
    /// A connection was reset.
    Reset(Reset),
    /// A packet was thrown away.
    Drop(Dropped),
    /// shutdown() was called.
    Shutdown(Shut),
    /// A descriptor of a socket was given up.
    Close(Close),
    /// The last reference on a socket is gone.
    Release(Release),
    /// A packet came by a point of its way.
    Packet(Packet),
    /// Events were lost.
    Loss(Loss),
}

/// The same of each kind of event.
macro_rules! each {
    ($of:expr, $event:ident => $value:expr) => {
        match $of {
            Event::Fork($event) => $value,
            Event::Exec($event) => $value,
            Event::Exit($event) => $value,
            Event::TcpState($event) => $value,
            Event::Reset($event) => $value,
            Event::Drop($event) => $value,
            Event::Shutdown($event) => $value,
            Event::Close($event) => $value,
            Event::Release($event) => $value,
            Event::Packet($event) => $value,
            Event::Loss($event) => $value,
        }
    };
}

impl Event {
    /// The event that a line describes; none if this version does not know its kind.
    pub fn from_line(line: &Line<'_>) -> Result<Option<Self>, Error> {
        Ok(Some(match line.kind {
            "fork" => Self::Fork(Fork::from_line(line)?),
            "exec" => Self::Exec(Exec::from_line(line)?),
            "exit" => Self::Exit(Exit::from_line(line)?),
            "tcp_state" => Self::TcpState(TcpState::from_line(line)?),
            "reset" => Self::Reset(Reset::from_line(line)?),
            "drop" => Self::Drop(Dropped::from_line(line)?),
            "shutdown" => Self::Shutdown(Shut::from_line(line)?),
            "close" => Self::Close(Close::from_line(line)?),
            "release" => Self::Release(Release::from_line(line)?),
            "packet" => Self::Packet(Packet::from_line(line)?),
            "loss" => Self::Loss(Loss::from_line(line)?),
            _ => return Ok(None),
        }))
    }

    /// Adds it as a line of JSON.
    ///
    /// Here, since this crate is compiled as one piece: elsewhere each of the few bytes that JSON is made of is a call.
    pub fn write_json(&self, to: &mut Vec<u8>) -> std::io::Result<()> {
        crate::json::write_line(to, self)
    }

    /// Its sequence number; of a loss, the first.
    pub fn seq(&self) -> u64 {
        each!(self, event => event.seq)
    }

    /// How many sequence numbers it stands for.
    pub fn count(&self) -> u64 {
        match self {
            Self::Loss(loss) => loss.count,
            _ => 1,
        }
    }

    /// Number of this attempt to hand it out.
    pub fn attempt(&self) -> u32 {
        each!(self, event => event.attempt)
    }

    /// When it was, in nanoseconds since boot; of a loss, the first.
    pub fn time(&self) -> u64 {
        each!(self, event => event.time)
    }
}

record! {
    /// The `batch` record, the first of a batch.
    BatchHeader {
        /// The stream.
        stream: String,
        /// Version of the format.
        format: u64,
        /// When the lease ends, in nanoseconds since boot.
        deadline: u64,
        /// How often a record is handed out at most.
        attempts: u32,
    }
}

record! {
    /// The counts of a batch.
    BatchSummary {
        /// Always `events`.
        report: ReportName,
        /// Records of the batch.
        records: u64,
        /// The sum of its losses.
        lost: u64,
    }
}

/// A batch: what one read reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Whose it is, and for how long it is reserved.
    pub header: BatchHeader,
    /// The records, the oldest first.
    pub events: Vec<Event>,
    /// The counts.
    pub summary: BatchSummary,
}

record! {
    /// The `failed` record, the first of a list of what failed.
    FailedHeader {
        /// The stream.
        stream: String,
        /// Version of the format.
        format: u64,
    }
}

record! {
    /// The counts of a list of what failed.
    FailedSummary {
        /// Always `failed`.
        report: ReportName,
        /// Records in the list.
        records: u64,
    }
}

/// What a stream handed out as often as it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Whose it is.
    pub header: FailedHeader,
    /// The records, the oldest first.
    pub events: Vec<Event>,
    /// The counts.
    pub summary: FailedSummary,
}

/// The first line, which must be of that kind and of a version that is known, and the events.
fn events<'a, H>(
    text: &'a [u8],
    kind: &str,
    header: impl FnOnce(&Line<'a>) -> Result<H, Error>,
) -> Result<(H, Vec<Event>, Line<'a>), Error> {
    let mut body = Body::new(text);
    let first = match body.next()? {
        Some(line) => line,
        None => {
            return Err(body
                .summary()?
                .error(format!("a summary where `{kind}` belongs")));
        }
    };
    if first.kind != kind {
        return Err(first.error(format!("`{}` where `{kind}` belongs", first.kind)));
    }
    let found = first.get("format")?;
    if found != FORMAT {
        return Err(Error::Format {
            found,
            known: FORMAT,
        });
    }
    let header = header(first)?;
    let mut events: Vec<Event> = Vec::new();
    let mut unknown = 0;
    while let Some(line) = body.next()? {
        match Event::from_line(line)? {
            Some(event) => {
                let last = events.last().map_or(0, Event::seq);
                if event.seq() <= last {
                    return Err(line.error(format!("{} behind {last}", event.seq())));
                }
                events.push(event);
            }
            None => unknown += 1,
        }
    }
    let last = body.summary()?;
    let stated = last.get("records")?;
    check(&last, "records", stated, events.len(), unknown)?;
    Ok((header, events, last))
}

impl Batch {
    /// Parses a whole batch; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, events, last) = events(text, "batch", BatchHeader::from_line)?;
        let summary = BatchSummary::from_line(&last)?;
        let lost = events
            .iter()
            .filter(|event| matches!(event, Event::Loss(_)));
        let lost = lost.map(Event::count).fold(0, u64::saturating_add);
        if summary.lost != lost {
            let stated = summary.lost;
            return Err(last.error(format!("{stated} lost, the records say {lost}")));
        }
        Ok(Self {
            header,
            events,
            summary,
        })
    }
}

impl Failed {
    /// Parses the whole list; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, events, last) = events(text, "failed", FailedHeader::from_line)?;
        Ok(Self {
            header,
            events,
            summary: FailedSummary::from_line(&last)?,
        })
    }
}

record! {
    /// A `stream` record of the list `streams`.
    Stream {
        /// Its name.
        name: String,
        /// What it has: names of sources, with commas between.
        sources: String,
        /// Whose events.
        scope: Scope,
        /// The process that `scope` is about, or 0.
        pid: u32,
        /// The socket that it is about; none where that does not matter.
        socket: Id,
        /// The cgroup, by its id, or 0.
        cgroup: u64,
        /// The address of either end; empty where that does not matter.
        address: Text,
        /// The port of either end, or 0.
        port: u16,
        /// The number of what IP carries, or 0.
        protocol: u16,
        /// Whether it goes with the descriptor that it was made on.
        until_close: bool,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes taken, the filter's too.
        memory: u64,
        /// Events that have happened since it was made.
        events: u64,
        /// Of these, those that no reader has come near yet.
        waiting: u64,
        /// And those that it had no room for.
        lost: u64,
        /// Events besides that no probe could be told of.
        missed: u64,
        /// Records that can be reserved now.
        ready: u64,
        /// Records that readers have reserved.
        reserved: u64,
        /// Records that were given back, to be ready later.
        delayed: u64,
        /// Records that were handed out as often as they may.
        failed: u64,
        /// Records that were acknowledged.
        acked: u64,
        /// Failed records that were cleared.
        cleared: u64,
        /// Readers that have reserved something.
        leases: u64,
        /// Records handed out in all, each as often as it was.
        attempts: u64,
        /// How often a record is handed out at most.
        max_attempts: u32,
    }
}

record! {
    /// The counts of the list `streams`.
    StreamsSummary {
        /// Always `streams`.
        report: ReportName,
        /// Streams there are.
        streams: u64,
        /// Streams that there can be.
        limit: u64,
    }
}

/// The whole file `streams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// The streams, in the order of their making.
    pub streams: Vec<Stream>,
    /// The counts.
    pub summary: StreamsSummary,
}

impl Streams {
    /// Parses the whole file; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut body = Body::new(text);
        let mut streams = Vec::new();
        while let Some(line) = body.next()? {
            if line.kind == "stream" {
                streams.push(Stream::from_line(line)?);
            }
        }
        let last = body.summary()?;
        let summary = StreamsSummary::from_line(&last)?;
        check(&last, "streams", summary.streams, streams.len(), 0)?;
        Ok(Self { streams, summary })
    }
}

record! {
    /// A `source` record of the list `sources`.
    Source {
        /// Its name.
        name: String,
        /// The kernel's tracepoints that it hangs on, with commas between, or `none`.
        tracepoints: String,
        /// The kernel's functions that it hangs on, in the same form.
        functions: String,
        /// How many of these this kernel lacks, or does not let be probed.
        missing: u64,
    }
}

impl Source {
    /// Whether streams can have it.
    pub fn found(&self) -> bool {
        self.missing == 0
    }

    /// What it hangs on: functions with `()`, and commas between.
    pub fn hooks(&self) -> String {
        let names = |list: &str| {
            let names = list.split(',').filter(|name| *name != "none");
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let functions = names(&self.functions);
        let functions = functions.iter().map(|name| format!("{name}()"));
        let all: Vec<_> = names(&self.tracepoints)
            .into_iter()
            .chain(functions)
            .collect();
        all.join(", ")
    }
}

/// The whole file `sources`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The sources.
    pub sources: Vec<Source>,
}

impl Sources {
    /// Parses the whole file; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut body = Body::new(text);
        let mut sources = Vec::new();
        while let Some(line) = body.next()? {
            if line.kind == "source" {
                sources.push(Source::from_line(line)?);
            }
        }
        let last = body.summary()?;
        check(&last, "sources", last.get("sources")?, sources.len(), 0)?;
        Ok(Self { sources })
    }
}
