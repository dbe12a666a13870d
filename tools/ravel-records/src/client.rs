//! Asks a loaded module, through its files in debugfs.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::binary::{Records, is_foreign};
use crate::records::SCHEMA;
use crate::{
    AnonVmaReport, Attached, ChainsReport, CowReport, Error, Id, Line, LineageReport, PageReport,
    ReportError, ReportName, SharersReport, SkbsReport, SocketsReport, Version, WaitersReport,
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

    /// The same of a report that is asked for with addresses: the first, and the first behind.
    pub fn query_range(
        &self,
        report: &ReportName,
        pid: u32,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Error> {
        let Range { start, end } = range;
        self.ask(format!("{report} {pid} {start:#x} {end:#x}").as_bytes())?
            .into_text(&self.root.join("query"))
    }

    /// The text of a report `sharers`, which is asked for with a descriptor.
    pub fn query_descriptor(&self, pid: u32, fd: u32) -> Result<Vec<u8>, Error> {
        self.ask(format!("{} {pid} {fd}", ReportName::Sharers).as_bytes())?
            .into_text(&self.root.join("query"))
    }

    /// A report in the binary form, which the types' `parse` take as well as text: the same records, sooner made
    /// and sooner read. Fails as [`Client::query`] does.
    pub fn records(&self, report: &ReportName, pid: u32) -> Result<Vec<u8>, Error> {
        self.binary(&format!("{report} {pid}"))
    }

    /// An answer in the binary form; as text, if the module has other records than those that are known here.
    fn binary(&self, request: &str) -> Result<Vec<u8>, Error> {
        let mut answer = self.ask(format!("binary {request}").as_bytes())?;
        if is_foreign(&answer.text) {
            answer = self.ask(request.as_bytes())?;
        }
        answer.into_text(&self.root.join("query"))
    }

    /// Whether the module has the same records as those that are known here.
    pub(crate) fn has_known_records(&self) -> Result<bool, Error> {
        Ok(self.version()?.schema == Some(Id(SCHEMA)))
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
        AnonVmaReport::parse(&self.records(&ReportName::AnonVma, pid)?)
    }

    /// The report `sockets` of a process.
    pub fn sockets(&self, pid: u32) -> Result<SocketsReport, Error> {
        SocketsReport::parse(&self.records(&ReportName::Sockets, pid)?)
    }

    /// The report `skbs` of a process.
    pub fn skbs(&self, pid: u32) -> Result<SkbsReport, Error> {
        SkbsReport::parse(&self.records(&ReportName::Skbs, pid)?)
    }

    /// The report `waiters` of a process.
    pub fn waiters(&self, pid: u32) -> Result<WaitersReport, Error> {
        WaitersReport::parse(&self.records(&ReportName::Waiters, pid)?)
    }

    /// The report `cow` of a process.
    pub fn cow(&self, pid: u32) -> Result<CowReport, Error> {
        CowReport::parse(&self.records(&ReportName::Cow, pid)?)
    }

    /// The report `chains` of a process.
    pub fn chains(&self, pid: u32) -> Result<ChainsReport, Error> {
        ChainsReport::parse(&self.records(&ReportName::Chains, pid)?)
    }

    /// The report `lineage` of a process.
    pub fn lineage(&self, pid: u32) -> Result<LineageReport, Error> {
        LineageReport::parse(&self.records(&ReportName::Lineage, pid)?)
    }

    /// The report `page` of some addresses of a process.
    pub fn page(&self, pid: u32, range: Range<u64>) -> Result<PageReport, Error> {
        let Range { start, end } = range;
        let request = format!("{} {pid} {start:#x} {end:#x}", ReportName::Page);
        PageReport::parse(&self.binary(&request)?)
    }

    /// The report `sharers` of a process' descriptor.
    pub fn sharers(&self, pid: u32, fd: u32) -> Result<SharersReport, Error> {
        SharersReport::parse(&self.binary(&format!("{} {pid} {fd}", ReportName::Sharers))?)
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

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.root.join(name);
        match File::open(&path) {
            Ok(file) => read(file).into_text(&path),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    fn write(&self, name: &str, pid: u32) -> Result<(), Error> {
        self.order(name, &pid.to_string())
    }

    pub(crate) fn order(&self, name: &str, request: &str) -> Result<(), Error> {
        self.order_open(name, request).map(drop)
    }

    /// The same; what it was written to stays open.
    pub(crate) fn order_open(&self, name: &str, request: &str) -> Result<File, Error> {
        let path = self.root.join(name);
        let written = File::options().write(true).open(&path);
        // One write: the module takes each for a request of its own.
        let written = written.and_then(|mut file| {
            file.write_all(request.as_bytes())?;
            Ok(file)
        });
        written.map_err(|source| Error::Io { path, source })
    }
}

impl Answer {
    /// The text, unless an error ended it: the module's words for it where there are some.
    fn into_text(self, path: &Path) -> Result<Vec<u8>, Error> {
        let words = self.failed.is_some().then(|| self.report_error());
        match (self.failed, words.flatten()) {
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
        if let Some(mut records) = Records::new(&self.text) {
            let mut line = Line::default();
            while let Ok(true) = records.next(&mut line, 1) {}
            if line.kind != "error" {
                return None;
            }
            return ReportError::from_line(&line).ok();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a request or refuses it, and gives its pieces one read at a time, then an errno.
    struct Mock {
        refuse: Option<i32>,
        pieces: Vec<&'static str>,
        end: Option<i32>,
    }

    impl Write for Mock {
        fn write(&mut self, request: &[u8]) -> io::Result<usize> {
            self.refuse
                .map_or(Ok(request.len()), |errno| Err(errno_of(errno)))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Mock {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.pieces.is_empty() {
                return self.end.map_or(Ok(0), |errno| Err(errno_of(errno)));
            }
            let (now, later) = self.pieces[0].split_at(self.pieces[0].len().min(into.len()));
            into[..now.len()].copy_from_slice(now.as_bytes());
            if later.is_empty() {
                self.pieces.remove(0);
            } else {
                self.pieces[0] = later;
            }
            Ok(now.len())
        }
    }

    fn errno_of(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    fn ask(
        refuse: Option<i32>,
        pieces: &[&'static str],
        end: Option<i32>,
    ) -> Result<Vec<u8>, Error> {
        let mock = Mock {
            refuse,
            pieces: pieces.to_vec(),
            end,
        };
        converse(mock, b"anon_vma 7").into_text(Path::new("query"))
    }

    const GONE: &str = "error report=anon_vma pid=7 errno=ESRCH message=\"process 7 has exited\"\n";

    #[test]
    fn text_comes_whole() {
        assert_eq!(ask(None, &["report ", "a\n"], None).unwrap(), b"report a\n");
    }

    #[test]
    fn words_win_over_errno() {
        for answer in [
            ask(None, &[GONE], Some(3)),
            ask(
                None,
                &["report name=anon_vma\n", "vma start=", "0x0\n", GONE],
                Some(3),
            ),
            ask(Some(3), &[GONE], Some(3)),
            ask(Some(3), &[GONE], None),
        ] {
            assert_eq!(answer.unwrap_err().errno(), Some("ESRCH"));
        }
    }

    #[test]
    fn errno_without_words() {
        for answer in [
            ask(None, &["report name=anon_vma\n"], Some(12)),
            ask(Some(12), &[], None),
            ask(None, &["error that is none\n"], Some(12)),
        ] {
            let Err(Error::Io { source, .. }) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(source.raw_os_error(), Some(12));
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Client::new("/nonexistent").anon_vma(1).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/query: "));
    }
}
