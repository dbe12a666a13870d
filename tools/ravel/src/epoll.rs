//! Epoll sets of this machine, as /proc tells of them: what each watches, and who waits at it.
//!
//! No lock is held from one file of /proc to the next: a set that is made or closed meanwhile may be missed, or
//! told although it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ravel_records::{Hex, Text};
use serde::Serialize;
use syscalls::x86_64::Sysno;

/// A socket that an epoll set watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// The socket's inode.
    pub inode: u64,
    /// A process that has the set open.
    pub pid: u32,
    /// Its name.
    pub comm: Text,
    /// The set's descriptor there.
    pub fd: u32,
    /// The socket's descriptor when it was added.
    pub target: u32,
    /// The events asked for, and EPOLLET and so on.
    pub events: Hex,
    /// The process' threads that wait at the set, in epoll_wait() or the like.
    pub threads: Vec<u32>,
}

/// The sockets that are looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The device of the sockets' file system, as the kernel numbers it.
    pub device: u64,
    /// Their inodes.
    pub inodes: BTreeSet<u64>,
}

/// The files of processes.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self("/proc".into())
    }
}

/// What the link of an epoll set's descriptor says.
const EPOLL: &str = "anon_inode:[eventpoll]";

fn numbers(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

impl Proc {
    /// The device of a process' descriptor that is a socket, as the kernel numbers it.
    pub fn device(&self, pid: u32, fd: u32) -> Option<u64> {
        let device = fs::metadata(self.0.join(format!("{pid}/fd/{fd}")))
            .ok()?
            .dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Some((u64::from(major) << 20) | u64::from(minor))
    }

    /// Who watches any of these sockets.
    pub fn watches(&self, wanted: &Wanted) -> Vec<Watch> {
        let mut watches = Vec::new();
        for pid in numbers(&self.0) {
            let process = self.0.join(pid.to_string());
            for fd in numbers(&process.join("fd")) {
                let link = fs::read_link(process.join(format!("fd/{fd}")));
                if link.is_ok_and(|link| link == Path::new(EPOLL)) {
                    self.look(&process, pid, fd, wanted, &mut watches);
                }
            }
        }
        watches
    }

    fn look(&self, process: &Path, pid: u32, fd: u32, wanted: &Wanted, found: &mut Vec<Watch>) {
        let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        let info = read(&format!("fdinfo/{fd}"));
        let info = String::from_utf8_lossy(&info);
        let items: Vec<_> = info.lines().filter_map(|line| item(line, wanted)).collect();
        if items.is_empty() {
            return;
        }
        let comm = read("comm");
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        let threads = numbers(&process.join("task"));
        let waits = |tid: &u32| at_set(&read(&format!("task/{tid}/syscall")), fd);
        let threads: Vec<u32> = threads.into_iter().filter(waits).collect();
        found.extend(items.into_iter().map(|(target, events, inode)| Watch {
            inode,
            pid,
            comm: comm.to_vec().into(),
            fd,
            target,
            events,
            threads: threads.clone(),
        }));
    }
}

/// A line of a set's fdinfo (ep_show_fdinfo()), if it is about a socket that is looked for: its descriptor, the
/// events, its inode.
fn item(line: &str, wanted: &Wanted) -> Option<(u32, Hex, u64)> {
    let spaced = line.replace(':', ": ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let value = |key: &str| {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1).copied()
    };
    let hex = |key| u64::from_str_radix(value(key)?, 16).ok();
    let (inode, device) = (hex("ino:")?, hex("sdev:")?);
    if device != wanted.device || !wanted.inodes.contains(&inode) {
        return None;
    }
    Some((value("tfd:")?.parse().ok()?, Hex(hex("events:")?), inode))
}

/// Whether a thread's /proc/PID/task/TID/syscall says that it waits at a set.
fn at_set(call: &[u8], fd: u32) -> bool {
    let call = String::from_utf8_lossy(call);
    let mut words = call.split_whitespace();
    let number = words.next().and_then(|word| word.parse().ok());
    let first = words
        .next()
        .and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let waits = [Sysno::epoll_wait, Sysno::epoll_pwait, Sysno::epoll_pwait2];
    number.and_then(Sysno::new).is_some_and(|call| waits.contains(&call))
        // Descriptors are ints: what stands above is not looked at.
        && first.is_some_and(|first| first as u32 == fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn wanted() -> Wanted {
        Wanted {
            device: 8,
            inodes: BTreeSet::from([0x51, 0x52]),
        }
    }

    #[test]
    fn lines_of_fdinfo() {
        let line = "tfd:        5 events: 80002019 data:           12  pos:0 ino:51 sdev:8";
        assert_eq!(item(line, &wanted()), Some((5, Hex(0x8000_2019), 0x51)));
        for other in [
            "tfd:        5 events: 19 data:  5  pos:0 ino:53 sdev:8",
            "tfd:        5 events: 19 data:  5  pos:0 ino:51 sdev:9",
            "tfd:        5 events: 19 data:  5  pos:0 ino:51",
            "pos:\t0",
            "",
        ] {
            assert_eq!(item(other, &wanted()), None, "{other}");
        }
    }

    #[test]
    fn calls_that_wait() {
        assert!(at_set(
            b"232 0x8 0x7ffe 0x10 0xffffffff 0x0 0x0 0x7f 0x7f\n",
            8
        ));
        assert!(at_set(
            b"281 0x8 0x7ffe 0x10 0xffffffff 0x0 0x8 0x7f 0x7f\n",
            8
        ));
        for other in ["232 0x7 0x0", "7 0x8 0x0", "running", "-1 0x7f 0x7f", ""] {
            assert!(!at_set(other.as_bytes(), 8), "{other}");
        }
    }

    #[test]
    fn sets_of_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("41");
        for folder in ["fd", "fdinfo", "task/41", "task/44"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        symlink(EPOLL, path.join("fd/7")).unwrap();
        symlink("socket:[81]", path.join("fd/5")).unwrap();
        let line = "tfd:        5 events:       19 data:  5  pos:0 ino:51 sdev:8";
        let other = "tfd:        9 events:       19 data:  9  pos:0 ino:99 sdev:8";
        fs::write(path.join("fdinfo/7"), format!("pos:\t0\n{line}\n{other}\n")).unwrap();
        fs::write(path.join("comm"), "server\n").unwrap();
        fs::write(path.join("task/41/syscall"), "running\n").unwrap();
        fs::write(path.join("task/44/syscall"), "232 0x7 0x0 0x0\n").unwrap();
        let watch = Watch {
            inode: 0x51,
            pid: 41,
            comm: "server".into(),
            fd: 7,
            target: 5,
            events: Hex(0x19),
            threads: vec![44],
        };
        assert_eq!(Proc(root.path().into()).watches(&wanted()), [watch]);
    }
}
