//! The files of /proc: the only place of this program that reads them, apart from `doctor`.
//!
//! No lock is held from one file to the next: a process may start, exit or change in between. Callers distinguish a
//! process that has exited ([`exited`]) from one that cannot be read, and count the latter in [`Unread`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ravel_records::Text;
use serde::Serialize;

/// The target of /proc/self/ns/pid in the initial pid namespace, whose inode number is fixed.
const INITIAL: &str = "pid:[4026531836]";

/// A mounted /proc.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self("/proc".into())
    }
}

/// Whether an error of a process' file means that the process has exited.
pub fn exited(error: &io::Error) -> bool {
    // ENOENT of the folder, ESRCH of an open file in it.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3)
}

impl Proc {
    /// A /proc at another place.
    #[cfg(test)]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The numbers of all processes, in order. Fails if there are none, since this process is one.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let pids = numbers(&self.0)?;
        match pids.is_empty() {
            true => Err(io::Error::other(format!(
                "{} lists no processes: is proc mounted there?",
                self.0.display()
            ))),
            false => Ok(pids),
        }
    }

    fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.0.join(format!("{pid}/{name}"))
    }

    /// The root directory of a process.
    pub fn root(&self, pid: u32) -> PathBuf {
        self.path(pid, "root")
    }

    /// A path in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of a process, opened.
    pub fn open(&self, pid: u32, name: &str) -> io::Result<File> {
        File::open(self.path(pid, name))
    }

    /// A file of a process, whole.
    pub fn read(&self, pid: u32, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(pid, name))
    }

    /// The inode of the network namespace that a process is in.
    pub fn netns(&self, pid: u32) -> io::Result<u64> {
        Ok(fs::metadata(self.path(pid, "ns/net"))?.ino())
    }

    /// The name of a process.
    pub fn comm(&self, pid: u32) -> io::Result<Text> {
        let comm = self.read(pid, "comm")?;
        Ok(comm.strip_suffix(b"\n").unwrap_or(&comm).into())
    }

    /// The descriptors of a process, in order.
    pub fn descriptors(&self, pid: u32) -> io::Result<Vec<u32>> {
        numbers(&self.path(pid, "fd"))
    }

    /// The threads of a process, in order.
    pub fn threads(&self, pid: u32) -> io::Result<Vec<u32>> {
        numbers(&self.path(pid, "task"))
    }

    /// The target of a descriptor's link, such as `socket:[4711]`.
    pub fn link(&self, pid: u32, fd: u32) -> io::Result<PathBuf> {
        fs::read_link(self.path(pid, &format!("fd/{fd}")))
    }

    /// The numbers that a folder of a process lists, in order.
    pub fn numbers_of(&self, pid: u32, name: &str) -> io::Result<Vec<u32>> {
        numbers(&self.path(pid, name))
    }

    /// The target of a link of a process.
    pub fn link_of(&self, pid: u32, name: &str) -> io::Result<PathBuf> {
        fs::read_link(self.path(pid, name))
    }

    /// The device of the file behind a descriptor, as the kernel numbers it.
    pub fn device(&self, pid: u32, fd: u32) -> io::Result<u64> {
        let device = fs::metadata(self.path(pid, &format!("fd/{fd}")))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Ok((u64::from(major) << 20) | u64::from(minor))
    }

    /// The parent of each process. Those that exit meanwhile are left out.
    pub fn parents(&self) -> io::Result<BTreeMap<u32, u32>> {
        let parent = |pid: u32| {
            let stat = self.read(pid, "stat").ok()?;
            let stat = String::from_utf8_lossy(&stat);
            // The name stands in parentheses, and may contain some.
            let (_, rest) = stat.rsplit_once(')')?;
            rest.split_whitespace().nth(1)?.parse().ok()
        };
        let pids = self.pids()?.into_iter();
        Ok(pids.filter_map(|pid| Some((pid, parent(pid)?))).collect())
    }

    /// All descendants of a process.
    pub fn descendants(&self, of: u32) -> io::Result<Vec<u32>> {
        let parents = self.parents()?;
        let is_below = |pid: &u32| {
            let mut at = *pid;
            // A pid that is reused meanwhile could close a circle.
            for _ in 0..parents.len() {
                match parents.get(&at) {
                    Some(parent) if *parent == of => return true,
                    Some(parent) => at = *parent,
                    None => return false,
                }
            }
            false
        };
        Ok(parents.keys().copied().filter(is_below).collect())
    }
}

/// Whether pids of reports, which are of the initial pid namespace, mean the same here.
pub fn is_initial_namespace() -> bool {
    let inside = fs::read_link("/proc/self/ns/pid");
    inside.map_or(true, |name| name.as_os_str() == INITIAL)
}

fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The report on a process.
    Process,
    /// The other references to a socket.
    References,
    /// The connections of a network namespace.
    Namespace,
    /// The epoll sets of a process.
    EpollSets,
    /// The descriptors of a process.
    Descriptors,
    /// The registered files of an io_uring.
    Ring,
    /// The messages that a process' sockets have received.
    Messages,
    /// The files that a path names in the root directory of a process.
    Root,
}

impl Subject {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Process => ("process", "processes"),
            Self::References => ("socket's other references", "sockets' other references"),
            Self::Namespace => ("network namespace", "network namespaces"),
            Self::EpollSets => ("process' epoll sets", "processes' epoll sets"),
            Self::Descriptors => ("process' descriptors", "processes' descriptors"),
            Self::Ring => ("io_uring's registered files", "io_urings' registered files"),
            Self::Messages => ("process' queued messages", "processes' queued messages"),
            Self::Root => ("root directory", "root directories"),
        }
    }
}

/// Things of one kind that could not be read, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What they are.
    pub subject: Subject,
    /// Why.
    pub error: String,
    /// How many they are.
    pub count: u64,
    /// The processes concerned, the first of them.
    pub pids: Vec<u32>,
}

/// Everything that could not be read while something was looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Unread(pub Vec<Gap>);

impl Unread {
    /// How many processes are named for each reason.
    const NAMED: usize = 8;

    /// Adds one.
    pub fn add(&mut self, subject: Subject, pid: u32, error: impl ToString) {
        let error = error.to_string();
        let same = |gap: &&mut Gap| gap.subject == subject && gap.error == error;
        match self.0.iter_mut().find(same) {
            Some(gap) => {
                gap.count += 1;
                if gap.pids.len() < Self::NAMED {
                    gap.pids.push(pid);
                }
            }
            None => self.0.push(Gap {
                subject,
                error,
                count: 1,
                pids: vec![pid],
            }),
        }
    }

    /// Whether everything could be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A sentence for each reason.
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |gap: &Gap| {
            let (one, many) = gap.subject.words();
            let mut pids: Vec<String> = gap.pids.iter().map(u32::to_string).collect();
            if gap.count > gap.pids.len() as u64 {
                pids.push(format!("{} more", gap.count - gap.pids.len() as u64));
            }
            format!(
                "{} not read (pid {}): {}.",
                crate::screen::count(gap.count, one, many),
                pids.join(", "),
                crate::screen::plain(&gap.error.as_str().into()).trim_end_matches('.')
            )
        };
        self.0.iter().map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_without_processes_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let error = Proc::at(root.path()).pids().unwrap_err();
        assert!(error.to_string().contains("is proc mounted"), "{error}");
        assert!(Proc::at("/nonexistent").pids().is_err());
        fs::create_dir(root.path().join("12")).unwrap();
        fs::create_dir(root.path().join("sys")).unwrap();
        assert_eq!(Proc::at(root.path()).pids().unwrap(), [12]);
    }

    #[test]
    fn gaps_are_counted_and_named() {
        let mut unread = Unread::default();
        for pid in 1..=20 {
            unread.add(Subject::Process, pid, "out of memory (ENOMEM)");
        }
        unread.add(Subject::Namespace, 7, "Permission denied");
        assert_eq!(
            unread.sentences(),
            [
                "20 processes not read (pid 1, 2, 3, 4, 5, 6, 7, 8, 12 more): out of memory (ENOMEM).",
                "1 network namespace not read (pid 7): Permission denied.",
            ]
        );
    }
}
