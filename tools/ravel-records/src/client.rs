//! Asks a loaded module, through its files in debugfs.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::{
    AnonVmaReport, Attached, Error, Line, ReportError, ReportName, SkbsReport, SocketsReport,
    Version,
};

/// Where debugfs usually shows the module.
pub const DEFAULT_ROOT: &str = "/sys/kernel/debug/ravel";

/// The module's files, under one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    root: PathBuf,
}

/// What came of one request: text, and what ended it.
#[derive(Debug)]
pub struct Answer {
    /// Everything that could be read.
    pub text: Vec<u8>,
    /// The errno that a write or a read failed with, none where the text ended by itself.
    pub failed: Option<io::Error>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(DEFAULT_ROOT)
    }
}

impl Client {
    /// The module's files in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The module's files in the folder that RAVEL_DEBUGFS names, else in [`DEFAULT_ROOT`].
    pub fn from_env() -> Self {
        env::var_os("RAVEL_DEBUGFS").map_or_else(Self::default, Self::new)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The text of a report, not parsed.
    ///
    /// Fails with [`Error::Report`] where the module says in words what is wrong, and with
    /// [`Error::Io`] where only an errno does. The text may still be a cut one.
    pub fn query(&self, report: &ReportName, pid: u32) -> Result<Vec<u8>, Error> {
        self.ask(format!("{report} {pid}").as_bytes())?
            .into_text(&self.root.join("query"))
    }

    /// Writes one request, in whatever words, and reads the answer to its end.
    ///
    /// Fails with [`Error::Io`] where the file cannot be opened.
    pub fn ask(&self, request: &[u8]) -> Result<Answer, Error> {
        let path = self.root.join("query");
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(converse(file, request)),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// The report `anon_vma` of a process.
    pub fn anon_vma(&self, pid: u32) -> Result<AnonVmaReport, Error> {
        AnonVmaReport::parse(&self.query(&ReportName::AnonVma, pid)?)
    }

    /// The report `sockets` of a process.
    pub fn sockets(&self, pid: u32) -> Result<SocketsReport, Error> {
        SocketsReport::parse(&self.query(&ReportName::Sockets, pid)?)
    }

    /// The report `skbs` of a process.
    pub fn skbs(&self, pid: u32) -> Result<SkbsReport, Error> {
        SkbsReport::parse(&self.query(&ReportName::Skbs, pid)?)
    }

    /// What the module says of itself.
    pub fn version(&self) -> Result<Version, Error> {
        Version::parse(&self.read("version")?)
    }

    /// The processes that have a folder.
    pub fn attached(&self) -> Result<Attached, Error> {
        Attached::parse(&self.read("attached")?)
    }

    /// Makes a process' folder. Fails with [`Error::Io`]: ESRCH, EEXIST, ENOSPC.
    pub fn attach(&self, pid: u32) -> Result<(), Error> {
        self.write("attach", pid)
    }

    /// Removes a process' folder. Fails with [`Error::Io`]: ENOENT.
    pub fn detach(&self, pid: u32) -> Result<(), Error> {
        self.write("detach", pid)
    }

    /// The text of a report from a process' folder, by the folder's name; fails as
    /// [`Client::query`] does.
    pub fn read_attached(&self, pid: u32, report: &ReportName) -> Result<Vec<u8>, Error> {
        self.read(&format!("{pid}/{report}"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.root.join(name);
        match File::open(&path) {
            Ok(file) => read(file).into_text(&path),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    fn write(&self, name: &str, pid: u32) -> Result<(), Error> {
        let path = self.root.join(name);
        // One write: the module takes each for a request of its own.
        let written = File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(pid.to_string().as_bytes()));
        written.map_err(|source| Error::Io { path, source })
    }
}

impl Answer {
    /// The text, unless an error ended it: the module's words for it where there are some.
    fn into_text(self, path: &Path) -> Result<Vec<u8>, Error> {
        let words = self.report_error();
        match (self.failed, words) {
            (None, _) => Ok(self.text),
            (Some(_), Some(error)) => Err(Error::Report(error)),
            (Some(source), None) => Err(Error::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The `error` record that ends the text, if one does.
    pub fn report_error(&self) -> Option<ReportError> {
        let text = self.text.strip_suffix(b"\n")?;
        let start = text.iter().rposition(|byte| *byte == b'\n');
        let line = Line::parse(&text[start.map_or(0, |at| at + 1)..], 1).ok()?;
        if line.kind != "error" {
            return None;
        }
        ReportError::from_line(&line).ok()
    }
}

/// One request in one write, and its answer. A refused request has an answer too: the module keeps
/// what is wrong with it to be read.
fn converse(mut file: impl Read + Write, request: &[u8]) -> Answer {
    let refused = file.write_all(request).err();
    let mut answer = read(file);
    if refused.is_some() {
        answer.failed = refused;
    }
    answer
}

fn read(mut file: impl Read) -> Answer {
    let mut text = Vec::new();
    let failed = file.read_to_end(&mut text).err();
    Answer { text, failed }
}
