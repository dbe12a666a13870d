//! The holders of sockets that descriptors lead to, asked of the module one by one.

use ravel_records::client::Client;
use ravel_records::{Holds, Sharer};
use serde::Serialize;

use crate::proc::{Subject, Unread};
use crate::sweep::{Held, Holder, Sweep};

/// Who has a socket, and its other end.
#[derive(Clone, Debug, Serialize)]
pub struct Known {
    /// The socket, and the descriptors that were found.
    #[serde(flatten)]
    pub held: Held,
    /// References that are no descriptors: messages on their way, registered with a ring.
    pub others: Vec<Sharer>,
    /// References on the open file whose holders are not known; none where they were not looked up.
    pub unnamed: Option<u64>,
    /// Who has the other end open, where that is on this machine.
    pub peer_holders: Vec<Holder>,
}

/// Looks for the holders of sockets, descriptors and others.
pub struct Seeker<'a> {
    sweep: &'a Sweep,
    client: Option<&'a Client>,
    left: usize,
    /// Look-ups that failed.
    pub unread: Unread,
}

/// For how many sockets the module is asked who holds what no descriptor does: it walks the machine
/// for each.
const MAX_ASKED: usize = 32;

impl<'a> Seeker<'a> {
    /// Looks in what a sweep has found, and beyond it where there is somebody to ask.
    pub fn new(sweep: &'a Sweep, client: Option<&'a Client>) -> Self {
        Self {
            sweep,
            client,
            left: MAX_ASKED,
            unread: Unread::default(),
        }
    }

    /// Everyone who holds a socket, and who has its other end.
    pub fn know(&mut self, held: &Held) -> Known {
        let found = held.holders.len() as u64;
        let peer = held.socket.detail.as_ref();
        let peer = peer.and_then(|detail| self.sweep.peer(detail));
        let mut known = Known {
            held: held.clone(),
            others: Vec::new(),
            unnamed: None,
            peer_holders: peer.map_or_else(Vec::new, |peer| peer.holders.clone()),
        };
        if u64::try_from(held.socket.file_refs) == Ok(found) {
            known.unnamed = Some(0);
        } else if let (Some(client), true) = (self.client, self.left > 0) {
            self.left -= 1;
            look_up(&mut known, client, &mut self.unread);
        }
        known
    }
}

/// Looks up all references to a socket, descriptors and others. What is known stays as it is if
/// that fails.
fn look_up(known: &mut Known, client: &Client, unread: &mut Unread) {
    for holder in known.held.holders.clone() {
        match client.sharers(holder.pid, holder.fd) {
            // The number may mean another file by now.
            Ok(report) if report.file.inode == known.held.socket.inode => {
                let (descriptors, others): (Vec<Sharer>, _) = report
                    .sharers
                    .into_iter()
                    .partition(|sharer| sharer.holds == Holds::Descriptor);
                known.held.holders = descriptors
                    .into_iter()
                    .map(|sharer| Holder {
                        pid: sharer.pid,
                        comm: sharer.comm,
                        fd: sharer.fd,
                    })
                    .collect();
                known.others = others;
                known.unnamed = Some(report.summary.unnamed);
                return;
            }
            Ok(_) => {}
            Err(error) if matches!(error.errno(), Some("ESRCH" | "EBADF")) => {}
            Err(error) => {
                unread.add(Subject::References, holder.pid, error);
                return;
            }
        }
    }
}
