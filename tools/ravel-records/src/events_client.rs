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
            Ok(file) => Ok(Reader { file, path }),
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
    file: File,
    path: PathBuf,
}

impl Reader {
    /// Sets the terms of the next batches, such as `events=100 ms=5000`.
    pub fn terms(&mut self, terms: &str) -> Result<(), Error> {
        self.write(&format!("lease {terms}"))
    }

    /// Reserves the next batch, and reads it; none if nothing is ready.
    ///
    /// [`Reader::acknowledge`] or [`Reader::give_back`] comes before the next.
    pub fn batch(&mut self) -> Result<Option<Batch>, Error> {
        let mut text = Vec::new();
        match self.file.read_to_end(&mut text) {
            Ok(_) => Batch::parse(&text).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock && text.is_empty() => Ok(None),
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

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
