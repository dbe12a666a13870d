//! The report `skbs`: every sk_buff that waits in a socket's queue.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{
    Bytes, Checksum, Clock, Encap, Error, EtherType, Fclone, Flags, Header, Hex, Id, Offset,
    PacketType, QueueName, ReportName, Socket, Text,
};

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
        /// The socket whose queue it is, where nobody has accepted that connection yet.
        child: Option<Id>,
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
        /// The link-layer header of what is in a tunnel.
        inner_mac: Offset,
        /// The IP header of that.
        inner_network: Offset,
        /// The transport header of that.
        inner_transport: Offset,
        /// Bytes of the link-layer header, as the layers left them.
        mac_len: u64,
        /// Bytes of headers that a clone may write to.
        hdr_len: u64,
        /// What the frame carries; 0 where none is set.
        protocol: EtherType,
        /// Whether its data is shared with another sk_buff.
        cloned: bool,
        /// Whether room for a clone was made with it.
        fclone: Fclone,
        /// References to it.
        users: u64,
        /// sk_buffs that share its data.
        dataref: u64,
        /// Further bits: `encapsulation`, `recycle` and others.
        flags: Flags,
        /// Page fragments.
        frags: u64,
        /// Whether more sk_buffs hang on it.
        frag_list: bool,
        /// To whom it was addressed.
        pkt_type: PacketType,
        /// What is known of its checksum.
        ip_summed: Checksum,
        /// Checksums that were checked, one within the other, less one.
        csum_level: u64,
        /// `complete`: the sum of all bytes.
        csum: Option<Hex>,
        /// `partial`: bytes from `head` to where the sum begins.
        csum_start: Option<u64>,
        /// `partial`: bytes from there to where it belongs.
        csum_offset: Option<u64>,
        /// `SO_PRIORITY`, or the like of another host.
        priority: u64,
        /// `SO_MARK`, or what a rule has set.
        mark: Hex,
        /// A hash of its flow, 0 for none.
        hash: Hex,
        /// Index of the device that it came by, 0 for none.
        iif: u64,
        /// The name that a device of that index has in the socket's network namespace now.
        dev: Option<Text>,
        /// When it came or was sent, in nanoseconds.
        tstamp: Option<u64>,
        /// By which clock.
        clock: Option<Clock>,
        /// Nanoseconds since then.
        age_ns: Option<i64>,
        /// The kind of a VLAN tag that is kept beside the bytes.
        vlan_proto: Option<EtherType>,
        /// That tag: priority, drop eligibility, and the VLAN's number.
        vlan_tci: Option<EtherType>,
        /// Bytes of payload in each segment that it stands for.
        gso_size: Option<u64>,
        /// How many segments; 0 where nobody has counted.
        gso_segs: Option<u64>,
        /// Of what kind.
        gso_type: Option<Flags>,
        /// What is in a tunnel, as an EtherType.
        inner_protocol: Option<EtherType>,
        /// The same, as an IP protocol.
        inner_ipproto: Option<u64>,
        /// TCP: sequence number of the first byte.
        seq: Option<u32>,
        /// TCP: sequence number behind the last byte; SYN and FIN count one each.
        end_seq: Option<u32>,
        /// TCP: the flags of its header.
        tcp_flags: Option<Flags>,
        /// TCP, received: what it acknowledges.
        ack_seq: Option<u32>,
        /// TCP, sent: what has become of it.
        sacked: Option<Flags>,
        /// unix: bytes that were read.
        consumed: Option<u64>,
        /// unix: descriptors on their way in it.
        fds: Option<u64>,
        /// Error queues: the error.
        ee_errno: Option<u32>,
        /// Where it comes from: `SO_EE_ORIGIN_*`.
        ee_origin: Option<u32>,
        /// ICMP's type.
        ee_type: Option<u32>,
        /// ICMP's code.
        ee_code: Option<u32>,
        /// As `struct sock_extended_err` has it.
        ee_info: Option<u32>,
        /// Likewise.
        ee_data: Option<u32>,
        /// The type of the link layer of `dev` (`ARPHRD_*`).
        dev_type: Option<u16>,
        /// What the UDP socket receives that the outermost datagram goes to; none where that receives no tunnel's.
        encap: Option<Encap>,
    }
    plus {
        /// Its page fragments.
        pages: Vec<Frag>,
        /// The sk_buffs that hang on it.
        parts: Vec<Part>,
        /// The bytes of its headers.
        headers: Vec<HeaderBytes>,
    }
}

record! {
    /// Bytes of an sk_buff that are in a page.
    Frag {
        /// The descriptor.
        fd: u32,
        /// The queue.
        queue: QueueName,
        /// The sk_buff's place there.
        pos: u64,
        /// Place among the fragments, from 0.
        index: u64,
        /// The page, by its head page.
        page: Id,
        /// Bytes from there to where they begin.
        offset: u64,
        /// How many.
        size: u64,
    }
}

record! {
    /// An sk_buff that hangs on another.
    Part {
        /// The descriptor.
        fd: u32,
        /// The queue.
        queue: QueueName,
        /// The other's place there.
        pos: u64,
        /// Place in the list, from 0.
        index: u64,
        /// It.
        id: Id,
        /// Its bytes.
        len: u64,
        /// Of these, bytes not in its linear part.
        data_len: u64,
    }
}

record! {
    /// Headers of an sk_buff, one behind the other, and nothing of what is behind them.
    HeaderBytes {
        /// The descriptor.
        fd: u32,
        /// The queue.
        queue: QueueName,
        /// The sk_buff's place there.
        pos: u64,
        /// Bytes from the sk_buff's `head` to the first of them.
        offset: u64,
        /// They.
        bytes: Bytes,
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
                    socket: Socket::parse(line)?,
                    queues: Vec::new(),
                }),
                "queue" => {
                    let queue = Queue::from_line(line)?;
                    socket
                        .filter(|of| of.socket.fd == queue.fd)
                        .ok_or_else(|| line.error("a `queue` not under its `socket`"))?
                        .queues
                        .push(queue);
                }
                "skb" => {
                    let skb = Skb::from_line(line)?;
                    socket
                        .and_then(|of| of.queues.last_mut())
                        .filter(|of| of.fd == skb.fd && of.name == skb.queue)
                        .ok_or_else(|| line.error("an `skb` not under its `queue`"))?
                        .skbs
                        .push(skb);
                }
                kind @ ("frag" | "part" | "header") => {
                    let place = (line.get("fd")?, line.get("queue")?, line.get("pos")?);
                    let skb = socket
                        .and_then(|of| of.queues.last_mut())
                        .and_then(|of| of.skbs.last_mut())
                        .filter(|skb| (skb.fd, skb.queue.clone(), skb.pos) == place)
                        .ok_or_else(|| line.error(format!("a `{kind}` not under its `skb`")))?;
                    match kind {
                        "frag" => skb.pages.push(Frag::from_line(line)?),
                        "part" => skb.parts.push(Part::from_line(line)?),
                        _ => skb.headers.push(HeaderBytes::from_line(line)?),
                    }
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

    /// The same of one descriptor alone; none if that is no socket.
    pub fn only(mut self, fd: u32) -> Option<Self> {
        self.sockets.retain(|of| of.socket.fd == fd);
        let of = self.sockets.first()?;
        let missing = |queue: &Queue| queue.packets.saturating_sub(queue.skbs.len() as u64);
        let counts = &mut self.summary;
        counts.sockets = 1;
        counts.queues = of.queues.len() as u64;
        counts.skbs = of.queues.iter().map(|queue| queue.skbs.len() as u64).sum();
        counts.busy = of.socket.busy.into();
        counts.cut = of.queues.iter().map(missing).fold(0, u64::saturating_add);
        Some(self)
    }

    /// The socket of a descriptor.
    pub fn socket(&self, fd: u32) -> Option<&SocketQueues> {
        self.sockets.iter().find(|of| of.socket.fd == fd)
    }
}

impl SocketQueues {
    /// One of its own queues, by name.
    pub fn queue(&self, name: &QueueName) -> Option<&Queue> {
        let mut own = self.queues.iter().filter(|queue| queue.child.is_none());
        own.find(|queue| queue.name == *name)
    }
}

impl Skb {
    /// Bytes in front of the data.
    pub fn headroom(&self) -> u64 {
        self.data
    }

    /// Bytes free behind the data; an sk_buff with data outside its linear part has none.
    pub fn tailroom(&self) -> u64 {
        match self.data_len {
            0 => self.end.saturating_sub(self.tail),
            _ => 0,
        }
    }

    /// Bytes of the data that are in the linear part.
    pub fn linear(&self) -> u64 {
        self.len.saturating_sub(self.data_len)
    }

    /// Its header offsets with their names, in the order of the report.
    pub fn offsets(&self) -> [(&'static str, Offset); 6] {
        [
            ("mac", self.mac),
            ("network", self.network),
            ("transport", self.transport),
            ("inner_mac", self.inner_mac),
            ("inner_network", self.inner_network),
            ("inner_transport", self.inner_transport),
        ]
    }

    /// Whether the place is inside the buffer; what is set and not inside is no place at all.
    pub fn holds(&self, offset: Offset) -> bool {
        offset.get().is_some_and(|at| u64::from(at) <= self.end)
    }
}
