//! All sockets of the machine, each with every descriptor that leads to it.
//!
//! Processes are read consecutively, and run meanwhile: a descriptor that is passed from a process that was not yet read
//! to one that was may be missed. Where the descriptors that were found and the references that the kernel counts differ,
//! the output says so.

use std::collections::{BTreeMap, BTreeSet};

use ravel_records::client::Client;
use ravel_records::{Error, Id, Socket, SocketDetail, SocketsReport, Text};
use serde::Serialize;

use crate::Failure;
use crate::proc::{Proc, Subject, Unread, is_initial_namespace};

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: Text,
    /// The descriptor.
    pub fd: u32,
}

/// A socket, and who has it open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The socket, as the first one has it.
    #[serde(flatten)]
    pub socket: Socket,
    /// By pid and descriptor.
    pub holders: Vec<Holder>,
}

/// The identity of a socket. The id alone is not enough: it is passed on when the kernel reuses the object.
pub type Key = (Id, u64);

/// The sockets of a machine.
#[derive(Debug, Default)]
pub struct Sweep {
    /// In the order of the first process that holds each.
    pub sockets: Vec<Held>,
    /// Processes that were asked.
    pub processes: u64,
    /// The kernel's release.
    pub kernel: Text,
    /// Records that a bound of the module left out.
    pub cut: u64,
    /// Processes that could not be read, other than those that have exited.
    pub unread: Unread,
    places: BTreeMap<Key, usize>,
}

impl Sweep {
    /// Asks the module for each process of /proc, except those that exit meanwhile.
    ///
    /// One that cannot be read is counted in [`Sweep::unread`], and the others are read. Fails if none can be.
    pub fn ask(client: &Client, proc: &Proc) -> Result<Self, Failure> {
        let mut sweep = Self::default();
        let mut last = None;
        each_process(proc, |pid| match client.sockets(pid) {
            Ok(report) => {
                sweep.add(report);
                Ok(())
            }
            Err(error) if is_no_process(&error) => Ok(()),
            Err(error) if concerns_all(&error) => Err(error),
            Err(error) => {
                sweep.unread.add(Subject::Process, pid, &error);
                last = Some(error);
                Ok(())
            }
        })?;
        match last {
            Some(error) if sweep.processes == 0 => Err(error.into()),
            _ => Ok(sweep),
        }
    }

    /// Reads again how many references sockets have that seem to have more than descriptors.
    ///
    /// Whoever examines a socket holds a reference to its open file for a moment, as another
    /// `ravel` does: the least number is the one without it.
    pub fn settle(&mut self, client: &Client) -> Result<(), Failure> {
        for _ in 0..LOOKS {
            let more = |held: &&Held| {
                u64::try_from(held.socket.file_refs).unwrap_or(0) > held.holders.len() as u64
            };
            let suspects = self.sockets.iter().filter(more);
            let pids: BTreeSet<u32> = suspects
                .filter_map(|held| Some(held.holders.first()?.pid))
                .collect();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                match client.sockets(pid) {
                    Ok(report) => self.take_least(&report.sockets),
                    Err(error) if is_no_process(&error) => {}
                    Err(error) if concerns_all(&error) => return Err(error.into()),
                    Err(error) => self.unread.add(Subject::Process, pid, &error),
                }
            }
        }
        Ok(())
    }

    fn take_least(&mut self, again: &[Socket]) {
        for socket in again {
            if let Some(at) = self.places.get(&(socket.id, socket.inode)) {
                let refs = &mut self.sockets[*at].socket.file_refs;
                *refs = socket.file_refs.min(*refs);
            }
        }
    }

    /// Reports `sockets` that were saved, one behind the other.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut sweep = Self::default();
        for report in SocketsReport::parse_all(text)? {
            sweep.add(report);
        }
        Ok(sweep)
    }

    fn add(&mut self, report: SocketsReport) {
        self.processes += 1;
        self.kernel = report.header.kernel;
        self.cut = self.cut.saturating_add(report.summary.cut);
        for socket in report.sockets {
            let holder = Holder {
                pid: report.header.pid,
                comm: report.header.comm.clone(),
                fd: socket.fd,
            };
            match self.places.get(&(socket.id, socket.inode)) {
                Some(at) => {
                    let held = &mut self.sockets[*at];
                    held.holders.push(holder);
                    // Others may have found it idle where the first found it busy.
                    if held.socket.detail.is_none() {
                        held.socket = socket;
                    }
                }
                None => {
                    self.places
                        .insert((socket.id, socket.inode), self.sockets.len());
                    self.sockets.push(Held {
                        socket,
                        holders: vec![holder],
                    });
                }
            }
        }
    }

    /// A socket; none if no descriptor of it was found.
    pub fn socket(&self, key: Key) -> Option<&Held> {
        self.places.get(&key).map(|at| &self.sockets[*at])
    }

    /// The socket at the other end of a connection on this machine, if a descriptor of it was found.
    pub fn peer(&self, detail: &SocketDetail) -> Option<&Held> {
        let inode = detail.other.as_ref()?.peer_inode;
        self.socket((detail.peer, inode))
    }
}

/// How many more times the references of a socket are read that has more than descriptors are
/// known.
const LOOKS: usize = 3;

/// The report on one process, with the least number of references that several looks have found:
/// see [`Sweep::settle`].
pub fn settled(client: &Client, pid: u32) -> Result<SocketsReport, Error> {
    let mut report = client.sockets(pid)?;
    for _ in 0..LOOKS {
        let fds = |of: &Socket| {
            let same = report.sockets.iter().filter(|other| other.id == of.id);
            same.count() as i64
        };
        if report.sockets.iter().all(|of| of.file_refs <= fds(of)) {
            break;
        }
        let again = client.sockets(pid)?;
        let mut least: BTreeMap<Key, i64> = BTreeMap::new();
        for of in again.sockets.iter().chain(&report.sockets) {
            let refs = least.entry((of.id, of.inode)).or_insert(of.file_refs);
            *refs = of.file_refs.min(*refs);
        }
        report = again;
        for of in &mut report.sockets {
            of.file_refs = least[&(of.id, of.inode)];
        }
    }
    Ok(report)
}

/// Calls a function for each process of the initial pid namespace, in the order of their numbers.
pub fn each_process(
    proc: &Proc,
    mut each: impl FnMut(u32) -> Result<(), Error>,
) -> Result<(), Failure> {
    let pids = proc.pids().map_err(Failure::Proc)?;
    if !is_initial_namespace() {
        return Err(Failure::Namespace);
    }
    pids.into_iter().try_for_each(|pid| Ok(each(pid)?))
}

/// Whether the module says that there is nothing to report on: the process has exited, or is a kernel thread, which has no
/// descriptors.
pub fn is_no_process(error: &Error) -> bool {
    matches!(error.errno(), Some("ESRCH" | "EINVAL"))
}

/// Whether an error has nothing to do with one process: the module cannot be reached, or is of another version.
fn concerns_all(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => matches!(
            source.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
        ),
        Error::Format { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pid: u32, id: &str, inode: u64) -> String {
        format!(
            "report name=sockets format=1 pid={pid} comm=\"a\" kernel=\"k\"\n\
             socket fd=3 id={id} inode={inode} netns=1 family=inet type=stream protocol=tcp file_refs=1 \
             nonblock=0 busy=1\n\
             summary report=sockets fds=9 sockets=1 waiting=0 busy=1 cut=0\n"
        )
    }

    #[test]
    fn a_reused_object_is_another_socket() {
        let id = "00000000000000aa";
        let text = [report(7, id, 111), report(8, id, 222), report(9, id, 222)].concat();
        let sweep = Sweep::parse(text.as_bytes()).unwrap();
        let found: Vec<_> = sweep
            .sockets
            .iter()
            .map(|held| (held.socket.inode, held.holders.len()))
            .collect();
        assert_eq!(found, [(111, 1), (222, 2)]);
        assert_eq!(sweep.socket((Id(0xaa), 111)).unwrap().holders[0].pid, 7);
        assert!(sweep.socket((Id(0xaa), 333)).is_none());
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        for root in [empty.path(), std::path::Path::new("/nonexistent")] {
            let swept = Sweep::ask(&Client::new("/nonexistent"), &Proc::at(root));
            assert!(matches!(swept, Err(Failure::Proc(_))), "{root:?}");
        }
        std::fs::create_dir(empty.path().join("7")).unwrap();
        let swept = Sweep::ask(&Client::new("/nonexistent"), &Proc::at(empty.path()));
        // These tests may run in a container.
        assert!(matches!(
            swept,
            Err(Failure::Report(Error::Io { .. }) | Failure::Namespace)
        ));
    }
}
