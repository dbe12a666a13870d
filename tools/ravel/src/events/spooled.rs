//! Events that go to files, and come from them.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use ravel_records::{Event, json, visible};

use crate::Failure;
use crate::origin::{Origin, Told};
use crate::remedy::Remedy;
use crate::screen::{DIM, count};
use crate::spool::reader::{self, Summary};
use crate::spool::writer::{self, Writer};
use crate::view;

/// Opens a spool to write to it.
pub fn open(folder: &Path, stream: &str) -> Result<Writer, Failure> {
    let unusable = |error| {
        unusable(
            folder,
            &error,
            "--spool with a folder that can be written to",
        )
    };
    let origin = Origin::here(stream).map_err(unusable)?;
    Writer::open(folder, origin, writer::SEGMENT).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Failure::Events(Remedy::new(
            format!("another ravel writes to {}", folder.display()),
            "a folder of its own for each, or fuser, for who it is",
        )),
        _ => unusable(error),
    })
}

/// Has records on the disk.
pub fn append(spool: &mut Writer, events: &[Event]) -> Result<(), Failure> {
    spool.append(events).map_err(|error| {
        Failure::Events(Remedy::new(
            format!(
                "cannot write to the spool: {error}; what was not written was not acknowledged"
            ),
            "df, and the same command again when there is room",
        ))
    })
}

/// Prints what a spool has, each record once.
pub fn print(folder: &Path, json: bool) -> Result<(), Failure> {
    let mut out = Out {
        json,
        text: Vec::new(),
        last: None,
    };
    let summary = reader::read(folder, |origin, event| {
        out.add(origin, event).map_err(Broken::Output)
    });
    let summary = summary.map_err(|broken| match broken {
        Broken::Output(failure) => failure,
        Broken::Input(error) => unusable(folder, &error, "--read with the folder of a --spool"),
    })?;
    out.flush()?;
    // Nobody is left to be told where even stderr is closed.
    let _ = writeln!(anstream::stderr(), "ravel: {}", sentence(&summary));
    match summary.damaged.first() {
        None => Ok(()),
        Some(path) => Err(Failure::Events(Remedy::new(
            format!(
                "{} of the spool {} damaged, {} first: batches are left out that were whole once",
                count(summary.damaged.len() as u64, "segment", "segments"),
                if summary.damaged.len() == 1 {
                    "is"
                } else {
                    "are"
                },
                path.display()
            ),
            "a look at the disk, and at its copy if there is one",
        ))),
    }
}

fn unusable(folder: &Path, error: &io::Error, mend: &str) -> Failure {
    let folder = folder.display();
    Failure::Events(Remedy::new(
        format!("cannot use the spool {folder}: {error}"),
        mend,
    ))
}

/// Why reading ended too early.
enum Broken {
    Input(io::Error),
    Output(Failure),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Input(error)
    }
}

/// What is printed, in pieces.
struct Out {
    json: bool,
    text: Vec<u8>,
    last: Option<Origin>,
}

impl Out {
    fn add(&mut self, origin: &Origin, event: &Event) -> Result<(), Failure> {
        if self.json {
            json::write_line(&mut self.text, &Told { origin, event }).map_err(Failure::Output)?;
        } else {
            if self.last.as_ref() != Some(origin) {
                let Origin { host, boot, stream } = origin;
                let whose = format!("stream {stream} of {host}, boot {boot}");
                let whose = format!("{DIM}{}{DIM:#}\n", visible(&whose));
                self.text.extend(whose.bytes());
                self.last = Some(origin.clone());
            }
            let line = view::events::lines(std::slice::from_ref(event));
            self.text.extend(line.bytes());
        }
        match self.text.len() {
            0..=65_535 => Ok(()),
            _ => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let text = std::mem::take(&mut self.text);
        match self.json {
            true => crate::write(&text),
            false => crate::print(&String::from_utf8_lossy(&text)),
        }
    }
}

fn sentence(summary: &Summary) -> String {
    let mut text = format!(
        "{} in {}",
        count(summary.records, "record", "records"),
        count(summary.segments, "segment", "segments")
    );
    if summary.again > 0 {
        text += &format!("; {} left out, delivered again by then", summary.again);
    }
    if summary.lost > 0 {
        let lost = count(summary.lost, "event", "events");
        text += &format!("; {lost} lost before, as records say");
    }
    if summary.cut > 0 {
        let cut = count(summary.cut, "byte", "bytes");
        text += &format!("; {cut} of batches that a crash cut off, and that were not acknowledged");
    }
    text
}
