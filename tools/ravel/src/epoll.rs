//! Epoll sets of this machine, from /proc: what each watches, and which threads wait at it.
//!
//! No lock is held from one file of /proc to the next: a set that is made or closed meanwhile may be missed, or reported
//! although it no longer exists.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use ravel_records::{Hex, Text};
use serde::Serialize;

use crate::proc::{Proc, Subject, Unread, exited};
use crate::syscall::waits_at_epoll;

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
    /// The socket's descriptor when it was added, in the process that added it.
    pub target: u32,
    /// Whether that number is a descriptor of the socket in this process, too. A set that fork() or a message has passed on
    /// may watch sockets that its process has no descriptor of.
    pub target_is_open: bool,
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

/// The target of the link of an epoll set's descriptor.
const EPOLL: &str = "anon_inode:[eventpoll]";

/// All sets that watch any of these sockets. Processes that could not be read are added to `unread`.
pub fn watches(proc: &Proc, wanted: &Wanted, unread: &mut Unread) -> io::Result<Vec<Watch>> {
    let mut watches = Vec::new();
    for pid in proc.pids()? {
        let looked = look(proc, pid, wanted, &mut watches);
        if let Err(error) = looked.or_else(|error| if exited(&error) { Ok(()) } else { Err(error) })
        {
            unread.add(Subject::EpollSets, pid, error);
        }
    }
    Ok(watches)
}

fn look(proc: &Proc, pid: u32, wanted: &Wanted, found: &mut Vec<Watch>) -> io::Result<()> {
    for fd in proc.descriptors(pid)? {
        match proc.link(pid, fd) {
            Ok(link) if link == Path::new(EPOLL) => {}
            // Another file, or closed meanwhile.
            Ok(_) => continue,
            Err(error) if exited(&error) => continue,
            Err(error) => return Err(error),
        }
        let info = match proc.read(pid, &format!("fdinfo/{fd}")) {
            Ok(info) => info,
            Err(error) if exited(&error) => continue,
            Err(error) => return Err(error),
        };
        let info = String::from_utf8_lossy(&info);
        let items: Vec<_> = info.lines().filter_map(|line| item(line, wanted)).collect();
        if items.is_empty() {
            continue;
        }
        let comm = proc.comm(pid)?;
        let mut threads = proc.threads(pid)?;
        threads.retain(|tid| {
            let call = proc.read(pid, &format!("task/{tid}/syscall"));
            call.is_ok_and(|call| waits_at_epoll(&String::from_utf8_lossy(&call), fd))
        });
        for (target, events, inode) in items {
            let link = proc.link(pid, target);
            let here = PathBuf::from(format!("socket:[{inode}]"));
            found.push(Watch {
                inode,
                pid,
                comm: comm.clone(),
                fd,
                target,
                target_is_open: link.is_ok_and(|link| link == here),
                events,
                threads: threads.clone(),
            });
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
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
        let number = if cfg!(target_arch = "aarch64") {
            22
        } else {
            232
        };
        fs::write(
            path.join("task/44/syscall"),
            format!("{number} 0x7 0x0 0x0\n"),
        )
        .unwrap();
        // A child that has the set, and another file as descriptor 5.
        let child = root.path().join("42");
        for folder in ["fd", "fdinfo", "task/42"] {
            fs::create_dir_all(child.join(folder)).unwrap();
        }
        symlink(EPOLL, child.join("fd/7")).unwrap();
        symlink("/dev/null", child.join("fd/5")).unwrap();
        fs::write(child.join("fdinfo/7"), format!("{line}\n")).unwrap();
        fs::write(child.join("comm"), "child\n").unwrap();
        // Its descriptors cannot be read.
        fs::create_dir(root.path().join("43")).unwrap();
        symlink("fd", root.path().join("43/fd")).unwrap();
        let watch = Watch {
            inode: 0x51,
            pid: 41,
            comm: "server".into(),
            fd: 7,
            target: 5,
            target_is_open: true,
            events: Hex(0x19),
            threads: vec![44],
        };
        let inherited = Watch {
            pid: 42,
            comm: "child".into(),
            target_is_open: false,
            threads: Vec::new(),
            ..watch.clone()
        };
        let mut unread = Unread::default();
        let found = watches(&Proc::at(root.path()), &wanted(), &mut unread).unwrap();
        assert_eq!(found, [watch, inherited]);
        assert_eq!((unread.0.len(), &unread.0[0].pids), (1, &vec![43]));
    }
}
