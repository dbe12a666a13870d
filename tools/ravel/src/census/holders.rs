//! Who has sockets: the descriptors of all processes, and of threads that have tables of their own;
//! the registered files of io_urings.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use ravel_common::kernel::{compare_tables, namespace_of};
use ravel_records::Text;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::Serialize;

use super::netns::{self, Namespace, Namespaces};
use crate::proc::{Proc, Subject, Unread, exited};

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Descriptor {
    /// The process.
    pub pid: u32,
    /// The thread, if the descriptor is in a table that the process' main thread does not use.
    pub tid: Option<u32>,
    /// The name of the process.
    pub comm: Text,
    /// The descriptor.
    pub fd: u32,
}

impl Descriptor {
    /// The network namespace of the socket that it leads to. A reference to the socket is held for
    /// this moment.
    pub fn namespace(&self, proc: &Proc) -> Option<Namespace> {
        // PIDFD_THREAD: the table of a thread.
        let (number, flags) = match self.tid {
            Some(tid) => (tid, PidfdFlags::from_bits_retain(0x80)),
            None => (self.pid, PidfdFlags::empty()),
        };
        let task = Pid::from_raw(number.try_into().ok()?)?;
        let process = pidfd_open(task, flags).ok()?;
        // The number may be another task's by now.
        if proc.comm(self.pid).ok()? != self.comm {
            return None;
        }
        let fd = self.fd.try_into().ok()?;
        let socket = pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()?;
        let namespace = namespace_of(socket.as_fd()).ok()?;
        Namespace::of(namespace, None).ok()
    }
}

/// An io_uring that a socket is registered with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Registered {
    /// The ring.
    pub ring: Descriptor,
    /// How often the socket is registered with it.
    pub slots: u64,
}

/// Everything that a walk over /proc finds.
#[derive(Debug, Default)]
pub struct Holders {
    /// By the socket's inode.
    pub descriptors: BTreeMap<u64, Vec<Descriptor>>,
    /// By the socket's inode.
    pub registered: BTreeMap<u64, Vec<Registered>>,
    /// Rings, each with the opcodes of its requests that wait for a file.
    pub rings: Vec<(Descriptor, Vec<u32>)>,
    /// Processes that were read.
    pub processes: u64,
    /// Processes that exited before they were read.
    pub exited: u64,
    /// A process for each mount namespace and root directory, in the order of their numbers.
    pub roots: Vec<u32>,
    /// Sockets of which a descriptor was found, with a process that has one.
    pub pids: BTreeMap<u64, u32>,
}

/// The inode of a link such as `socket:[4711]`.
fn numbered(link: &Path, kind: &str) -> Option<u64> {
    let link = link.to_str()?;
    let inode = link.strip_prefix(kind)?.strip_prefix(":[")?;
    inode.strip_suffix(']')?.parse().ok()
}

/// A walk over all processes.
struct Walk<'a> {
    proc: &'a Proc,
    found: Holders,
    namespaces: &'a mut Namespaces,
    unread: &'a mut Unread,
    mounts: BTreeSet<(u64, u64, u64)>,
}

impl Holders {
    /// Walks over /proc. The network namespaces that tasks are in, or have descriptors of, are
    /// added to `namespaces`, what could not be read to `unread`.
    pub fn scan(proc: &Proc, namespaces: &mut Namespaces, unread: &mut Unread) -> io::Result<Self> {
        let pids = proc.pids()?;
        let mut walk = Walk {
            proc,
            found: Self::default(),
            namespaces,
            unread,
            mounts: BTreeSet::new(),
        };
        for pid in pids {
            match walk.process(pid) {
                Ok(()) => walk.found.processes += 1,
                Err(error) if exited(&error) => walk.found.exited += 1,
                Err(error) => walk.unread.add(Subject::Descriptors, pid, error),
            }
        }
        for held in walk.found.descriptors.values_mut() {
            held.sort_unstable();
        }
        Ok(walk.found)
    }
}

impl Walk<'_> {
    fn process(&mut self, pid: u32) -> io::Result<()> {
        let comm = self.proc.comm(pid)?;
        self.mount(pid);
        let mut tables: Vec<u32> = Vec::new();
        let mut lead = None;
        for tid in self.proc.threads(pid)? {
            let task = format!("{pid}/task/{tid}");
            let seen = self.task(pid, tid, &task, &comm, &mut tables);
            match seen {
                Ok(()) => {}
                // A thread may exit while the process goes on.
                Err(error) if exited(&error) && tid != pid => {}
                Err(error) => lead = Some(error),
            }
        }
        lead.map_or(Ok(()), Err)
    }

    /// Notes a process with another root directory, or another mount namespace, than those before
    /// it.
    fn mount(&mut self, pid: u32) {
        use std::os::unix::fs::MetadataExt;

        let root = fs::metadata(self.proc.root(pid));
        let mounts = fs::metadata(self.proc.file(&format!("{pid}/ns/mnt")));
        if let (Ok(root), Ok(mounts)) = (root, mounts) {
            if self.mounts.insert((mounts.ino(), root.dev(), root.ino())) {
                self.found.roots.push(pid);
            }
        }
    }

    fn task(
        &mut self,
        pid: u32,
        tid: u32,
        task: &str,
        comm: &Text,
        tables: &mut Vec<u32>,
    ) -> io::Result<()> {
        let net = self.proc.file(&format!("{task}/ns/net"));
        match fs::read_link(&net).map(|link| numbered(&link, "net")) {
            Ok(Some(inode)) if !self.namespaces.contains_key(&inode) => {
                match Namespace::open(&net, Some(tid)) {
                    Ok(found) => {
                        self.namespaces.insert(found.inode, found);
                    }
                    Err(error) if exited(&error) => {}
                    Err(error) => self.unread.add(Subject::Namespace, pid, error),
                }
            }
            // One that is mounted, or that a descriptor led to, is named by a process in it.
            Ok(Some(inode)) => {
                if let Some(known) = self.namespaces.get_mut(&inode) {
                    known.pid = known.pid.or(Some(tid));
                }
            }
            Ok(None) => {}
            Err(error) if exited(&error) => {}
            Err(error) => self.unread.add(Subject::Namespace, pid, error),
        }
        let shares = |other: &u32| {
            // Where the call is forbidden, threads are taken to share the table, as nearly all do.
            compare_tables(*other, tid).map_or(true, |order| order == Ordering::Equal)
        };
        if tables.iter().any(shares) {
            return Ok(());
        }
        let own = (!tables.is_empty()).then_some(tid);
        let list = match self.proc.file(&format!("{task}/fd")).read_dir() {
            Ok(list) => list,
            // The main thread may have exited, and have no table any more.
            Err(error) if exited(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        tables.push(tid);
        for entry in list {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) if exited(&error) => break,
                Err(error) => return Err(error),
            };
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = netns::descriptor(self.proc, task, fd);
            let link = match fs::read_link(&path) {
                Ok(link) => link,
                // Closed meanwhile.
                Err(error) if exited(&error) => continue,
                Err(error) => return Err(error),
            };
            let descriptor = || Descriptor {
                pid,
                tid: own.filter(|_| tid != pid),
                comm: comm.clone(),
                fd,
            };
            if let Some(inode) = numbered(&link, "socket") {
                self.found.pids.entry(inode).or_insert(pid);
                let held = self.found.descriptors.entry(inode).or_default();
                held.push(descriptor());
            } else if let Some(inode) = numbered(&link, "net") {
                if !self.namespaces.contains_key(&inode) {
                    let opened = Namespace::open(&path, None).ok();
                    let opened = opened.filter(|opened| opened.inode == inode);
                    self.namespaces.extend(opened.map(|opened| (inode, opened)));
                }
            } else if link == Path::new("anon_inode:[io_uring]") {
                self.ring(task, descriptor());
            }
        }
        Ok(())
    }

    fn ring(&mut self, task: &str, ring: Descriptor) {
        let path = self.proc.file(&format!("{task}/fdinfo/{}", ring.fd));
        let text = match fs::read(path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if exited(&error) => return,
            Err(error) => return self.unread.add(Subject::Ring, ring.pid, error),
        };
        let Some(info) = RingInfo::parse(&text) else {
            let busy = "it was in use";
            return self.unread.add(Subject::Ring, ring.pid, busy);
        };
        for (inode, slots) in info.sockets {
            let held = self.found.registered.entry(inode).or_default();
            held.push(Registered {
                ring: ring.clone(),
                slots,
            });
        }
        self.found.rings.push((ring, info.opcodes));
    }
}

/// What the fdinfo of an io_uring says (io_uring_show_fdinfo()).
#[derive(Debug, Default, PartialEq, Eq)]
struct RingInfo {
    /// Inodes of registered sockets, with the number of slots of each.
    sockets: BTreeMap<u64, u64>,
    /// Opcodes of the requests that wait for a file.
    opcodes: Vec<u32>,
}

impl RingInfo {
    /// None if the kernel could not say, since somebody used the ring.
    fn parse(text: &str) -> Option<Self> {
        let mut info = Self::default();
        let mut known = false;
        for line in text.lines() {
            known |= line.starts_with("UserFiles:");
            let slot = line.split_once(": ").map(|(_, file)| Path::new(file));
            if let Some(inode) = slot.and_then(|file| numbered(file, "socket")) {
                *info.sockets.entry(inode).or_default() += 1;
            }
            let waits = line.trim_start().strip_prefix("op=");
            let opcode = waits.and_then(|rest| rest.split(',').next());
            info.opcodes
                .extend(opcode.and_then(|opcode| opcode.parse::<u32>().ok()));
        }
        known.then_some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn rings_say_what_is_registered() {
        let text = "pos:\t0\nSqMask:\t0x3\nUserFiles:\t3\n    0: socket:[81]\n\
                    \x20   1: /dev/null\n    2: socket:[81]\nUserBufs:\t0\nPollList:\n  op=13, task_works=0\nCqOverflowList:\n";
        let info = RingInfo::parse(text).unwrap();
        assert_eq!(info.sockets, BTreeMap::from([(81, 2)]));
        assert_eq!(info.opcodes, [13]);
        assert_eq!(RingInfo::parse("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn descriptors_of_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let process = |pid: u32, links: &[(u32, &str)]| {
            let task = root.path().join(format!("{pid}/task/{pid}"));
            fs::create_dir_all(task.join("fd")).unwrap();
            fs::create_dir_all(task.join("ns")).unwrap();
            fs::write(root.path().join(format!("{pid}/comm")), "server\n").unwrap();
            for (fd, link) in links {
                symlink(link, task.join(format!("fd/{fd}"))).unwrap();
            }
        };
        process(
            4_000_041,
            &[(3, "socket:[81]"), (5, "/dev/null"), (7, "socket:[82]")],
        );
        process(4_000_042, &[(4, "socket:[81]")]);
        // It has exited.
        fs::create_dir(root.path().join("43")).unwrap();
        let (mut namespaces, mut unread) = (Namespaces::new(), Unread::default());
        let proc = Proc::at(root.path());
        let found = Holders::scan(&proc, &mut namespaces, &mut unread).unwrap();
        let of = |inode| {
            let held = found.descriptors[&inode].iter();
            held.map(|of| (of.pid, of.tid, of.fd)).collect::<Vec<_>>()
        };
        assert_eq!(of(81), [(4_000_041, None, 3), (4_000_042, None, 4)]);
        assert_eq!(of(82), [(4_000_041, None, 7)]);
        assert_eq!((found.processes, found.exited), (2, 1));
        assert!(unread.is_empty(), "{unread:?}");
    }
}
