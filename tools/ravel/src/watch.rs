//! `ravel watch`: packets on their way through the stack, by a stream that lives as long as this command.

mod capture;
mod process;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;

use ravel_records::client::Client;
use ravel_records::walks::{Crossing, Walks};
use ravel_records::{Event, Point};
use rustix::io::Errno;
use serde::Serialize;

use crate::Failure;
use crate::cli::{Create, EventSource, Watch};
use crate::events::{GATHERING, errno, not_made, refused, request};
use crate::stop::Stop;
use crate::view;
use capture::Capture;
use process::Process;

/// A line of JSON.
#[derive(Serialize)]
struct Row<'r> {
    #[serde(flatten)]
    crossing: Option<&'r Crossing>,
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
    /// Only what is dropped: the crossings of what may yet be.
    held: Option<BTreeMap<u64, Vec<(Event, Crossing)>>>,
    out: Out<'c>,
    /// Packets that were told of and have ended.
    ended: u64,
}

/// Where they go.
struct Out<'c> {
    form: Form,
    rows: view::watch::Rows,
    text: String,
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
        rows: view::watch::Rows::new(crate::has_colours()),
        text: String::new(),
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
        held: args.dropped.then(BTreeMap::new),
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
        for event in &batch.events {
            rows.add(event)?;
        }
        rows.out.flush()?;
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
        for (event, crossing) in hold(held, event, crossing, dropped) {
            self.out.tell(&event, Some(&crossing))?;
        }
        self.ended += u64::from(dropped && crossing.ends);
        Ok(())
    }
}

impl Out<'_> {
    fn tell(&mut self, event: &Event, crossing: Option<&Crossing>) -> Result<(), Failure> {
        match self.form {
            Form::Nothing => {}
            Form::Rows => self.rows.add(&mut self.text, event, crossing),
            Form::Json => {
                let row = serde_json::to_string(&Row { crossing, event });
                self.text += &row.map_err(|error| Failure::Output(io::Error::other(error)))?;
                self.text.push('\n');
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

fn not_written(path: &Path, error: io::Error) -> Failure {
    Failure::File(path.display().to_string(), error)
}

/// Keeps a crossing, and gives all of its packet's where it is dropped.
fn hold(
    held: &mut BTreeMap<u64, Vec<(Event, Crossing)>>,
    event: &Event,
    crossing: &Crossing,
    dropped: bool,
) -> Vec<(Event, Crossing)> {
    let crossings = held.entry(crossing.packet).or_default();
    crossings.push((event.clone(), *crossing));
    let told = if dropped {
        mem::take(crossings)
    } else {
        Vec::new()
    };
    if crossing.ended {
        held.remove(&crossing.packet);
    } else if held.len() > MOST_HELD {
        held.pop_first();
    }
    told
}
