//! Everything that has or uses a socket: what is not found cheaply is looked for only where
//! something is missing.

use std::collections::{BTreeMap, BTreeSet};

use ravel_records::client::Client;
use ravel_records::{Holds, SocketsReport};

use super::{Listener, Owners};
use crate::census::Census;
use crate::census::address::lookup;
use crate::census::calls::{Call, calls};
use crate::census::holders::Descriptor;
use crate::census::kernel::{self, KernelOwner, Mount};
use crate::census::queues::{Queue, queues, requests};
use crate::census::socket::{Sock, What};
use crate::epoll::{self, Watch};
use crate::proc::{Proc, Subject, Unread};

/// For how many sockets the module is asked for all references: it walks the machine for each.
const MAX_ASKED: usize = 32;

/// A search for the owners of some sockets.
pub struct Seeking<'a> {
    census: &'a Census,
    proc: &'a Proc,
    client: &'a Client,
    /// What could not be read.
    pub unread: Unread,
    /// Whether all messages and system calls that could hold one of the sockets are known.
    pub is_exhaustive: bool,
    asked: usize,
    reports: BTreeMap<u32, Option<SocketsReport>>,
    watches: Vec<Watch>,
    calls: Option<Vec<Call>>,
    threads: Option<Vec<String>>,
    mounts: Option<Vec<Mount>>,
    queues: Option<Vec<Queue>>,
}

impl<'a> Seeking<'a> {
    /// Begins.
    pub fn new(census: &'a Census, proc: &'a Proc, client: &'a Client, hits: &[usize]) -> Self {
        let inodes: BTreeSet<u64> = hits
            .iter()
            .map(|at| census.socks[*at].inode)
            .filter(|inode| *inode != 0)
            .collect();
        let mut unread = Unread::default();
        let watches = watches(census, proc, inodes, &mut unread);
        Self {
            census,
            proc,
            client,
            unread,
            is_exhaustive: true,
            asked: 0,
            reports: BTreeMap::new(),
            watches,
            calls: None,
            threads: None,
            mounts: None,
            queues: None,
        }
    }

    /// The descriptors of a socket.
    pub fn descriptors(&self, sock: &Sock) -> Vec<Descriptor> {
        let held = self.census.holders.descriptors.get(&sock.inode);
        held.filter(|_| sock.inode != 0)
            .cloned()
            .unwrap_or_default()
    }

    /// Everything that has or uses a socket.
    pub fn owners(&mut self, at: usize) -> Owners {
        let sock = &self.census.socks[at];
        let mut owners = Owners {
            holders: self.descriptors(sock),
            ..Owners::default()
        };
        match sock.what {
            What::Socket => {
                owners.clients = self.clients(sock);
                self.owners_of_socket(sock, &mut owners);
            }
            What::NotAccepted | What::Request => owners.listener = self.listener(sock),
            What::Remnant | What::Orphan => {}
        }
        owners
    }

    /// Who has connected to a unix listener that has not accepted.
    fn clients(&self, sock: &Sock) -> Vec<Descriptor> {
        let pending = sock.unix.iter().flat_map(|unix| &unix.pending);
        let held = pending.filter_map(|inode| self.census.holders.descriptors.get(inode));
        held.flatten().cloned().collect()
    }

    fn owners_of_socket(&mut self, sock: &Sock, owners: &mut Owners) {
        if sock.inode == 0 {
            owners.kernel = self.kernel(sock);
            return;
        }
        let registered = self.census.holders.registered.get(&sock.inode);
        owners.rings = registered.cloned().unwrap_or_default();
        let watches = self
            .watches
            .iter()
            .filter(|watch| watch.inode == sock.inode);
        owners.watches = watches.cloned().collect();
        match owners.holders.is_empty() {
            false => self.references(sock, owners),
            true => self.without_descriptor(sock, owners),
        }
    }

    /// Compares the descriptors that were found with the references that the kernel counts, and
    /// asks for the others.
    fn references(&mut self, sock: &Sock, owners: &mut Owners) {
        let found = owners.holders.len() as u64 + slots(owners);
        let refs = self.file_refs(sock, owners);
        if refs == Some(found) {
            owners.unnamed = Some(0);
            return;
        }
        if self.asked >= MAX_ASKED {
            self.is_exhaustive = false;
            return;
        }
        self.asked += 1;
        for holder in owners.holders.iter().filter(|holder| holder.tid.is_none()) {
            match self.client.sharers(holder.pid, holder.fd) {
                // The number may mean another file by now.
                Ok(report) if report.file.inode == sock.inode => {
                    let is_other = |holds: &Holds| *holds != Holds::Descriptor;
                    owners.others = report
                        .sharers
                        .into_iter()
                        .filter(|sharer| is_other(&sharer.holds))
                        .collect();
                    let has_rings = owners.others.iter().any(|other| other.holds == Holds::Ring);
                    if has_rings {
                        owners.rings.clear();
                    }
                    owners.unnamed = Some(report.summary.unnamed);
                    break;
                }
                Ok(_) => {}
                Err(error) if matches!(error.errno(), Some("ESRCH" | "EBADF")) => {}
                Err(error) => {
                    self.unread.add(Subject::References, holder.pid, error);
                    break;
                }
            }
        }
        match owners.unnamed {
            None => self.is_exhaustive = false,
            Some(0) => {}
            Some(_) => self.add_candidates(sock, owners),
        }
    }

    /// The references to a socket's open file, as the first process that has it reports them.
    fn file_refs(&mut self, sock: &Sock, owners: &Owners) -> Option<u64> {
        let holder = owners.holders.iter().find(|holder| holder.tid.is_none())?;
        let (client, unread) = (self.client, &mut self.unread);
        let report =
            self.reports
                .entry(holder.pid)
                .or_insert_with(|| match client.sockets(holder.pid) {
                    Ok(report) => Some(report),
                    Err(error) if matches!(error.errno(), Some("ESRCH" | "EINVAL")) => None,
                    Err(error) => {
                        unread.add(Subject::References, holder.pid, error);
                        None
                    }
                });
        let mut sockets = report.as_ref()?.sockets.iter();
        let socket = sockets.find(|of| of.fd == holder.fd && of.inode == sock.inode)?;
        u64::try_from(socket.file_refs).ok()
    }

    /// Who has a socket that no descriptor leads to.
    fn without_descriptor(&mut self, sock: &Sock, owners: &mut Owners) {
        owners.kernel = self.kernel(sock);
        if owners.kernel.is_some() || !owners.rings.is_empty() {
            // It is explained, and nothing else was searched.
            self.is_exhaustive = false;
            return;
        }
        self.add_candidates(sock, owners);
        let queues = self
            .queues
            .get_or_insert_with(|| queues(self.census, self.proc, &mut self.unread));
        owners.queues.clone_from(queues);
    }

    fn add_candidates(&mut self, sock: &Sock, owners: &mut Owners) {
        owners.calls = self.calls_on(sock);
        owners.requests = requests(self.census, sock);
    }

    /// The threads in a system call that can be one on a socket.
    fn calls_on(&mut self, sock: &Sock) -> Vec<Call> {
        if self.calls.is_none() {
            self.calls = Some(match calls(self.proc) {
                Ok(calls) => calls,
                Err(error) => {
                    self.unread.add(Subject::Process, 0, error);
                    Vec::new()
                }
            });
        }
        let calls = self.calls.iter().flatten().filter(|call| call.suits(sock));
        let (inside, outside): (Vec<Call>, Vec<Call>) = calls
            .cloned()
            .partition(|call| call.netns == Some(sock.netns));
        // A thread may use a socket of another namespace, but seldom does.
        if inside.is_empty() { outside } else { inside }
    }

    fn kernel(&mut self, sock: &Sock) -> Option<KernelOwner> {
        let devices = self.census.devices.get(&sock.netns);
        let tunnel = devices.and_then(|devices| kernel::tunnel(sock, devices));
        if tunnel.is_some() {
            return tunnel;
        }
        let proc = self.proc;
        let mounts = self.mounts.get_or_insert_with(|| {
            let text = proc.read(1, "mountinfo").unwrap_or_default();
            kernel::mounts(&String::from_utf8_lossy(&text))
        });
        let mounted = kernel::file_system(sock, mounts);
        mounted.or_else(|| {
            let threads = self.threads.get_or_insert_with(|| kernel_threads(proc));
            kernel::service(sock, threads)
        })
    }

    /// The listener that a connection belongs to which is not accepted.
    fn listener(&self, sock: &Sock) -> Option<Listener> {
        let ends = sock.ends?;
        let socks = &self.census.socks;
        let found = lookup(socks, sock.netns, ends.local, None);
        let is_listener =
            |of: &&crate::census::address::Match| of.order.is_some() && socks[of.at].is_stream();
        let listener = &socks[found.iter().find(is_listener)?.at];
        Some(Listener {
            inode: listener.inode,
            holders: self.descriptors(listener),
        })
    }
}

fn slots(owners: &Owners) -> u64 {
    // Processes that share a ring, or have it twice, show the same slots.
    owners
        .rings
        .iter()
        .map(|ring| ring.slots)
        .max()
        .unwrap_or(0)
}

fn watches(census: &Census, proc: &Proc, inodes: BTreeSet<u64>, unread: &mut Unread) -> Vec<Watch> {
    // All sockets are of one file system.
    let held = census.holders.descriptors.values().flatten();
    let device = held
        .filter(|holder| holder.tid.is_none())
        .find_map(|holder| proc.device(holder.pid, holder.fd).ok());
    let Some(device) = device.filter(|_| !inodes.is_empty()) else {
        return Vec::new();
    };
    let wanted = epoll::Wanted { device, inodes };
    match epoll::watches(proc, &wanted, unread) {
        Ok(watches) => watches,
        Err(error) => {
            unread.add(Subject::EpollSets, 0, error);
            Vec::new()
        }
    }
}

/// The names of the kernel's threads: the children of process 2.
fn kernel_threads(proc: &Proc) -> Vec<String> {
    let parents = proc.parents().unwrap_or_default();
    let children = parents.iter().filter(|(_, parent)| **parent == 2);
    let name = |pid: u32| proc.comm(pid).ok().map(|comm| comm.to_string());
    children.filter_map(|(pid, _)| name(*pid)).collect()
}
