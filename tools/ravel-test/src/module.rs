// SPDX-License-Identifier: GPL-2.0
//! The module: inserting, removing, and its files as bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

use crate::sys;

/// Where the module's files are.
pub const DIR: &str = "/sys/kernel/debug/ravel";

/// The reports.
pub const REPORTS: &[&str] = &[
    "anon_vma", "sockets", "skbs", "waiters", "cow", "lineage", "chains",
];

/// Size of the buffer that reports are read with where nothing else is asked for.
pub const BUFFER: usize = 64 << 10;

/// A file that lies beside this program.
pub fn beside(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let exe = std::env::current_exe().context("where this program lies")?;
    let folder = FOLDER.get_or_init(|| exe.parent().unwrap_or(Path::new("/")).to_owned());
    Ok(folder.join(name))
}

/// Whether the module is there.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/ravel").exists()
}

/// Inserts the module.
pub fn insert() -> Result<()> {
    let path = beside("ravel.ko")?;
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    sys::insert_module(&file).context("insert ravel.ko")?;
    ensure!(
        Path::new(DIR).exists(),
        "{DIR} is not there although the module is"
    );
    Ok(())
}

/// Removes the module, or says why not.
pub fn remove() -> io::Result<()> {
    sys::delete_module("ravel")
}

/// Mounts debugfs where it is not.
pub fn mount_debugfs() -> Result<()> {
    let path = Path::new("/sys/kernel/debug");
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(());
    }
    sys::mount("debugfs", path, "debugfs", 0).context("mount debugfs")
}

/// References that open files hold on the module.
pub fn references() -> Result<i64> {
    Ok(fs::read_to_string("/sys/module/ravel/refcnt")?
        .trim()
        .parse()?)
}

/// What reading a file gave: its text, and the errno that ended it, 0 at the end of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// All that came before the end.
    pub text: Vec<u8>,
    /// How it ended.
    pub errno: i32,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.text[..self.text.len().min(300)];
        write!(f, "errno {} after {} bytes: ", self.errno, self.text.len())?;
        write!(f, "{:?}", String::from_utf8_lossy(shown))
    }
}

impl Answer {
    /// Reads a file to its end.
    pub fn read(file: &mut File, buffer: usize) -> Self {
        let mut text = Vec::new();
        let mut part = vec![0; buffer];
        loop {
            match file.read(&mut part) {
                Ok(0) => return Self { text, errno: 0 },
                Ok(n) => text.extend_from_slice(&part[..n]),
                Err(e) => {
                    return Self {
                        text,
                        errno: sys::errno(&e),
                    };
                }
            }
        }
    }

    /// The text, which must be whole.
    pub fn whole(self) -> Result<Vec<u8>> {
        ensure!(self.errno == 0, "reading failed: {self:?}");
        Ok(self.text)
    }

    /// Checks that this is one `error` record and then that errno.
    pub fn check_error(&self, report: &str, pid: i64, errno: i32) -> Result<()> {
        ensure!(self.errno == errno, "wanted errno {errno}: {self:?}");
        let text = std::str::from_utf8(&self.text)?;
        ensure!(
            text.ends_with('\n') && text.lines().count() == 1,
            "wanted one line: {self:?}"
        );
        let name = errno_name(errno);
        for part in [
            "error ".to_owned(),
            format!(" report={report} "),
            format!(" pid={pid} "),
            format!(" errno={name} "),
            " message=\"".to_owned(),
        ] {
            ensure!(text.contains(&part), "wanted {part:?}: {self:?}");
        }
        Ok(())
    }
}

/// The name of an errno that the module uses.
pub fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EBADF => "EBADF",
        libc::EINVAL => "EINVAL",
        libc::ESRCH => "ESRCH",
        libc::EEXIST => "EEXIST",
        libc::ENOENT => "ENOENT",
        libc::ENOSPC => "ENOSPC",
        libc::EAGAIN => "EAGAIN",
        libc::EBUSY => "EBUSY",
        libc::ENODATA => "ENODATA",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ESTALE => "ESTALE",
        libc::ENOMEM => "ENOMEM",
        libc::EINTR => "EINTR",
        libc::EFAULT => "EFAULT",
        libc::EIO => "EIO",
        _ => "?",
    }
}

/// Opens `query`.
pub fn open_query() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{DIR}/query"))
        .context("open query")
}

/// One request on a descriptor of its own: errno of the write, 0 where it went well, and the answer.
pub fn query(request: &[u8]) -> Result<(i32, Answer)> {
    let mut file = open_query()?;
    let written = write_errno(&mut file, request);
    Ok((written, Answer::read(&mut file, BUFFER)))
}

/// One whole report as text.
pub fn report_text(report: &str, pid: sys::Pid) -> Result<Vec<u8>> {
    let (errno, answer) = query(format!("{report} {pid}\n").as_bytes())?;
    ensure!(
        errno == 0,
        "{report} {pid}: the write failed with errno {errno}: {answer:?}"
    );
    answer.whole().with_context(|| format!("{report} {pid}"))
}

/// One write(): its errno, 0 where all was taken.
pub fn write_errno(file: &mut File, data: &[u8]) -> i32 {
    match file.write(data) {
        Ok(n) if n == data.len() => 0,
        Ok(n) => -(n as i32) - 1,
        Err(e) => sys::errno(&e),
    }
}

/// One write() to a file of the module.
pub fn write_file(name: &str, data: &[u8]) -> Result<i32> {
    let path = format!("{DIR}/{name}");
    let mut file = OpenOptions::new().write(true).open(&path).context(path)?;
    Ok(write_errno(&mut file, data))
}

/// Attaches a process.
pub fn attach(pid: sys::Pid) -> Result<()> {
    match write_file("attach", format!("{pid}\n").as_bytes())? {
        0 => Ok(()),
        errno => bail!("attach {pid}: errno {errno}"),
    }
}

/// Detaches a process.
pub fn detach(pid: sys::Pid) -> Result<()> {
    match write_file("detach", format!("{pid}\n").as_bytes())? {
        0 => Ok(()),
        errno => bail!("detach {pid}: errno {errno}"),
    }
}

/// Reads a file of the module to its end.
pub fn read_file(name: &str) -> Result<Answer> {
    let path = format!("{DIR}/{name}");
    let mut file = File::open(&path).context(path)?;
    Ok(Answer::read(&mut file, BUFFER))
}

/// The names of all streams, sorted.
pub fn streams() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("{DIR}/events"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The pids that have a folder, sorted.
pub fn folders() -> Result<Vec<sys::Pid>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir(DIR)? {
        let entry = entry?;
        let name = entry.file_name();
        // The streams' folder is always there.
        if entry.file_type()?.is_dir() && name != "events" {
            let pid = name.to_str().and_then(|n| n.parse().ok());
            pids.push(pid.with_context(|| format!("folder {name:?} is no pid"))?);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The text of `attached`, and the folders: what must not change by what fails.
pub fn state() -> Result<(String, Vec<sys::Pid>)> {
    let text = read_file("attached")?.whole()?;
    Ok((String::from_utf8(text)?, folders()?))
}

/// Detaches all.
pub fn detach_all() -> Result<()> {
    folders()?.into_iter().try_for_each(detach)
}
