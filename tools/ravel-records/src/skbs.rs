//! The report `skbs`: every sk_buff that waits in a socket's queue.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, EtherType, Header, Id, Offset, QueueName, ReportName, Socket};

/// A whole report `skbs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkbsReport {
    /// Whose it is.
    pub header: Header,
    /// One for each descriptor that is a socket, in the order of descriptors.
    pub sockets: Vec<SocketQueues>,
    /// The counts.
    pub summary: SkbsSummary,
}

/// A socket with its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketQueues {
    /// The socket; in JSON its keys stand beside `queues`.
    #[serde(flatten)]
    pub socket: Socket,
    /// Its queues.
    pub queues: Vec<Queue>,
}

record! {
    /// A queue of sk_buffs.
    Queue {
        /// The descriptor.
        fd: u32,
        /// Which of its queues.
        name: QueueName,
        /// sk_buffs in it.
        packets: u64,
        /// Of these, the ones in `skbs`: the first of them.
        shown: u64,
    }
    plus {
        /// The sk_buffs, from the queue's head.
        skbs: Vec<Skb>,
    }
}

record! {
    /// An sk_buff.
    Skb {
        /// The descriptor.
        fd: u32,
        /// The queue.
        queue: QueueName,
        /// Place in the queue, from 0.
        pos: u64,
        /// Its name; another packet may have it later.
        id: Id,
        /// Bytes in all.
        len: u64,
        /// Of these, bytes not in the linear part.
        data_len: u64,
        /// Bytes of memory accounted for it.
        truesize: u64,
        /// Bytes from `head` to where the data begins.
        data: u64,
        /// Bytes from `head` to where the linear part of the data ends.
        tail: u64,
        /// Bytes from `head` to where the buffer ends.
        end: u64,
        /// The link-layer header.
        mac: Offset,
        /// The IP header.
        network: Offset,
        /// The TCP, UDP or other transport header.
        transport: Offset,
        /// What the frame carries; 0 where none is set.
        protocol: EtherType,
        /// Whether its data is shared with another sk_buff.
        cloned: bool,
        /// Page fragments.
        frags: u64,
        /// Whether more sk_buffs hang on it.
        frag_list: bool,
        /// TCP: sequence number of the first byte.
        seq: Option<u32>,
        /// TCP: sequence number behind the last byte; SYN and FIN count one each.
        end_seq: Option<u32>,
    }
}

record! {
    /// The counts of a report `skbs`.
    SkbsSummary {
        /// The report's name.
        report: ReportName,
        /// Descriptors looked at.
        fds: u64,
        /// socket records.
        sockets: u64,
        /// queue records.
        queues: u64,
        /// skb records.
        skbs: u64,
        /// Sockets that were busy.
        busy: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl SkbsReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Skbs)?;
        let mut sockets: Vec<SocketQueues> = Vec::new();
        while let Some(line) = body.next()? {
            let socket = sockets.last_mut();
            match line.kind {
                "socket" => sockets.push(SocketQueues {
                    socket: Socket::parse(&line)?,
                    queues: Vec::new(),
                }),
                "queue" => {
                    let queue = Queue::from_line(&line)?;
                    socket
                        .filter(|of| of.socket.fd == queue.fd)
                        .ok_or_else(|| line.error("a `queue` not under its `socket`"))?
                        .queues
                        .push(queue);
                }
                "skb" => {
                    let skb = Skb::from_line(&line)?;
                    socket
                        .and_then(|of| of.queues.last_mut())
                        .filter(|of| of.fd == skb.fd && of.name == skb.queue)
                        .ok_or_else(|| line.error("an `skb` not under its `queue`"))?
                        .skbs
                        .push(skb);
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = SkbsSummary::from_line(&last)?;
        let cut = summary.cut;
        let queues = || sockets.iter().flat_map(|of| &of.queues);
        let skbs = queues().map(|queue| queue.skbs.len()).sum();
        let busy = sockets.iter().filter(|of| of.socket.busy).count();
        check(&last, "sockets", summary.sockets, sockets.len(), cut)?;
        check(&last, "queues", summary.queues, queues().count(), cut)?;
        check(&last, "skbs", summary.skbs, skbs, cut)?;
        check(&last, "busy", summary.busy, busy, cut)?;
        let missing = queues()
            .map(|queue| queue.packets.saturating_sub(queue.skbs.len() as u64))
            .fold(0, u64::saturating_add);
        if missing > cut {
            return Err(last.error(format!(
                "{missing} sk_buffs are missing, the summary owns to {cut}"
            )));
        }
        Ok(Self {
            header,
            sockets,
            summary,
        })
    }

    /// The socket of a descriptor.
    pub fn socket(&self, fd: u32) -> Option<&SocketQueues> {
        self.sockets.iter().find(|of| of.socket.fd == fd)
    }
}

impl SocketQueues {
    /// One of its queues, by name.
    pub fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.name == *name)
    }
}
