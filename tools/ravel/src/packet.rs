//! One sk_buff, wherever on the machine it waits.

use std::fs;

use ravel_records::client::Client;
use ravel_records::decode::Decoded;
use ravel_records::{Id, SkbsReport};

use crate::family::{Failure, is_initial_namespace};
use crate::sweep::Holder;
use crate::view::skb::Found;

/// Looks for it in the queues of every process, or of one. Also tells how many were asked.
///
/// An sk_buff that is read meanwhile, or goes to another queue, may be missed; its id may then be another's.
pub fn find(id: Id, pid: Option<u32>, client: &Client) -> Result<(Option<Found>, u64), Failure> {
    if pid.is_none() && !is_initial_namespace() {
        return Err(Failure::Namespace);
    }
    let pids: Vec<u32> = match pid {
        Some(pid) => vec![pid],
        None => fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect(),
    };
    let (mut found, mut asked) = (None, 0);
    for one in pids {
        match client.skbs(one) {
            Ok(report) => {
                asked += 1;
                look(id, &report, &mut found);
            }
            // Gone, or a thread of the kernel, which has no descriptors.
            Err(error) if pid.is_none() && matches!(error.errno(), Some("ESRCH" | "EINVAL")) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((found, asked))
}

/// Looks for it in one report, and adds who holds it.
pub fn look(id: Id, report: &SkbsReport, found: &mut Option<Found>) {
    for of in &report.sockets {
        let Some(skb) = of
            .queues
            .iter()
            .flat_map(|q| &q.skbs)
            .find(|skb| skb.id == id)
        else {
            continue;
        };
        let holder = Holder {
            pid: report.header.pid,
            comm: report.header.comm.clone(),
            fd: of.socket.fd,
        };
        match found {
            Some(found) => found.holders.push(holder),
            None => {
                *found = Some(Found {
                    holders: vec![holder],
                    skb: skb.clone(),
                    decoded: Decoded::of(skb),
                });
            }
        }
    }
}
