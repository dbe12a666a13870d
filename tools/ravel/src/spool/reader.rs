//! Reading a spool: each record once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use ravel_records::Event;

use super::seen::Seen;
use super::{COMMIT, Commit, FORMAT, Header, crc, segments};
use crate::origin::Origin;

/// What there was besides the records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments that were read.
    pub segments: u64,
    /// Records that were told.
    pub records: u64,
    /// Records left out, since they were told before.
    pub again: u64,
    /// Events that the kernel had no room for, by the records told.
    pub lost: u64,
    /// Bytes behind the last whole batches of segments: of batches that were never acknowledged.
    pub cut: u64,
    /// Batches that were whole on the disk once, and are no more: their segments.
    pub damaged: Vec<PathBuf>,
}

/// Tells every record of a spool once, in the order of their delivery. Who writes to it meanwhile does no
/// harm.
pub fn read<E: From<io::Error>>(
    folder: &Path,
    mut tell: impl FnMut(&Origin, &Event) -> Result<(), E>,
) -> Result<Summary, E> {
    let mut summary = Summary::default();
    // By boot and stream: a machine may have been renamed.
    let mut seen: HashMap<(String, String), Seen> = HashMap::new();
    for (_, path) in segments(folder)? {
        summary.segments += 1;
        let mut segment = Segment::open(&path)?;
        let mut is_new = true;
        while let Some(events) = segment.batch()? {
            let Some(origin) = &segment.origin else {
                continue;
            };
            let key = (origin.boot.clone(), origin.stream.clone());
            let seen = seen.entry(key).or_default();
            if std::mem::take(&mut is_new) {
                seen.next_segment();
            }
            for event in &events {
                if seen.has(event) {
                    summary.again += 1;
                    continue;
                }
                tell(origin, event)?;
                seen.add(event);
                summary.records += 1;
                if let Event::Loss(loss) = event {
                    summary.lost = summary.lost.saturating_add(loss.count);
                }
            }
        }
        summary.cut += segment.pending.len() as u64;
        if segment.damaged {
            summary.damaged.push(path);
        }
    }
    Ok(summary)
}

struct Segment {
    lines: BufReader<File>,
    origin: Option<Origin>,
    /// What was read behind the last batch.
    pending: Vec<u8>,
    /// Whether `pending` holds a batch that is not what its last line says.
    bad: bool,
    damaged: bool,
}

impl Segment {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            lines: BufReader::new(File::open(path)?),
            origin: None,
            pending: Vec::new(),
            bad: false,
            damaged: false,
        })
    }

    /// The next whole batch.
    fn batch(&mut self) -> io::Result<Option<Vec<Event>>> {
        let mut start = self.pending.len();
        loop {
            let from = self.pending.len();
            self.lines.read_until(b'\n', &mut self.pending)?;
            let line = &self.pending[from..];
            if !line.ends_with(b"\n") {
                return Ok(None);
            }
            if !line.starts_with(COMMIT) {
                continue;
            }
            let batch = self.parse(&self.pending[start..from], line)?;
            if batch.is_none() {
                // One that is whole may follow, but for the first.
                self.damaged |= self.origin.is_none();
                self.bad = true;
                start = self.pending.len();
                continue;
            }
            // A batch is on the disk before the next is written: no crash makes a hole.
            self.damaged |= self.bad;
            self.bad = false;
            self.pending.clear();
            start = 0;
            match batch {
                Some(Batch::Header(origin)) => self.origin = Some(origin),
                Some(Batch::Events(events)) => return Ok(Some(events)),
                None => {}
            }
        }
    }

    /// What stands in a batch, if it is what its last line says.
    fn parse(&self, batch: &[u8], commit: &[u8]) -> io::Result<Option<Batch>> {
        let Ok(commit) = serde_json::from_slice::<Commit>(commit) else {
            return Ok(None);
        };
        if commit.crc32 != crc(batch) {
            return Ok(None);
        }
        if self.origin.is_none() {
            // Where the first batch is damaged, nobody knows whose the others are.
            return match (commit.records, self.bad) {
                (0, false) => Ok(Some(Batch::Header(header(batch)?))),
                _ => Ok(None),
            };
        }
        let lines = batch.split_inclusive(|byte| *byte == b'\n');
        let events: Vec<Event> = lines.map(parse).collect::<io::Result<_>>()?;
        Ok((events.len() == commit.records).then_some(Batch::Events(events)))
    }
}

enum Batch {
    Header(Origin),
    Events(Vec<Event>),
}

fn header(line: &[u8]) -> io::Result<Origin> {
    let header: Header = parse(line)?;
    if header.spool != FORMAT {
        let found = header.spool;
        let text = format!("it is of format {found}, this program reads {FORMAT}");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    Ok(header.origin)
}

/// A line whose CRC is right, and that this version may not know all the same.
fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> io::Result<T> {
    serde_json::from_slice(line).map_err(|error| {
        let text = format!("another version of ravel wrote it: {error}");
        io::Error::new(ErrorKind::InvalidData, text)
    })
}
