//! All sockets of the machine, each with every descriptor that leads to it.
//!
//! Processes are asked one after the other, and go on meanwhile: a descriptor that is passed from one that was
//! not yet asked to one that was may be missed. Where the descriptors that were found and the references that the
//! kernel counts differ, that is said.

use std::collections::BTreeMap;
use std::fs;

use ravel_records::client::Client;
use ravel_records::{Error, Id, Socket, SocketsReport, Text};
use serde::Serialize;

use crate::family::{Failure, is_initial_namespace};

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

/// The sockets of a machine.
#[derive(Debug, Default)]
pub struct Sweep {
    /// In the order of the first who has each.
    pub sockets: Vec<Held>,
    /// Processes that were asked.
    pub processes: u64,
    /// The kernel's release.
    pub kernel: Text,
    /// Records that a bound of the module left out.
    pub cut: u64,
    places: BTreeMap<Id, usize>,
}

impl Sweep {
    /// Asks the module for each process of /proc. Who has exited meanwhile is left out.
    pub fn ask(client: &Client) -> Result<Self, Failure> {
        if !is_initial_namespace() {
            return Err(Failure::Namespace);
        }
        let mut sweep = Self::default();
        let mut pids: Vec<u32> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        for pid in pids {
            match client.sockets(pid) {
                Ok(report) => sweep.add(report),
                // Gone, or a thread of the kernel, which has no descriptors.
                Err(error) if matches!(error.errno(), Some("ESRCH" | "EINVAL")) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sweep)
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
            match self.places.get(&socket.id) {
                Some(at) => {
                    let held = &mut self.sockets[*at];
                    held.holders.push(holder);
                    // Others may have found it idle where the first found it busy.
                    if held.socket.detail.is_none() {
                        held.socket = socket;
                    }
                }
                None => {
                    self.places.insert(socket.id, self.sockets.len());
                    self.sockets.push(Held {
                        socket,
                        holders: vec![holder],
                    });
                }
            }
        }
    }

    /// A socket by its id; none if nobody was found to have it open.
    pub fn socket(&self, id: Id) -> Option<&Held> {
        self.places.get(&id).map(|at| &self.sockets[*at])
    }
}
