// SPDX-License-Identifier: GPL-2.0

//! Records of the report `skbs`.

use super::common::ReportName;
use super::{Bytes, Comm, EtherType, Flag, Hex, Id, Maybe, Number, Offset, Signed};

record! {
    /// A queue of the `socket` before it.
    Queue = 60 "queue" {
        /// The descriptor.
        fd: Number,
        /// Which of its queues.
        name: QueueName,
        /// Present if the queue belongs to a connection that is not accepted: the socket that
        /// accept() will return, as in the record `waiting` of `sockets`. Only non-empty queues of
        /// such connections are reported, and only those of the first 128 connections.
        child: Maybe<Id>,
        /// sk_buffs in it.
        packets: Number,
        /// `skb` records that follow: the first 1024 of them (`error`: 128), at most 1280 for one
        /// socket, and fewer if their headers and pages are many.
        shown: Number,
    }

    /// An sk_buff of the `queue` before it.
    Skb = 61 "skb" {
        /// The descriptor.
        fd: Number,
        /// The queue.
        queue: QueueName,
        /// Its position in the queue, from 0.
        pos: Number,
        /// The sk_buff; a later packet may have the same id.
        id: Id,
        /// All bytes (`skb->len`).
        len: Number [bytes],
        /// Of `len`, bytes outside of the linear part.
        data_len: Number [bytes],
        /// Memory accounted for it.
        truesize: Number [bytes],
        /// From `head` to the start of the data, which is also its headroom.
        data: Number [bytes],
        /// From `head` to the end of the linear part.
        tail: Number [bytes],
        /// From `head` to the end of the buffer. `end` minus `tail` is its tailroom if `data_len`
        /// is 0.
        end: Number [bytes],
        /// The link-layer header: bytes from `head`, as the kernel stores it, and `set` or `unset`.
        /// The value of the kernel for unset is 65535. `set` means that a layer has set the field,
        /// not that the header is still in front of `data`. It is inside of the buffer if it is not
        /// above `end`.
        mac: Offset [bytes],
        /// The network header, likewise. 0, its initial value, also counts as unset, since a header
        /// there leaves no room for the preceding ones.
        network: Offset [bytes],
        /// The transport header, likewise. 65535 and 0 count as unset.
        transport: Offset [bytes],
        /// The link-layer header of the inner packet of a tunnel, whose initial value is 0. It is
        /// valid while `flags` contains `encapsulation`; otherwise it may be stale.
        inner_mac: Offset [bytes],
        /// The network header of the inner packet, likewise.
        inner_network: Offset [bytes],
        /// The transport header of the inner packet, likewise.
        inner_transport: Offset [bytes],
        /// Length of the link-layer header.
        mac_len: Number [bytes],
        /// Bytes that a clone may write to.
        hdr_len: Number [bytes],
        /// `skb->protocol`, 0x0000 if none is set.
        protocol: EtherType,
        /// Its data is shared with another sk_buff.
        cloned: Flag,
        /// Whether it was allocated together with room for a clone.
        fclone: Fclone,
        /// References to the sk_buff.
        users: Number,
        /// sk_buffs that share its data.
        dataref: Number,
        /// Further flags.
        flags: SkbFlags,
        /// Page fragments (`nr_frags`), which is the number of `frag` records.
        frags: Number,
        /// It has a list of further sk_buffs: `part` records follow.
        frag_list: Flag,
        /// To whom it was addressed.
        pkt_type: PacketType,
        /// What is known of its checksum.
        ip_summed: Checksum,
        /// Verified checksums, one within the other, minus one.
        csum_level: Number,
        /// With `complete`: the sum of all bytes.
        csum: Maybe<Hex>,
        /// With `partial`: where the sum begins and belongs.
        csum_place: Maybe<ChecksumPlace>,
        /// Its priority (SO_PRIORITY).
        priority: Number,
        /// Its mark (SO_MARK).
        mark: Hex,
        /// The hash of its flow; 0 for none.
        hash: Hex,
        /// The index of the device that received it; 0 for none. A packet that was moved to another
        /// namespace has none.
        iif: Number,
        /// With `iif`: the current name of the device with that index in the namespace of the
        /// socket.
        dev: Maybe<Comm>,
        /// Its timestamp, if it has one.
        stamp: Maybe<Stamp>,
        /// A VLAN tag that is stored outside of the data, if there is one.
        vlan: Maybe<Vlan>,
        /// What GSO has set, if it has.
        gso: Maybe<Gso>,
        /// Present if it is set: the protocol inside of a tunnel, as an EtherType.
        inner_protocol: Maybe<EtherType>,
        /// Present if it is set: the protocol inside of a tunnel, as an IP protocol.
        inner_ipproto: Maybe<Number>,
        /// In a queue of TCP.
        tcp: Maybe<TcpControl>,
        /// In a queue of a unix socket.
        unix: Maybe<UnixControl>,
        /// In an error queue.
        error: Maybe<ErrorControl>,
        /// With `dev`: the type of its link layer (`ARPHRD_*`; 1 is Ethernet).
        dev_type: Maybe<Number>,
        /// Present if the outermost datagram of the packet goes to a UDP socket that receives encapsulated packets
        /// (`encap_type`), in the namespace of the socket whose queue it is in. It is determined by the kernel function
        /// that receives the datagram, not by the port. A connected UDP socket is not found.
        encap: Maybe<Encapsulation>,
    }

    /// A page of the `skb` before it. There are at most 64 `frag` and `part` records together;
    /// `cut` counts further parts, up to 16384 in one hold of a lock, and one for all after them.
    Frag = 62 "frag" {
        /// The descriptor.
        fd: Number,
        /// The queue.
        queue: QueueName,
        /// The position of the sk_buff in the queue.
        pos: Number,
        /// Its number, from 0.
        index: Number,
        /// The page, identified by its head page.
        page: Id,
        /// Where the data begins in the page.
        offset: Number [bytes],
        /// Length of the data.
        size: Number [bytes],
    }

    /// An sk_buff of the frag_list of the `skb` before it.
    Part = 63 "part" {
        /// The descriptor.
        fd: Number,
        /// The queue.
        queue: QueueName,
        /// The position of the sk_buff in the queue.
        pos: Number,
        /// Its number, from 0.
        index: Number,
        /// The sk_buff.
        id: Id,
        /// All bytes of it.
        len: Number [bytes],
        /// Of `len`, bytes outside of the linear part.
        data_len: Number [bytes],
    }

    /// The bytes of the headers of the `skb` before it.
    Header = 64 "header" {
        /// The descriptor.
        fd: Number,
        /// The queue.
        queue: QueueName,
        /// The position of the sk_buff in the queue.
        pos: Number,
        /// From `head` to the first byte.
        offset: Number [bytes],
        /// The bytes.
        bytes: Bytes,
    }

    /// The counts of the report `skbs`.
    SkbsSummary = 65 "summary" {
        /// `skbs`.
        report: ReportName,
        /// Descriptors that were examined.
        fds: Number,
        /// `socket` records.
        sockets: Number,
        /// `queue` records.
        queues: Number,
        /// `skb` records.
        skbs: Number,
        /// Of `sockets`, those that are busy.
        busy: Number,
        /// Omitted records.
        cut: Number,
    }
}

part! {
    /// A checksum that the device or the last layer completes.
    ChecksumPlace {
        /// With `partial`: from `head` to the start of the sum.
        csum_start: Number [bytes],
        /// With `partial`: from there to the checksum field.
        csum_offset: Number [bytes],
    }

    /// A timestamp.
    Stamp {
        /// Present if it is not 0. For `write` and `rtx` of TCP: the time when it was last sent, or
        /// the earliest time when it may be sent.
        tstamp: Number [ns],
        /// With `tstamp`: the clock.
        clock: Clock,
        /// With `tstamp`: the time since then, by that clock; negative if it is in the future.
        age_ns: Signed [ns],
    }

    /// A VLAN tag.
    Vlan {
        /// Present if a VLAN tag is stored outside of the data: its protocol.
        vlan_proto: EtherType,
        /// With `vlan_proto`: the tag.
        vlan_tci: EtherType,
    }

    /// What GSO has set.
    Gso {
        /// Present if `gso_size` or `gso_type` is not 0: payload of each segment; 0 if there is
        /// only one.
        gso_size: Number [bytes],
        /// With `gso_size`: number of segments; 0 if it was not computed.
        gso_segs: Number,
        /// With `gso_size`: `SKB_GSO_*` in lower case.
        gso_type: GsoType,
    }

    /// What TCP keeps with an sk_buff.
    TcpControl {
        /// TCP queues only: the first sequence number.
        seq: Number,
        /// TCP queues only: the sequence number behind the last.
        end_seq: Number,
        /// TCP queues only: flags of the header.
        tcp_flags: TcpFlags,
        /// TCP, received: the acknowledgement number.
        ack_seq: Maybe<Number>,
        /// TCP, sent: what became of it.
        sacked: Maybe<Sacked>,
    }

    /// What a unix socket keeps with an sk_buff.
    UnixControl {
        /// unix: bytes that the reader of a stream has consumed.
        consumed: Number [bytes],
        /// unix: descriptors in flight in it (SCM_RIGHTS).
        fds: Number,
    }

    /// What an error queue keeps with an sk_buff, as in `struct sock_extended_err`.
    ErrorControl {
        /// `error`: the errno value.
        ee_errno: Number,
        /// `error`: where it comes from.
        ee_origin: Number,
        /// `error`: the type of ICMP.
        ee_type: Number,
        /// `error`: the code of ICMP.
        ee_code: Number,
        /// `error`: further information.
        ee_info: Number,
        /// `error`: further data.
        ee_data: Number,
    }
}

enumeration! {
    /// A queue of a socket.
    QueueName else "queue_" {
        /// Received and not read; that of a unix listener holds its connections.
        RECEIVE = 0 "receive",
        /// UDP: what a reader has moved from `receive` in one step and not yet returned.
        READER = 1 "reader",
        /// TCP: received out of order: preceding data is missing; in the order of sequence numbers.
        OFO = 2 "ofo",
        /// TCP: written and not yet sent; UDP, raw: written with MSG_MORE and not yet sent.
        WRITE = 3 "write",
        /// TCP: sent and not acknowledged.
        RTX = 4 "rtx",
        /// TCP, SCTP, TIPC: arrived while a process owned the socket; it exists only that long.
        BACKLOG = 5 "backlog",
        /// Errors and timestamps of sent packets (MSG_ERRQUEUE).
        ERROR = 6 "error",
    }

    /// Whether an sk_buff was allocated together with room for a clone.
    Fclone else "fclone_" {
        /// It was not.
        NONE = 0 "none",
        /// It was.
        ORIGINAL = 1 "original",
        /// It is that clone.
        CLONE = 2 "clone",
    }

    /// What a UDP socket receives.
    Encapsulation else "encap_" {
        /// Also VXLAN-GPE.
        VXLAN = 0 "vxlan",
        GENEVE = 1 "geneve",
        FOU = 2 "fou",
        GUE = 3 "gue",
        GTP = 4 "gtp",
        ESP = 5 "esp",
        L2TP = 6 "l2tp",
        WIREGUARD = 7 "wireguard",
        BAREUDP = 8 "bareudp",
        OTHER = 9 "other",
    }

    /// To whom a packet was addressed.
    PacketType else "type_" {
        HOST = 0 "host",
        BROADCAST = 1 "broadcast",
        MULTICAST = 2 "multicast",
        OTHERHOST = 3 "otherhost",
        OUTGOING = 4 "outgoing",
        LOOPBACK = 5 "loopback",
        USER = 6 "user",
        KERNEL = 7 "kernel",
    }

    /// What is known of a checksum.
    Checksum else "checksum_" {
        NONE = 0 "none",
        UNNECESSARY = 1 "unnecessary",
        COMPLETE = 2 "complete",
        PARTIAL = 3 "partial",
    }

    /// A clock.
    Clock else "clock_" {
        REALTIME = 0 "realtime",
        MONOTONIC = 1 "monotonic",
        TAI = 2 "tai",
        UNKNOWN = 3 "unknown",
    }
}

bits! {
    /// Flags of an sk_buff.
    SkbFlags {
        NOHDR = 0x1 "nohdr",
        PEEKED = 0x2 "peeked",
        HEAD_FRAG = 0x4 "head_frag",
        PFMEMALLOC = 0x8 "pfmemalloc",
        /// Its pages return to a page pool.
        RECYCLE = 0x10 "recycle",
        ENCAPSULATION = 0x20 "encapsulation",
        L4_HASH = 0x40 "l4_hash",
        SW_HASH = 0x80 "sw_hash",
        CSUM_VALID = 0x100 "csum_valid",
        /// In device memory.
        UNREADABLE = 0x200 "unreadable",
        IGNORE_DF = 0x400 "ignore_df",
        SLOW_GRO = 0x800 "slow_gro",
    }

    /// `SKB_GSO_*`.
    GsoType {
        TCPV4 = 0x1 "tcpv4",
        DODGY = 0x2 "dodgy",
        TCP_ECN = 0x4 "tcp_ecn",
        TCP_FIXEDID_ANY = 0x8 "tcp_fixedid_any",
        TCPV6 = 0x10 "tcpv6",
        FCOE = 0x20 "fcoe",
        GRE = 0x40 "gre",
        GRE_CSUM = 0x80 "gre_csum",
        IPXIP4 = 0x100 "ipxip4",
        IPXIP6 = 0x200 "ipxip6",
        UDP_TUNNEL = 0x400 "udp_tunnel",
        UDP_TUNNEL_CSUM = 0x800 "udp_tunnel_csum",
        PARTIAL = 0x1000 "partial",
        TUNNEL_REMCSUM = 0x2000 "tunnel_remcsum",
        SCTP = 0x4000 "sctp",
        ESP = 0x8000 "esp",
        UDP = 0x1_0000 "udp",
        UDP_L4 = 0x2_0000 "udp_l4",
        FRAGLIST = 0x4_0000 "fraglist",
        TCP_ACCECN = 0x8_0000 "tcp_accecn",
        TCP_FIXEDID = 0x4000_0000 "tcp_fixedid",
        TCP_FIXEDID_INNER = 0x8000_0000 "tcp_fixedid_inner",
    }

    /// Flags of TCP, as in bytes 12 and 13 of its header.
    TcpFlags {
        FIN = 0x1 "fin",
        SYN = 0x2 "syn",
        RST = 0x4 "rst",
        PSH = 0x8 "psh",
        ACK = 0x10 "ack",
        URG = 0x20 "urg",
        ECE = 0x40 "ece",
        CWR = 0x80 "cwr",
        AE = 0x100 "ae",
    }

    /// What became of a sent sk_buff (`TCPCB_*`).
    Sacked {
        SACKED = 0x1 "sacked",
        RETRANSMITTED = 0x2 "retransmitted",
        LOST = 0x4 "lost",
        REPAIRED = 0x10 "repaired",
        EVER_RETRANSMITTED = 0x80 "ever_retransmitted",
    }
}
