// SPDX-License-Identifier: GPL-2.0

//! The files under `/sys/kernel/debug/ravel/`, and what reading and writing each of them does.

#![deny(unsafe_code)]

use crate::{
    events,
    object::{
        compat::ENODATA,
        debugfs::{Dir, File, FileOps},
        gfp,
        layout::kernel_release,
        process::{Comm, Process, PID_MAX},
        sync::hold::Lock,
    },
    records::{
        common::{
            self, AttachedSummary, LockName, LocksSummary, ProcessState, ReportName, Version,
        },
        Str, SCHEMA,
    },
    report::{
        self,
        stream::Stream,
        text::{Form, Text},
        Fault, Kind, Report, FORMAT,
    },
};
use core::ops::Range;
use kernel::{
    fmt::Write,
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{Arc, Mutex},
    uaccess::{UserSliceReader, UserSliceWriter},
};

/// How many processes can be attached at once.
const MAX_ATTACHED: usize = 256;

/// The longest request, in bytes.
const MAX_REQUEST: usize = 63;

/// The module's files; dropping this removes them.
pub(crate) struct Interface {
    _files: [File<Entry>; 6],
    _events: events::Files,
}

impl Interface {
    /// Makes the files.
    pub(crate) fn new() -> Result<Self> {
        let top = Dir::new(c"ravel", None)?;
        let attached = Arc::pin_init(Attached::new(top.clone()), gfp())?;
        let file = |name, entry| File::new(name, &top, entry);
        Ok(Self {
            _events: events::Files::new(&top)?,
            _files: [
                file(c"version", Entry::Version)?,
                file(c"attach", Entry::Attach(attached.clone()))?,
                file(c"detach", Entry::Detach(attached.clone()))?,
                file(c"attached", Entry::List(attached))?,
                file(c"query", Entry::Query)?,
                file(c"locks", Entry::Locks)?,
            ],
        })
    }
}

/// A file.
enum Entry {
    Version,
    Attach(Arc<Attached>),
    Detach(Arc<Attached>),
    List(Arc<Attached>),
    Query,
    Locks,
    Report(Kind, Arc<Subject>),
}

/// A descriptor.
enum Open {
    /// It is read only.
    Read(Stream),
    /// What is written names a process to attach.
    Attach(Arc<Attached>),
    /// What is written names a process to detach.
    Detach(Arc<Attached>),
    /// It is read, and what is written makes the counts begin anew.
    Locks(Stream),
    /// What is written asks for what is then read.
    Query(Option<Stream>),
}

impl FileOps for Entry {
    type Open = Open;

    fn open(&self) -> Result<Open> {
        Ok(match self {
            Self::Version => Open::Read(Stream::text(version()?)),
            Self::Attach(attached) => Open::Attach(attached.clone()),
            Self::Detach(attached) => Open::Detach(attached.clone()),
            Self::List(attached) => Open::Read(Stream::text(attached.list()?)),
            Self::Query => Open::Query(None),
            Self::Locks => Open::Locks(Stream::text(locks()?)),
            Self::Report(kind, subject) => Open::Read(Stream::report(
                Report::new(*kind, subject.now(), 0..0),
                Text::default(),
            )),
        })
    }

    fn read(open: &mut Open, to: &mut UserSliceWriter) -> Result<usize> {
        match open {
            Open::Read(stream) | Open::Locks(stream) | Open::Query(Some(stream)) => stream.read(to),
            Open::Query(none) => none
                .insert(Stream::fault(
                    ReportName::QUERY,
                    0,
                    NO_REQUEST,
                    Text::default(),
                )?)
                .read(to),
            Open::Attach(_) | Open::Detach(_) => Err(EINVAL),
        }
    }

    fn write(open: &mut Open, from: UserSliceReader) -> Result<()> {
        let mut buf = [0; MAX_REQUEST + 1];
        let request = Request::read(&mut buf, from);
        match open {
            Open::Read(_) => Err(EINVAL),
            Open::Locks(_) => request?.reset(),
            Open::Attach(attached) => attached.attach(Process::find(request?.pid()?)?),
            Open::Detach(attached) => attached.detach(request?.pid()?),
            Open::Query(stream) => {
                let (answer, result) = match request.and_then(Request::query) {
                    Ok(Query {
                        kind,
                        pid,
                        range,
                        form,
                    }) => {
                        let text = Text::new(form)?;
                        match Process::find(pid) {
                            Ok(process) => {
                                let process = Arc::new(process, gfp())?;
                                let report = Report::new(kind, process, range);
                                (Stream::report(report, text), Ok(()))
                            }
                            Err(err) => {
                                let fault = if err == ESRCH {
                                    Fault::NO_PROCESS
                                } else {
                                    err.into()
                                };
                                let name = kind.record_name();
                                (Stream::fault(name, pid, fault, text)?, Err(err))
                            }
                        }
                    }
                    Err(err) if err == EINVAL => {
                        let text = Text::default();
                        (
                            Stream::fault(ReportName::QUERY, 0, BAD_REQUEST, text)?,
                            Err(err),
                        )
                    }
                    Err(err) => return Err(err),
                };
                *stream = Some(answer);
                result
            }
        }
    }
}

const NO_REQUEST: Fault = Fault {
    errno: ENODATA,
    message: "write a request on this descriptor first, such as: anon_vma 1234",
};

const BAD_REQUEST: Fault = Fault {
    errno: EINVAL,
    message: "a request is a report's name and a pid, such as: anon_vma 1234",
};

fn version() -> Result<Text> {
    let mut text = Text::default();
    let (module, kernel) = (report::version(), kernel_release());
    let record = Version {
        module: Str::at(0, module.len()),
        kernel: Str::at(module.len(), kernel.len()),
        format: FORMAT.into(),
        schema: SCHEMA.into(),
    };
    text.put(&record, &[module, kernel])?;
    Ok(text)
}

fn locks() -> Result<Text> {
    let mut text = Text::default();
    for lock in Lock::ALL {
        let name = match lock {
            Lock::Mmap => LockName::MMAP,
            Lock::AnonVma => LockName::ANON_VMA,
            Lock::FileMap => LockName::I_MMAP,
            Lock::Socket => LockName::SOCKET,
            Lock::Queue => LockName::QUEUE,
            Lock::Unix => LockName::UNIX,
            Lock::Wait => LockName::WAIT,
            Lock::Descriptors => LockName::TASK,
            Lock::Ring => LockName::URING,
        };
        let record = common::Lock {
            name,
            longest_ns: lock.longest().into(),
        };
        text.put(&record, &[])?;
    }
    let summary = LocksSummary {
        report: ReportName::LOCKS,
        locks: Lock::ALL.len().into(),
        cut: 0u64.into(),
    };
    text.put(&summary, &[])?;
    Ok(text)
}

/// What was written, in words.
struct Request<'a>(&'a [u8]);

impl<'a> Request<'a> {
    /// `EINVAL` if it is too long, `EFAULT` if it cannot be read.
    fn read(buf: &'a mut [u8; MAX_REQUEST + 1], mut from: UserSliceReader) -> Result<Self> {
        let len = from.len();
        if len > buf.len() {
            return Err(EINVAL);
        }
        from.read_slice(&mut buf[..len])?;
        let text = &buf[..len];
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if text.len() > MAX_REQUEST {
            return Err(EINVAL);
        }
        Ok(Self(text))
    }

    /// The word `reset`: all locks' longest holds are forgotten.
    fn reset(self) -> Result {
        if self.0 != b"reset" {
            return Err(EINVAL);
        }
        for lock in Lock::ALL {
            lock.forget();
        }
        Ok(())
    }

    /// A pid and nothing else.
    fn pid(self) -> Result<i32> {
        parse_pid(self.0)
    }

    /// A report's name and a pid; for `page` an address, or two: the first, and the first not asked for;
    /// for `sharers` a descriptor. With one blank between. Before it `binary`, for that form.
    fn query(self) -> Result<Query> {
        let mut words = self.0.split(|&b| b == b' ').peekable();
        let form = match words.next_if_eq(&b"binary".as_slice()) {
            Some(_) => Form::Binary,
            None => Form::Text,
        };
        let kind = words.next().and_then(Kind::parse).ok_or(EINVAL)?;
        let pid = parse_pid(words.next().ok_or(EINVAL)?)?;
        let mut range = 0..0;
        if kind == Kind::Page {
            range.start = parse_address(words.next().ok_or(EINVAL)?)?;
            range.end = match words.next() {
                Some(end) => parse_address(end)?,
                None => range.start + 1,
            };
            if range.is_empty() {
                return Err(EINVAL);
            }
        }
        if kind == Kind::Sharers {
            let fd = parse_number(words.next().ok_or(EINVAL)?)? as usize;
            range = fd..fd + 1;
        }
        match words.next() {
            None => Ok(Query {
                kind,
                pid,
                range,
                form,
            }),
            Some(_) => Err(EINVAL),
        }
    }
}

/// What is asked for.
struct Query {
    kind: Kind,
    pid: i32,
    /// Addresses, or a descriptor, where the report wants them.
    range: Range<usize>,
    form: Form,
}

/// `0x` and hexadecimal digits: an address that user space can have.
fn parse_address(text: &[u8]) -> Result<usize> {
    let digits = text.strip_prefix(b"0x").ok_or(EINVAL)?;
    if digits.is_empty() || digits.len() > 16 {
        return Err(EINVAL);
    }
    let mut address = 0;
    for &digit in digits {
        let digit = char::from(digit).to_digit(16).ok_or(EINVAL)?;
        address = address << 4 | digit as usize;
    }
    if address < 1 << 57 {
        Ok(address)
    } else {
        Err(EINVAL)
    }
}

/// A decimal number.
fn parse_number(text: &[u8]) -> Result<i32> {
    // Longer than any pid or descriptor; and so the sum below cannot overflow.
    if text.is_empty() || text.len() > 9 {
        return Err(EINVAL);
    }
    let mut number = 0;
    for &digit in text {
        if !digit.is_ascii_digit() {
            return Err(EINVAL);
        }
        number = number * 10 + i32::from(digit - b'0');
    }
    Ok(number)
}

/// A decimal number from 1 to [`PID_MAX`].
fn parse_pid(text: &[u8]) -> Result<i32> {
    let pid = parse_number(text)?;
    if (1..=PID_MAX).contains(&pid) {
        Ok(pid)
    } else {
        Err(EINVAL)
    }
}

/// Whom a folder is about. Its name is a number, which may be given to another process.
#[pin_data]
struct Subject {
    #[pin]
    process: Mutex<Arc<Process>>,
}

impl Subject {
    fn new(process: Process) -> Result<Arc<Self>> {
        let process = Arc::new(process, gfp())?;
        Arc::pin_init(
            pin_init!(Self {
                process <- new_mutex!(process),
            }),
            gfp(),
        )
    }

    /// The process that the folder is about now; whoever has it keeps it.
    fn now(&self) -> Arc<Process> {
        self.process.lock().clone()
    }
}

/// An attached process, and its folder.
struct Folder {
    nr: i32,
    subject: Arc<Subject>,
    _files: [File<Entry>; Kind::FILES.len()],
}

/// The attached processes.
#[pin_data]
struct Attached {
    top: Arc<Dir>,
    #[pin]
    folders: Mutex<KVec<Folder>>,
}

impl Attached {
    fn new(top: Arc<Dir>) -> impl PinInit<Self> {
        pin_init!(Self {
            top,
            folders <- new_mutex!(KVec::new()),
        })
    }

    fn attach(&self, process: Process) -> Result {
        let mut folders = self.folders.lock();
        if let Some(folder) = folders.iter().find(|folder| folder.nr == process.nr()) {
            if folder.subject.now().is(&process) {
                return Err(EEXIST);
            }
            // The number was given to another process, and so is the folder: the one before is gone for
            // good. The files stay, since to make new ones could fail.
            let process = Arc::new(process, gfp())?;
            *folder.subject.process.lock() = process;
            return Ok(());
        }
        if folders.len() == MAX_ATTACHED {
            return Err(ENOSPC);
        }
        folders.reserve(1, gfp())?;
        let folder = self.folder(process)?;
        Ok(folders.push(folder, gfp())?)
    }

    /// `pid` is a process of the caller's pid namespace; or, where there is none, a folder's name.
    fn detach(&self, pid: i32) -> Result {
        let nr = match Process::find(pid) {
            Ok(process) => process.nr(),
            Err(err) if err == ESRCH => pid,
            Err(err) => return Err(err),
        };
        let mut folders = self.folders.lock();
        let at = folders
            .iter()
            .position(|folder| folder.nr == nr)
            .ok_or(ENOENT)?;
        // Dropped with the lock held: the name is free again for whoever gets the lock next.
        drop(folders.remove(at));
        Ok(())
    }

    fn folder(&self, process: Process) -> Result<Folder> {
        let mut name = [0; 16];
        let mut to = Formatter::new(&mut name[..15]);
        let nr = process.nr();
        write!(to, "{nr}").map_err(|_| EINVAL)?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| EINVAL)?;
        let dir = Dir::new(name, Some(self.top.clone()))?;
        let subject = Subject::new(process)?;
        let file = |kind: Kind| File::new(kind.name(), &dir, Entry::Report(kind, subject.clone()));
        let [a, b, c, d, e, f, g] = Kind::FILES;
        Ok(Folder {
            nr,
            _files: [
                file(a)?,
                file(b)?,
                file(c)?,
                file(d)?,
                file(e)?,
                file(f)?,
                file(g)?,
            ],
            subject,
        })
    }

    fn list(&self) -> Result<Text> {
        let mut seen = KVec::<(i32, Option<Comm>)>::with_capacity(MAX_ATTACHED, gfp())?;
        for folder in self.folders.lock().iter() {
            let process = folder.subject.now();
            let comm = process.is_live().then(|| process.comm()).flatten();
            seen.push((folder.nr, comm), gfp())?;
        }
        let mut text = Text::default();
        for (pid, comm) in &seen {
            let (state, comm) = match comm {
                Some(comm) => (ProcessState::LIVE, (*comm).into()),
                None => (ProcessState::EXITED, Default::default()),
            };
            let record = common::Attached {
                pid: (*pid).into(),
                comm,
                state,
            };
            text.put(&record, &[])?;
        }
        let summary = AttachedSummary {
            report: ReportName::ATTACHED,
            attached: seen.len().into(),
            limit: MAX_ATTACHED.into(),
            cut: 0u64.into(),
        };
        text.put(&summary, &[])?;
        Ok(text)
    }
}
