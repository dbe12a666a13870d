//! Events of the network: of sockets, of TCP connections, of packets.

use crate::line::record;
use crate::{
    EtherType, Family, Fclone, Flags, Id, Offset, Point, Protocol, Reason, Shutdown, SkState, Text,
    Way,
};

/// A record of a stream about a socket: what all of them have, and more.
macro_rules! of_socket {
    (
        $(#[$meta:meta])*
        $name:ident {
            by { $( $(#[$by_meta:meta])* $by:ident: $by_type:ty, )* }
            what { $( $(#[$field_meta:meta])* $field:ident: $type:ty, )* }
        }
    ) => {
        record! {
            $(#[$meta])*
            $name {
                /// Sequence number in the stream.
                seq: u64,
                /// Number of this attempt to hand it out.
                attempt: u32,
                /// When, in nanoseconds since boot.
                time: u64,
                /// On which CPU.
                cpu: u32,
                $( $(#[$by_meta])* $by: $by_type, )*
                /// The socket, as in the report `sockets`; 0 where there is none.
                id: Id,
                /// Its inode; 0 where nobody has it open.
                inode: u64,
                /// Inode of its network namespace; 0 where there is no socket.
                netns: u64,
                /// Address family.
                family: Family,
                /// Protocol.
                protocol: Protocol,
                /// `ADDRESS:PORT` or `[ADDRESS]:PORT`; empty of a unix socket.
                local: Text,
                /// The other end's, in the same form.
                remote: Text,
                $( $(#[$field_meta])* $field: $type, )*
            }
        }
    };
}

/// What a process did to a socket.
macro_rules! by_process {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$field_meta:meta])* $field:ident: $type:ty, )* }
    ) => {
        of_socket! {
            $(#[$meta])*
            $name {
                by {
                    /// The process that did it.
                    pid: u32,
                    /// Its thread that did.
                    tid: u32,
                    /// When that process was made, in nanoseconds since boot.
                    born: u64,
                    /// Its name.
                    comm: Text,
                    $( $(#[$field_meta])* $field: $type, )*
                }
                what {
                    /// The protocol's state before it.
                    sk_state: SkState,
                    /// The directions that were shut before it.
                    shutdown: Shutdown,
                    /// Payload bytes received and not yet read (TCP, unix streams).
                    rx_bytes: u64,
                    /// sk_buffs received; of a listener, connections not yet accepted.
                    rx_packets: u64,
                    /// TCP: bytes from the first unacknowledged to the last written.
                    tx_bytes: u64,
                    /// TCP: of these, those that were never sent.
                    unsent: u64,
                    /// Bytes of memory of what it sent and nobody has yet freed.
                    wmem: u64,
                }
            }
        }
    };
}

of_socket! {
    /// A `tcp_state` record: a socket went to another state.
    TcpState {
        by {}
        what {
            /// The state that it left.
            old: SkState,
            /// The state that it has now.
            new: SkState,
        }
    }
}

of_socket! {
    /// A `reset` record: a connection was reset.
    Reset {
        by {}
        what {
            /// The socket's state; `none` where there is no socket.
            sk_state: SkState,
            /// Which way the reset went.
            way: Way,
            /// Why it was sent, by the kernel's name; `none` of one that was received.
            reason: Reason,
        }
    }
}

record! {
    /// A `drop` record: a packet was thrown away.
    Dropped {
        /// Sequence number in the stream.
        seq: u64,
        /// Number of this attempt to hand it out.
        attempt: u32,
        /// When, in nanoseconds since boot.
        time: u64,
        /// On which CPU.
        cpu: u32,
        /// The socket that was to have it, or had sent it; 0 where the kernel names none.
        id: Id,
        /// Its inode; 0 where that is not known.
        inode: u64,
        /// Inode of its network namespace; 0 where that is not known.
        netns: u64,
        /// Why, by the kernel's name.
        reason: Reason,
        /// The function, and how far into it; empty where it has no name.
        location: Text,
        /// EtherType.
        protocol: EtherType,
        /// Bytes, from the header on that was looked at last.
        len: u64,
        /// Number of the device that it came in by; 0 for none.
        iif: u32,
        /// What IP carries; `none` where there is no IP header to be seen.
        transport: Protocol,
        /// Where it came from: an address, with a port if it has one.
        from: Text,
        /// Where it was to go.
        to: Text,
    }
}

by_process! {
    /// A `shutdown` record: shutdown() was called, whatever came of it.
    Shut {
        /// The directions that it is to shut.
        how: Shutdown,
    }
}

by_process! {
    /// A `close` record: a descriptor of a socket was given up.
    Close {
        /// By the end of the process, or of what had the descriptors.
        exiting: bool,
        /// References on the open file that stayed: descriptors, and others.
        refs: u64,
    }
}

by_process! {
    /// A `release` record: the last reference on a socket's open file is gone.
    Release {}
}

record! {
    /// A `packet` record: a packet came by a point of its way.
    Packet {
        /// Sequence number in the stream.
        seq: u64,
        /// Number of this attempt to hand it out.
        attempt: u32,
        /// When, in nanoseconds since boot.
        time: u64,
        /// On which CPU.
        cpu: u32,
        /// Which point.
        point: Point,
        /// The sk_buff; once it is gone, another packet may have it.
        skb: Id,
        /// Its buffer, which clones share.
        head: Id,
        /// The socket that it belongs to just then, or that was to have it; 0 where none is known.
        id: Id,
        /// Its inode; 0 where that is not known.
        inode: u64,
        /// Inode of the network namespace; 0 where that is not known.
        netns: u64,
        /// Number of the device; 0 where none is known.
        device: u32,
        /// `drop`: why, by the kernel's name.
        reason: Reason,
        /// `drop`, `consume`: the function, and how far into it; empty where it has no name.
        location: Text,
        /// EtherType.
        protocol: EtherType,
        /// What IP carries; `none` where there is no IP header to be seen.
        carries: Protocol,
        /// Where it comes from: an address, with a port if it has one.
        from: Text,
        /// Where it goes.
        to: Text,
        /// TCP: its sequence number; else 0.
        sequence: u32,
        /// Bytes from `data` on.
        len: u64,
        /// Of these, bytes outside of the linear part.
        data_len: u64,
        /// Bytes of memory accounted for it.
        truesize: u64,
        /// `copy`: bytes that the process reads.
        copied: u64,
        /// Bytes of data in each packet that it stands for; 0 where it is one.
        gso_size: u16,
        /// How many these are, where the kernel has counted them.
        gso_segs: u16,
        /// Where data begins, in bytes from `head`, as all that follow.
        data: u64,
        /// Where its linear part ends.
        tail: u64,
        /// Where the buffer ends.
        end: u64,
        /// Where the link layer's header is.
        mac: Offset,
        /// Where the network layer's is.
        network: Offset,
        /// Where the transport layer's is.
        transport: Offset,
        /// The same of a packet within the packet.
        inner_mac: Offset,
        /// Its network header.
        inner_network: Offset,
        /// Its transport header.
        inner_transport: Offset,
        /// Whether the buffer is, or was, another sk_buff's, too.
        cloned: bool,
        /// Whether it is so now.
        shared: bool,
        /// Whether it is one of IP's fragments.
        fragment: bool,
        /// How it was made.
        fclone: Fclone,
        /// The name of the device, as it was then; none where no device is known.
        dev: Option<Text>,
        /// TCP: the flags of its header; none where that is not in the linear part.
        tcp_flags: Option<Flags>,
        /// TCP: its acknowledgement number.
        ack: Option<u32>,
        /// TCP: its window, as in the header.
        window: Option<u16>,
    }
}
