//! One sk_buff, wherever on the machine it waits.

use ravel_records::client::Client;
use ravel_records::decode::Decoded;
use ravel_records::{Error, Id, Skb, SkbsReport};
use serde::Serialize;

use crate::Failure;
use crate::proc::{Proc, Subject, Unread};
use crate::sweep::{Holder, each_process, is_no_process};

/// An sk_buff that was found, and where.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The descriptors that lead to its socket.
    pub holders: Vec<Holder>,
    /// The sk_buff.
    pub skb: Skb,
    /// Its headers.
    #[serde(flatten)]
    pub decoded: Decoded,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct Search {
    /// The sk_buff.
    pub found: Option<Found>,
    /// Processes that were read.
    pub processes: u64,
    /// Processes that could not be read.
    pub unread: Unread,
}

/// Searches the queues of every process, or of one.
///
/// An sk_buff that is read meanwhile, or moves to another queue, may be missed; its id may then be another's.
pub fn find(id: Id, pid: Option<u32>, client: &Client) -> Result<Search, Failure> {
    let mut search = Search::default();
    let mut last: Option<Error> = None;
    if let Some(pid) = pid {
        look(id, &client.skbs(pid)?, &mut search.found);
        search.processes = 1;
        return Ok(search);
    }
    each_process(&Proc::default(), |pid| {
        match client.skbs(pid) {
            Ok(report) => {
                search.processes += 1;
                look(id, &report, &mut search.found);
            }
            Err(error) if is_no_process(&error) => {}
            Err(error) => {
                search.unread.add(Subject::Process, pid, &error);
                last = Some(error);
            }
        }
        Ok(())
    })?;
    match last {
        Some(error) if search.processes == 0 => Err(error.into()),
        _ => Ok(search),
    }
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
