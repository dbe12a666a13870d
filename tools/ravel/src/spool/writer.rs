//! Writing a spool.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use ravel_records::Event;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Commit, FORMAT, Header, crc, segments};
use crate::origin::Origin;

/// Bytes after which a segment is closed, and the next one begun.
pub const SEGMENT: u64 = 64 << 20;

/// A spool that this program writes to, and no other meanwhile.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    /// Is locked, and makes names of new segments last.
    folder: File,
    origin: Origin,
    next: u64,
    limit: u64,
    open: Option<(File, u64)>,
    /// A write or fsync has failed: nobody knows what of it is on the disk.
    broken: bool,
}

impl Writer {
    /// Opens a spool, and makes its folder where it is not there. `WouldBlock`: another writes to it.
    pub fn open(path: &Path, origin: Origin, limit: u64) -> io::Result<Self> {
        create(path)?;
        let folder = File::open(path)?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => io::Error::from(ErrorKind::WouldBlock),
            errno => errno.into(),
        })?;
        let next = segments(path)?
            .last()
            .map_or(1, |(number, _)| number.saturating_add(1));
        Ok(Self {
            path: path.to_owned(),
            folder,
            origin,
            next,
            limit,
            open: None,
            broken: false,
        })
    }

    /// Has records on the disk once it returns. After a failure nothing more is written.
    pub fn append(&mut self, events: &[Event]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.broken = true;
        self.write(events)?;
        self.broken = false;
        Ok(())
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        let mut text = Vec::new();
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.path.join(format!("{:08}.jsonl", self.next));
                let file = File::options().write(true).create_new(true).open(path)?;
                self.next += 1;
                let header = Header {
                    spool: FORMAT,
                    origin: self.origin.clone(),
                };
                line(&mut text, &header)?;
                end(&mut text, 0, 0)?;
                (file, 0)
            }
        };
        let start = text.len();
        for event in events {
            event.write_json(&mut text)?;
        }
        end(&mut text, start, events.len())?;
        file.write_all(&text)?;
        file.sync_data()?;
        if size == 0 {
            self.folder.sync_all()?;
        }
        size += text.len() as u64;
        self.open = (size < self.limit).then_some((file, size));
        Ok(())
    }
}

/// Creates a folder and those above it, each of which is on the disk with its name in the one above. One that is there
/// already may have been created by a writer that was killed before its name was.
fn create(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let path = fs::canonicalize(path)?;
    for above in path.ancestors().skip(1) {
        match File::open(above).and_then(|folder| folder.sync_all()) {
            // Who may not read it has not created anything there.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Ends the batch that begins at `start`.
fn end(text: &mut Vec<u8>, start: usize, records: usize) -> io::Result<()> {
    let crc32 = crc(&text[start..]);
    line(text, &Commit { records, crc32 })
}

fn line(text: &mut Vec<u8>, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, value)?;
    text.push(b'\n');
    Ok(())
}
