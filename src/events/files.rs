// SPDX-License-Identifier: GPL-2.0

//! The files of streams, and what reading, writing and polling each of them does.

use super::{
    request::{Control, Mend, Name, Order, Request, Settings, Terms},
    stream::Stream,
};
use crate::{
    object::{
        compat::{ENODATA, ESTALE},
        debugfs::{Dir, File, FileOps, PollWait},
        gfp,
        trace::source::Source,
    },
    records::{
        common::ReportName,
        events::{self, FailedSummary, SourcesSummary, StreamsSummary},
        Word,
    },
    report::{
        text::{Form, Text},
        CHUNK_TEXT, FORMAT,
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        lock::{mutex::MutexBackend, Guard},
        Arc, Mutex,
    },
    uaccess::{UserSliceReader, UserSliceWriter},
};

/// How many streams there can be at once.
const MAX_STREAMS: usize = 16;

/// The files that are always there; dropping this removes them, and all streams.
pub(crate) struct Files {
    _files: [File<Entry>; 2],
    _streams: Arc<Streams>,
}

impl Files {
    /// Makes the files in `top`.
    pub(crate) fn new(top: &Arc<Dir>) -> Result<Self> {
        let dir = Dir::new(c"events", Some(top.clone()))?;
        let streams = Arc::pin_init(Streams::new(dir), gfp())?;
        Ok(Self {
            _files: [
                File::new(c"sources", top, Entry::Sources)?,
                File::new(c"streams", top, Entry::Streams(streams.clone()))?,
            ],
            _streams: streams,
        })
    }
}

/// A file.
enum Entry {
    /// Which sources this kernel has.
    Sources,
    /// The list of streams; what is written makes and removes them.
    Streams(Arc<Streams>),
    /// A stream's events, leased to who reads them.
    Events(Arc<Stream>),
    /// A stream's failed entries.
    Failed(Arc<Stream>),
}

/// A descriptor.
enum Open {
    Text(Unread),
    Streams(Unread, List),
    Events(Reader),
    Failed(Failed),
}

impl FileOps for Entry {
    type Open = Open;

    fn open(&self) -> Result<Open> {
        Ok(match self {
            Self::Sources => Open::Text(Unread::new(sources()?)),
            Self::Streams(streams) => {
                Open::Streams(Unread::new(streams.list()?), List::new(streams.clone()))
            }
            Self::Events(stream) => Open::Events(Reader::new(stream.clone())),
            Self::Failed(stream) => Open::Failed(Failed::new(stream.clone())?),
        })
    }

    fn read(open: &mut Open, to: &mut UserSliceWriter) -> Result<usize> {
        match open {
            Open::Text(text) | Open::Streams(text, _) => text.read(to),
            Open::Events(reader) => reader.read(to),
            Open::Failed(failed) => failed.read(to),
        }
    }

    fn write(open: &mut Open, from: UserSliceReader) -> Result<()> {
        match open {
            Open::Text(_) => Err(EINVAL),
            Open::Streams(_, list) => list.write(from),
            Open::Events(reader) => reader.write(from),
            Open::Failed(failed) => failed.write(from),
        }
    }

    fn poll(open: &mut Open, wait: &PollWait<'_>) -> Result<bool> {
        match open {
            Open::Events(reader) => {
                reader.stream.join(wait);
                reader.is_ready()
            }
            _ => Ok(true),
        }
    }
}

/// Which sources there are.
fn sources() -> Result<Text> {
    let mut text = Text::default();
    let mut missing = 0;
    for source in Source::ALL {
        let hooks = source.hooks().iter();
        // Their names, with commas between.
        let names = |functions: bool| -> Result<KVec<u8>> {
            let mut names = KVec::new();
            for hook in hooks.clone().filter(|hook| hook.is_function() == functions) {
                if !names.is_empty() {
                    names.push(b',', gfp())?;
                }
                names.extend_from_slice(hook.name().to_bytes(), gfp())?;
            }
            if names.is_empty() {
                names.extend_from_slice(b"none", gfp())?;
            }
            Ok(names)
        };
        let lacks = source.missing()?;
        missing += u64::from(lacks > 0);
        let name = source.name().as_bytes();
        let (tracepoints, functions) = (names(false)?, names(true)?);
        let record = events::Source {
            name: Word::at(0, name.len()),
            tracepoints: Word::at(name.len(), tracepoints.len()),
            functions: Word::at(name.len() + tracepoints.len(), functions.len()),
            missing: lacks.into(),
        };
        text.put(&record, &[name, &tracepoints, &functions])?;
    }
    let record = SourcesSummary {
        report: ReportName::SOURCES,
        sources: Source::ALL.len().into(),
        missing: missing.into(),
        cut: 0u64.into(),
    };
    text.put(&record, &[])?;
    Ok(text)
}

/// A text, and how far its reader is.
#[derive(Default)]
struct Unread {
    text: Text,
    read: usize,
    /// A read() returned 0 at its end.
    ended: bool,
}

impl Unread {
    fn new(text: Text) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    fn is_done(&self) -> bool {
        self.read == self.text.bytes().len()
    }

    fn clear(&mut self) {
        self.text.clear();
        self.read = 0;
        self.ended = false;
    }

    /// Begins a text that stands by itself.
    fn restart(&mut self, form: Form) -> Result {
        self.clear();
        self.text.restart(form)
    }

    /// Copies what comes next; 0 at the end.
    fn read(&mut self, to: &mut UserSliceWriter) -> Result<usize> {
        let rest = &self.text.bytes()[self.read..];
        let len = rest.len().min(to.len());
        // If the reader's buffer is bad, nothing counts as read.
        to.write_slice(&rest[..len])?;
        self.read += len;
        self.ended |= len == 0;
        Ok(len)
    }
}

/// The memory of a descriptor, counted with that of its stream.
struct Account {
    stream: Arc<Stream>,
    bytes: usize,
}

impl Account {
    fn new(stream: Arc<Stream>) -> Self {
        Self { stream, bytes: 0 }
    }

    /// Counts what the descriptor has now.
    fn set(&mut self, bytes: usize) {
        self.stream.count_memory(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How much memory a descriptor keeps between two batches: what one of the default size takes.
const KEPT: usize = 128 << 10;

/// A reader of a stream. It has one batch at a time; what it has when it is closed is released.
struct Reader {
    stream: Arc<Stream>,
    terms: Terms,
    lease: Option<u64>,
    batch: Unread,
    account: Account,
}

impl Reader {
    fn new(stream: Arc<Stream>) -> Self {
        Self {
            account: Account::new(stream.clone()),
            stream,
            terms: Terms::default(),
            lease: None,
            batch: Unread::default(),
        }
    }

    /// Reads the current batch, 0 at its end until it is acknowledged or given back; else
    /// reserves one.
    ///
    /// `ESTALE`, once, where the deadline has passed with part of the text unread, or before its
    /// end was read: the reader would take the next batch for more of this one.
    fn read(&mut self, to: &mut UserSliceWriter) -> Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        if let Some(lease) = self.lease {
            if self.stream.holds(lease)? {
                return self.batch.read(to);
            }
            let ended = self.batch.ended;
            self.forget();
            if !ended {
                return Err(ESTALE);
            }
        }
        self.batch.restart(self.terms.form)?;
        let reserved = self.stream.reserve(self.terms, &mut self.batch.text);
        if reserved.is_err() {
            self.forget();
        }
        self.account.set(self.batch.text.capacity());
        self.lease = Some(reserved?);
        self.batch.read(to)
    }

    fn is_ready(&self) -> Result<bool> {
        match self.lease {
            Some(lease) if self.stream.holds(lease)? => Ok(!self.batch.is_done()),
            // A read reports that it came too late.
            Some(_) if !self.batch.ended => Ok(true),
            _ => self.stream.is_ready(),
        }
    }

    /// Not inlined, as those of other descriptors: each has a request on its stack.
    #[inline(never)]
    fn write(&mut self, from: UserSliceReader) -> Result {
        self.obey(Request::read(from)?.order()?)
    }

    fn obey(&mut self, order: Order) -> Result {
        if let Order::Lease(terms) = order {
            self.terms = terms;
            return Ok(());
        }
        let lease = self.lease.ok_or(ENODATA)?;
        let result = match order {
            Order::Ack(upto) => self.stream.acknowledge(lease, upto),
            Order::Release(delay) => self.stream.give_back(lease, delay).map(|()| false),
            Order::Lease(_) => Ok(true),
        };
        match result {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.forget();
                Ok(())
            }
            Err(err) => {
                if err == ESTALE {
                    self.forget();
                }
                Err(err)
            }
        }
    }

    fn forget(&mut self) {
        self.lease = None;
        self.batch.clear();
        if self.batch.text.capacity() > KEPT {
            self.batch.text.free();
        }
        self.account.set(self.batch.text.capacity());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(lease) = self.lease {
            // Where the deadline has passed, that is done already.
            let _ = self.stream.give_back(lease, 0);
        }
    }
}

/// A reader of failed entries, in chunks.
struct Failed {
    stream: Arc<Stream>,
    text: Unread,
    account: Account,
    written: u64,
    /// The number to go on with; none once all are written.
    next: Option<u64>,
}

impl Failed {
    fn new(stream: Arc<Stream>) -> Result<Self> {
        let mut text = Text::default();
        let name = stream.name().bytes();
        let record = events::Failed {
            stream: Word::at(0, name.len()),
            format: FORMAT.into(),
        };
        text.put(&record, &[name])?;
        Ok(Self {
            account: Account::new(stream.clone()),
            stream,
            text: Unread::new(text),
            written: 0,
            next: Some(0),
        })
    }

    #[inline(never)]
    fn write(&mut self, from: UserSliceReader) -> Result {
        match Request::read(from)?.mend()? {
            Mend::Replay(seq) => self.stream.replay(seq),
            Mend::Clear(seq) => self.stream.clear(seq),
        }
    }

    fn read(&mut self, to: &mut UserSliceWriter) -> Result<usize> {
        while self.text.is_done() {
            let Some(from) = self.next else {
                return Ok(0);
            };
            self.text.clear();
            let written = self.fill(from);
            self.account.set(self.text.text.capacity());
            if let Err(err) = written {
                // The next read begins this chunk again.
                self.text.clear();
                return Err(err);
            }
        }
        self.text.read(to)
    }

    /// Writes down the chunk that begins with a number. Where it fails, where it goes on stays as
    /// it was.
    fn fill(&mut self, from: u64) -> Result {
        let text = &mut self.text.text;
        let (written, next) = self.stream.write_failed(from, CHUNK_TEXT, text)?;
        let written = self.written + written;
        if next.is_none() {
            let record = FailedSummary {
                report: ReportName::FAILED,
                records: written.into(),
                cut: 0u64.into(),
            };
            text.put(&record, &[])?;
        }
        (self.written, self.next) = (written, next);
        Ok(())
    }
}

/// A descriptor of the list, and the streams that go with it: whoever dies, and however, leaves no
/// probe behind.
struct List {
    streams: Arc<Streams>,
    /// No other descriptor has the same.
    number: u64,
}

impl List {
    fn new(streams: Arc<Streams>) -> Self {
        let number = streams.descriptors.fetch_add(1, Relaxed);
        Self { streams, number }
    }

    #[inline(never)]
    fn write(&self, from: UserSliceReader) -> Result {
        self.obey(Request::read(from)?.control()?)
    }

    #[inline(never)]
    fn obey(&self, order: Control) -> Result {
        match order {
            Control::Create(settings) => {
                let owner = settings.until_close.then_some(self.number);
                self.streams.create(settings, owner)
            }
            Control::Remove(name) => self.streams.remove(&name),
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        self.streams.remove_of(self.number);
    }
}

/// A stream that has a folder.
struct Folder {
    stream: Arc<Stream>,
    /// The descriptor that it goes with.
    owner: Option<u64>,
    files: Option<[File<Entry>; 2]>,
}

impl Folder {
    /// Removes the files: the name is free. Waits for nobody who reads them.
    fn unlink(&mut self) {
        self.files = None;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Before the end, which wakes those who poll(): they find the files removed.
        self.unlink();
        self.stream.end();
    }
}

/// The streams.
#[pin_data]
struct Streams {
    dir: Arc<Dir>,
    /// How many descriptors of the list there have been.
    descriptors: Atomic<u64>,
    #[pin]
    folders: Mutex<KVec<Folder>>,
}

impl Streams {
    fn new(dir: Arc<Dir>) -> impl PinInit<Self> {
        pin_init!(Self {
            dir,
            descriptors: Atomic::new(0),
            folders <- new_mutex!(KVec::new()),
        })
    }

    #[inline(never)]
    fn create(&self, settings: Settings, owner: Option<u64>) -> Result {
        let name = settings.name;
        let mut folders = self.folders.lock();
        if folders.iter().any(|folder| *folder.stream.name() == name) {
            return Err(EEXIST);
        }
        if folders.len() == MAX_STREAMS {
            return Err(ENOSPC);
        }
        folders.reserve(1, gfp())?;
        let mut folder = Folder {
            stream: Stream::new(settings)?,
            owner,
            files: None,
        };
        let dir = Dir::new(name.cstr()?, Some(self.dir.clone()))?;
        folder.files = Some([
            File::new(c"events", &dir, Entry::Events(folder.stream.clone()))?,
            File::new(c"failed", &dir, Entry::Failed(folder.stream.clone()))?,
        ]);
        Ok(folders.push(folder, gfp())?)
    }

    fn remove(&self, name: &Name) -> Result {
        let folders = self.folders.lock();
        let at = folders
            .iter()
            .position(|folder| folder.stream.name() == name)
            .ok_or(ENOENT)?;
        self.end(folders, at);
        Ok(())
    }

    /// Removes those that go with a descriptor.
    fn remove_of(&self, descriptor: u64) {
        loop {
            let folders = self.folders.lock();
            let goes = |folder: &Folder| folder.owner == Some(descriptor);
            let Some(at) = folders.iter().position(goes) else {
                return;
            };
            self.end(folders, at);
        }
    }

    /// Removes one: from the list and from debugfs with the lock held, so that its name is free for
    /// whoever gets it next; the rest without, since it waits for probes.
    fn end(&self, mut folders: Folders<'_>, at: usize) {
        let mut folder = folders.remove(at);
        if let Ok(folder) = &mut folder {
            folder.unlink();
        }
        drop(folders);
        drop(folder);
    }

    /// Returns the list. A stream that is removed meanwhile is left out.
    fn list(&self) -> Result<Text> {
        let mut streams = KVec::with_capacity(MAX_STREAMS, gfp())?;
        for folder in self.folders.lock().iter() {
            streams.push(folder.stream.clone(), gfp())?;
        }
        let mut text = Text::default();
        let mut records = 0u64;
        for stream in &streams {
            match stream.write(&mut text) {
                Ok(()) => records += 1,
                Err(err) if err == EIO => {}
                Err(err) => return Err(err),
            }
        }
        let record = StreamsSummary {
            report: ReportName::STREAMS,
            streams: records.into(),
            limit: MAX_STREAMS.into(),
            cut: 0u64.into(),
        };
        text.put(&record, &[])?;
        Ok(text)
    }
}

/// The lock of [`Streams`], held.
type Folders<'l> = Guard<'l, KVec<Folder>, MutexBackend>;
