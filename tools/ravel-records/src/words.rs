//! Words with a fixed set of values. Each has `Other` for one that a later module may add.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::line::{FromValue, Value};

/// Serializes a word in lower case; `none` is null.
fn serialize_word<S: Serializer>(word: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if word == "none" {
        return serializer.serialize_none();
    }
    if !word.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return serializer.serialize_str(word);
    }
    serializer.serialize_str(&word.to_ascii_lowercase())
}

/// An enum of words: each variant once, with its doc and its spelling in reports. JSON has it in lower case.
macro_rules! words {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $(#[$word_meta:meta])* $variant:ident = $word:literal, )* }
    )*) => {$(
        text_words! {
            $(#[$meta])*
            $name { $( $(#[$word_meta])* $variant = $word, )* }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serialize_word(self.as_str(), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = Option::<String>::deserialize(deserializer)?;
                let word = word.as_deref().unwrap_or("none");
                // Lower case in JSON, whatever the kernel spells.
                $( if word.eq_ignore_ascii_case($word) {
                    return Ok(Self::$variant);
                } )*
                Ok(word.into())
            }
        }
    )*};
}

/// The same for text only: JSON has such an enum in another form.
macro_rules! text_words {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $(#[$word_meta:meta])* $variant:ident = $word:literal, )* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$word_meta])* $variant, )*
            /// A word that this version does not know.
            Other(String),
        }

        impl $name {
            /// The word, as reports and JSON spell it.
            pub fn as_str(&self) -> &str {
                match self {
                    $( Self::$variant => $word, )*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $( $word => Self::$variant, )*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl FromStr for $name {
            type Err = Infallible;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Ok(word.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromValue for $name {
            #[inline]
            fn from_value(value: &Value<'_>) -> Result<Self, String> {
                match *value {
                    $( Value::Bare($word) => Ok(Self::$variant), )*
                    _ => String::from_value(value).map(|word| word.as_str().into()),
                }
            }
        }
    )*};
}

words! {
    /// The name of a report.
    ReportName {
        /// Anonymous memory: VMAs, their anon_vmas and those anon_vmas' members.
        AnonVma = "anon_vma",
        /// The sockets among the descriptors.
        Sockets = "sockets",
        /// The sockets, and the sk_buffs in their queues.
        Skbs = "skbs",
        /// The sockets, and who waits on them.
        Waiters = "waiters",
        /// Pages at some addresses, and who maps each.
        Page = "page",
        /// Private memory: what of it is shared with whom.
        Cow = "cow",
        /// The processes above and below, and what they share.
        Lineage = "lineage",
        /// anon_vma chains without their members, and where the pages are.
        Chains = "chains",
        /// Everyone who holds an open file.
        Sharers = "sharers",
        /// In an `error`: a request that names no report.
        Query = "query",
        /// In a `summary`: the list of attached processes.
        Attached = "attached",
        /// In a `summary`: a batch of events.
        Events = "events",
        /// In a `summary`: the list of events that failed.
        Failed = "failed",
        /// In a `summary`: the list of streams.
        Streams = "streams",
        /// In a `summary`: the list of sources of events.
        Sources = "sources",
    }

    /// Whose events a stream has.
    Scope {
        /// Everyone's.
        All = "all",
        /// One process'.
        One = "pid",
        /// A process' and its descendants'.
        Tree = "tree",
    }

    /// Whether a member's process can be named.
    MemberState {
        /// It has a pid and a name.
        Live = "live",
        /// It is being made by fork() and has no pid yet.
        Forking = "forking",
        /// The process is gone, its memory not yet.
        Exiting = "exiting",
    }

    /// What a member's process is to the one asked for.
    Relation {
        /// The same address space.
        Self_ = "self",
        /// A parent, or a parent's ancestor.
        Ancestor = "ancestor",
        /// A child, or a child's descendant.
        Descendant = "descendant",
        /// Neither, such as a sibling, or a descendant whose parent has exited.
        Unrelated = "other",
        /// Not known: not `live`, or too many generations off.
        Unknown = "unknown",
    }

    /// What a process of a tree is to the one asked for.
    Role {
        /// The same.
        Self_ = "self",
        /// Its parent, or a parent's ancestor.
        Ancestor = "ancestor",
        /// Its child, or a child's descendant.
        Descendant = "descendant",
        /// Neither: it has the same address space, traces, or is traced.
        Unrelated = "other",
    }

    /// Whether the tree of anon_vmas says of two processes what the tree of processes says.
    Agreement {
        /// They have one address space.
        SameMemory = "same_memory",
        /// They share anon_vmas, as the fork left them.
        Agrees = "agrees",
        /// One of them has no memory any more.
        Exited = "exited",
        /// They share none: one that was forked went through exec().
        Exec = "exec",
        /// They share none, and the upper one is the younger: the lower one was adopted.
        Adopted = "adopted",
        /// They share none: the upper one went through exec(), since the fork or before, or adopted.
        ExecOrAdopted = "exec_or_adopted",
        /// They share none, and neither exec() nor adoption tells why.
        Unexplained = "unexplained",
    }

    /// What a page table entry holds.
    PageKind {
        /// A page of anonymous memory.
        Anon = "anon",
        /// A page of a file or of tmpfs.
        File = "file",
        /// Anonymous memory that KSM has merged.
        Ksm = "ksm",
        /// The page of zeroes, or the huge one.
        Zero = "zero",
        /// Memory that has no struct page.
        Special = "special",
        /// A slot of a swap device.
        Swap = "swap",
        /// A page that is being moved.
        Migration = "migration",
        /// A page in a device's memory.
        Device = "device",
        /// A page lost to a memory error.
        Hwpoison = "hwpoison",
        /// No page: a guard region, or a mark of userfaultfd.
        Marker = "marker",
        /// A page of the kernel's or a driver's, as the vdso's, or one that was cut off its file.
        Kernel = "kernel",
    }

    /// Whether an attached process is still there.
    ProcessState {
        /// It is.
        Live = "live",
        /// It has exited; a zombie has, too.
        Exited = "exited",
    }

    /// A socket's address family.
    Family {
        /// AF_INET: IPv4.
        Inet = "inet",
        /// AF_INET6.
        Inet6 = "inet6",
        /// AF_UNIX.
        Unix = "unix",
        /// AF_NETLINK.
        Netlink = "netlink",
        /// AF_PACKET.
        Packet = "packet",
        /// AF_VSOCK.
        Vsock = "vsock",
        /// AF_ALG.
        Alg = "alg",
        /// AF_XDP.
        Xdp = "xdp",
    }

    /// A socket's type.
    SocketKind {
        /// SOCK_STREAM.
        Stream = "stream",
        /// SOCK_DGRAM.
        Dgram = "dgram",
        /// SOCK_RAW.
        Raw = "raw",
        /// SOCK_RDM.
        Rdm = "rdm",
        /// SOCK_SEQPACKET.
        Seqpacket = "seqpacket",
        /// SOCK_DCCP.
        Dccp = "dccp",
        /// SOCK_PACKET.
        Packet = "packet",
    }

    /// A socket's protocol; `Other` has the number for families that are not inet.
    Protocol {
        /// IPPROTO_TCP.
        Tcp = "tcp",
        /// IPPROTO_UDP.
        Udp = "udp",
        /// IPPROTO_UDPLITE.
        Udplite = "udplite",
        /// IPPROTO_ICMP.
        Icmp = "icmp",
        /// IPPROTO_ICMPV6.
        Icmpv6 = "icmpv6",
        /// IPPROTO_SCTP.
        Sctp = "sctp",
        /// IPPROTO_MPTCP.
        Mptcp = "mptcp",
        /// IPPROTO_RAW.
        Raw = "raw",
    }

    /// `socket->state`: what the system calls see.
    SocketState {
        /// Not allocated.
        Free = "free",
        /// Not connected.
        Unconnected = "unconnected",
        /// connect() is under way.
        Connecting = "connecting",
        /// Connected.
        Connected = "connected",
        /// Being torn down.
        Disconnecting = "disconnecting",
    }

    /// `sk_state`, by TCP's names, which other families borrow.
    SkState {
        /// Open both ways as far as the handshake goes; a connected unix or UDP socket, too.
        Established = "ESTABLISHED",
        /// SYN sent, no answer yet.
        SynSent = "SYN_SENT",
        /// SYN received, last ACK not yet.
        SynRecv = "SYN_RECV",
        /// Own FIN sent, not acknowledged.
        FinWait1 = "FIN_WAIT1",
        /// Own FIN acknowledged, the peer's not seen.
        FinWait2 = "FIN_WAIT2",
        /// Both FINs seen; waiting for stray packets to die.
        TimeWait = "TIME_WAIT",
        /// Not connected.
        Close = "CLOSE",
        /// The peer's FIN received, own not sent.
        CloseWait = "CLOSE_WAIT",
        /// The peer's FIN received, own sent and not acknowledged.
        LastAck = "LAST_ACK",
        /// Waiting for connections.
        Listen = "LISTEN",
        /// Both FINs sent at once, own not acknowledged.
        Closing = "CLOSING",
        /// A connection request, not a socket yet.
        NewSynRecv = "NEW_SYN_RECV",
        /// Bound, as the kernel's socket dumps call it.
        BoundInactive = "BOUND_INACTIVE",
        /// There is no socket; in events only.
        None = "none",
    }

    /// Which way a reset went.
    Way {
        /// It was sent.
        Sent = "sent",
        /// It was received.
        Received = "received",
    }

    /// A point of a packet's way, by what happens there.
    Point {
        /// IP sends it.
        Output = "output",
        /// It is handed to the device's queue.
        Queue = "queue",
        /// It is handed to the device's driver.
        Transmit = "transmit",
        /// A driver hands it over, to be merged with others if that can be.
        Gro = "gro",
        /// It has come in.
        Receive = "receive",
        /// IP receives it.
        Ip = "ip",
        /// TCP or UDP does.
        Transport = "transport",
        /// A process reads it.
        Copy = "copy",
        /// It is done with.
        Consume = "consume",
        /// It is thrown away.
        Drop = "drop",
        /// What hung on the sk_buff is given back.
        Free = "free",
    }

    /// A wait queue of a socket.
    WaitQueue {
        /// Of those who want something of the socket: data, room to send, a connection.
        Socket = "socket",
        /// unix: of those who have something for it, and no room in its receive queue.
        Room = "room",
        /// Of those who would use it while somebody else does.
        Lock = "lock",
    }

    /// What an entry of a wait queue stands for.
    WaitsBy {
        /// A task that sleeps in a system call.
        Task = "task",
        /// A task in select() or poll().
        Poll = "poll",
        /// An epoll set.
        Epoll = "epoll",
        /// A request of an io_uring.
        IoUring = "io_uring",
        /// Those who poll a unix socket that is connected to this one.
        Relay = "relay",
        /// Something else, which its function names.
        Unknown = "other",
    }

    /// What is sent the signals of an open file.
    SignalTo {
        /// Nobody: there is no owner.
        None = "none",
        /// One thread.
        Thread = "thread",
        /// A process.
        Process = "process",
        /// A process group.
        Group = "group",
    }

    /// How a reference to an open file is held.
    Holds {
        /// By a descriptor.
        Descriptor = "descriptor",
        /// By messages that a unix socket has received, and nobody has read.
        Message = "message",
        /// By an io_uring, as a registered file.
        Ring = "ring",
    }

    /// How far a TCP socket's own FIN is.
    Fin {
        /// There is none yet.
        None = "none",
        /// It waits behind what was not sent.
        Queued = "queued",
        /// It was sent, and not acknowledged.
        Sent = "sent",
        /// The peer has it.
        Acked = "acked",
        /// There was no memory for it: it is never sent.
        Failed = "failed",
        /// The connection is over, and does not tell how it ended.
        Unknown = "unknown",
    }

    /// The version of a packet socket's ring.
    RingVersion {
        /// TPACKET_V1.
        V1 = "v1",
        /// TPACKET_V2.
        V2 = "v2",
        /// TPACKET_V3: blocks of packets.
        V3 = "v3",
    }

    /// What TCP's timer for sending will do.
    TcpTimer {
        /// It is not set.
        None = "none",
        /// Send again what was not acknowledged.
        Retransmit = "retransmit",
        /// Ask whether the peer's window has opened.
        Probe = "probe",
        /// Send the last packet again, to find out whether it was lost.
        LossProbe = "loss_probe",
        /// Take what came out of order for lost.
        Reorder = "reorder",
    }

    /// A socket's queue.
    QueueName {
        /// Received, not yet read.
        Receive = "receive",
        /// UDP: what a reader has taken over but not yet handed out.
        Reader = "reader",
        /// TCP: received, and something before it is missing.
        Ofo = "ofo",
        /// Written, and not yet sent.
        Write = "write",
        /// TCP: sent, not acknowledged.
        Rtx = "rtx",
        /// TCP and SCTP: came while a process owned the socket.
        Backlog = "backlog",
        /// Errors and time stamps of what was sent.
        Error = "error",
    }

    /// How an sk_buff was allocated with room for one clone.
    Fclone {
        /// It was not.
        None = "none",
        /// It was, and this is not the clone.
        Original = "original",
        /// This is the clone.
        Clone = "clone",
    }

    /// To whom a packet was addressed, or where it comes from.
    PacketType {
        /// To this host.
        Host = "host",
        /// To everyone.
        Broadcast = "broadcast",
        /// To a group.
        Multicast = "multicast",
        /// To another host.
        OtherHost = "otherhost",
        /// It is going out.
        Outgoing = "outgoing",
        /// A multicast of this host's that came back.
        Loopback = "loopback",
        /// To user space.
        User = "user",
        /// To the kernel.
        Kernel = "kernel",
    }

    /// What is known of a packet's checksum (`ip_summed`).
    Checksum {
        /// Nothing.
        None = "none",
        /// It was checked.
        Unnecessary = "unnecessary",
        /// The device added up all bytes.
        Complete = "complete",
        /// Whoever sends it has to fill it in.
        Partial = "partial",
    }

    /// The clock that a packet's time is of.
    Clock {
        /// CLOCK_REALTIME.
        Realtime = "realtime",
        /// CLOCK_MONOTONIC.
        Monotonic = "monotonic",
        /// CLOCK_TAI.
        Tai = "tai",
    }

    /// What the UDP socket receives that a datagram goes to.
    Encap {
        /// VXLAN, or VXLAN-GPE.
        Vxlan = "vxlan",
        /// GENEVE.
        Geneve = "geneve",
        /// Foo over UDP.
        Fou = "fou",
        /// Generic UDP encapsulation.
        Gue = "gue",
        /// GTP.
        Gtp = "gtp",
        /// ESP in UDP.
        Esp = "esp",
        /// L2TP.
        L2tp = "l2tp",
        /// WireGuard.
        WireGuard = "wireguard",
        /// Bare UDP tunnels.
        Bareudp = "bareudp",
    }
}

text_words! {
    /// Why a packet was thrown away, or a reset sent, by the kernel's name without what stands before all of them.
    Reason {
        /// There is none to be told.
        None = "none",
    }

    /// `sk_shutdown`: the directions that are shut.
    Shutdown {
        /// Neither.
        None = "none",
        /// Nothing more is received.
        Rd = "RD",
        /// Nothing more is sent.
        Wr = "WR",
        /// Both.
        RdWr = "RDWR",
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_word(self.as_str(), serializer)
    }
}

/// The kernel's names are in upper case, and not known here; those that stand for a number are in lower case.
impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<String>::deserialize(deserializer)? {
            None => Self::None,
            Some(word) if word.starts_with("reason_") => Self::Other(word),
            Some(word) => Self::Other(word.to_ascii_uppercase()),
        })
    }
}

/// An array of directions in JSON.
impl Serialize for Shutdown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words: &[&str] = match self {
            Self::None => &[],
            Self::Rd => &["rd"],
            Self::Wr => &["wr"],
            Self::RdWr => &["rd", "wr"],
            Self::Other(word) => &[word],
        };
        words.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Shutdown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(match words[..] {
            [] => Self::None,
            ["rd"] => Self::Rd,
            ["wr"] => Self::Wr,
            ["rd", "wr"] => Self::RdWr,
            _ => Self::Other(words.join(",")),
        })
    }
}

impl Shutdown {
    /// Whether receiving is shut.
    pub fn rd(&self) -> bool {
        matches!(self, Self::Rd | Self::RdWr)
    }

    /// Whether sending is shut.
    pub fn wr(&self) -> bool {
        matches!(self, Self::Wr | Self::RdWr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_are_kept() {
        assert_eq!(SkState::from("FIN_WAIT2"), SkState::FinWait2);
        let later = SkState::from("state_17");
        assert_eq!(later, SkState::Other("state_17".into()));
        assert_eq!(later.to_string(), "state_17");
        let json = serde_json::to_string(&(Relation::Unrelated, &later)).unwrap();
        assert_eq!(json, r#"["other","state_17"]"#);
        let back: (Relation, SkState) = serde_json::from_str(&json).unwrap();
        assert_eq!(back, (Relation::Unrelated, later));
        let json = serde_json::to_string(&(SkState::CloseWait, SkState::None)).unwrap();
        assert_eq!(json, r#"["close_wait",null]"#);
        let both: (SkState, SkState) = serde_json::from_str(&json).unwrap();
        assert_eq!(both, (SkState::CloseWait, SkState::None));
        let json = serde_json::to_string(&[Shutdown::None, Shutdown::RdWr]).unwrap();
        assert_eq!(json, r#"[[],["rd","wr"]]"#);
        let both: [Shutdown; 2] = serde_json::from_str(&json).unwrap();
        assert_eq!(both, [Shutdown::None, Shutdown::RdWr]);
    }
}
