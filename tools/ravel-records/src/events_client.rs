//! Streams of a loaded module: making and removing them, and reading one under leases.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::client::Client;
use crate::{Batch, Error, Failed, Sources, Streams};

impl Client {
    /// The streams there are.
    pub fn streams(&self) -> Result<Streams, Error> {
        Streams::parse(&self.read("streams")?)
    }

    /// The sources there are.
    pub fn sources(&self) -> Result<Sources, Error> {
        Sources::parse(&self.read("sources")?)
    }

    /// Makes or removes a stream: `create NAME sources=...`, `remove NAME`. Fails with [`Error::Io`].
    pub fn control_streams(&self, request: &str) -> Result<(), Error> {
        self.order("streams", request)
    }

    /// Makes a stream, `create NAME sources=...`, that goes when what this gives is dropped, or when the process that
    /// has it dies, be it by SIGKILL.
    pub fn hold_stream(&self, request: &str) -> Result<HeldStream, Error> {
        self.order_open("streams", &format!("{request} until=close"))
            .map(|file| HeldStream { _file: file })
    }

    /// What a stream handed out as often as it may.
    pub fn failed(&self, stream: &str) -> Result<Failed, Error> {
        Failed::parse(&self.read(&format!("events/{stream}/failed"))?)
    }

    /// Does something with what failed: `replay`, `clear`, either with a number behind it or without.
    pub fn mend(&self, stream: &str, request: &str) -> Result<(), Error> {
        self.order(&format!("events/{stream}/failed"), request)
    }

    /// Begins to read a stream.
    pub fn events(&self, stream: &str) -> Result<Reader, Error> {
        let path = self.root().join(format!("events/{stream}/events"));
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Reader {
                client: self.clone(),
                file,
                path,
                room: Vec::new(),
                has_known_records: None,
            }),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

/// A stream that was made to go with this.
#[derive(Debug)]
pub struct HeldStream {
    _file: File,
}

/// A reader of a stream: it has one batch at a time, which is given back when this is dropped.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    file: File,
    path: PathBuf,
    /// Where batches are read to.
    room: Vec<u8>,
    /// Whether the module has the records that are known here, once that was asked.
    has_known_records: Option<bool>,
}

impl Reader {
    /// Sets the terms of the next batches, such as `events=100 ms=5000 form=binary`.
    ///
    /// If the module has other records than those that are known here, batches are text in any case.
    pub fn terms(&mut self, terms: &str) -> Result<(), Error> {
        let Some(others) = terms.strip_suffix("form=binary") else {
            return self.write(&format!("lease {terms}"));
        };
        let is_known = match self.has_known_records {
            Some(is_known) => is_known,
            None => *self
                .has_known_records
                .insert(self.client.has_known_records()?),
        };
        let form = if is_known { "binary" } else { "text" };
        self.write(&format!("lease {others}form={form}"))
    }

    /// Reserves the next batch, and reads it; none if nothing is ready.
    ///
    /// [`Reader::acknowledge`] or [`Reader::give_back`] comes before the next. Where the deadline passes before all of
    /// it is read, it is another's, and the next is reserved in its place.
    pub fn batch(&mut self) -> Result<Option<Batch>, Error> {
        match whole(&mut self.file, &mut self.room) {
            Ok(Some(text)) => Batch::parse(text).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Acknowledges the batch, up to a record's number or all of it: it will not be handed out again.
    pub fn acknowledge(&mut self, upto: Option<u64>) -> Result<(), Error> {
        match upto {
            Some(seq) => self.write(&format!("ack {seq}")),
            None => self.write("ack"),
        }
    }

    /// Gives the rest of the batch back, to be handed out again after some milliseconds.
    pub fn give_back(&mut self, after: u64) -> Result<(), Error> {
        self.write(&format!("release {after}"))
    }

    fn write(&mut self, request: &str) -> Result<(), Error> {
        // One write: the module takes each for a request of its own.
        let written = self.file.write_all(request.as_bytes());
        written.map_err(|error| self.error(error))
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// There is at least so much room for what is read at once.
const LEAST: usize = 64 << 10;

/// The text of one batch, to its end, in memory that is used again; none where nothing is ready.
fn whole<'t>(file: &mut impl Read, room: &'t mut Vec<u8>) -> io::Result<Option<&'t [u8]>> {
    let mut len = 0;
    loop {
        if room.len() < len + LEAST {
            room.resize(2 * (len + LEAST), 0);
        }
        match file.read(&mut room[len..]) {
            Ok(0) => return Ok(Some(&room[..len])),
            Ok(more) => len += more,
            // Told once for each batch; what was read of it is of no use.
            Err(error) if error.kind() == ErrorKind::StaleNetworkFileHandle => len = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock && len == 0 => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each read() gives, from the last to the first.
    struct Reads(Vec<io::Result<&'static [u8]>>);

    impl Read for Reads {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let given = self.0.pop().expect("read beyond the end")?;
            to[..given.len()].copy_from_slice(given);
            Ok(given.len())
        }
    }

    fn errno(errno: i32) -> io::Result<&'static [u8]> {
        Err(io::Error::from_raw_os_error(errno))
    }

    const EINTR: i32 = 4;
    const EAGAIN: i32 = 11;
    const ESTALE: i32 = 116;

    #[test]
    fn a_batch_whose_deadline_passes_is_not_taken_for_part_of_the_next() {
        let mut room = Vec::new();
        let mut late = Reads(vec![Ok(b""), Ok(b"two"), errno(ESTALE), Ok(b"one")]);
        let text = whole(&mut late, &mut room).unwrap();
        assert_eq!(text, Some(&b"two"[..]));
        assert!(late.0.is_empty());
        let mut none = Reads(vec![errno(EAGAIN), errno(ESTALE), Ok(b"one")]);
        assert_eq!(whole(&mut none, &mut room).unwrap(), None);
        let mut broken = Reads(vec![errno(EAGAIN), Ok(b"one")]);
        assert!(whole(&mut broken, &mut room).is_err());
        let mut cut_short = Reads(vec![Ok(b""), Ok(b"three"), errno(EINTR)]);
        let text = whole(&mut cut_short, &mut room).unwrap();
        assert_eq!(text, Some(&b"three"[..]));
    }
}
