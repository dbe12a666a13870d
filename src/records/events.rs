// SPDX-License-Identifier: GPL-2.0

//! Records of streams of events.

use super::common::ReportName;
use super::skbs::{Fclone, TcpFlags};
use super::sockets::{Family, Protocol, Shutdown, SkState};
use super::{
    Address, Comm, EtherType, Flag, Id, Maybe, Number, Numbers, Offset, Reason, Signed, Str, Word,
};

record! {
    /// A process has created another one, before that runs.
    Fork = 80 "fork" {
        /// Its place in the stream.
        place: Place,
        /// The process that forks.
        who: Who,
        /// Its ancestors.
        ancestors: Ancestors,
        /// The new process.
        child: Number,
        /// `born` of the child.
        child_born: Number [ns],
    }

    /// A process has begun to execute another program.
    Exec = 81 "exec" {
        /// Its place in the stream.
        place: Place,
        /// The process, with its new name.
        who: Who,
        /// Its ancestors.
        ancestors: Ancestors,
        /// The program as it was passed to execve(), its first 61 bytes.
        file: Str,
        /// `file` was longer.
        file_cut: Flag,
    }

    /// The last thread of a process has exited, before its parent is notified. `code` and `signal`
    /// are those of wait().
    Exit = 82 "exit" {
        /// Its place in the stream.
        place: Place,
        /// The process.
        who: Who,
        /// Its ancestors.
        ancestors: Ancestors,
        /// Its exit code, 0 to 255.
        code: Number,
        /// The signal that terminated it, or 0.
        signal: Number,
        /// A core dump was written.
        core: Flag,
    }

    /// A socket changes its state.
    TcpState = 83 "tcp_state" {
        /// Its place in the stream.
        place: Place,
        /// The socket.
        sock: Sock,
        /// The state before.
        old: SkState,
        /// The state after.
        new: SkState,
    }

    /// A TCP connection is reset.
    Reset = 84 "reset" {
        /// Its place in the stream.
        place: Place,
        /// The socket.
        sock: Sock,
        /// The state of the socket at that time; `none`: there is no socket, and `local` and
        /// `remote` are those of the packet that is answered.
        sk_state: SkState,
        /// The direction of the reset.
        way: Way,
        /// The reason for sending it, with the name of the kernel without `SK_RST_REASON_`, or
        /// `reason_N`; `none` if it is received.
        reason: Reason,
    }

    /// A packet is dropped.
    Drop = 85 "drop" {
        /// Its place in the stream.
        place: Place,
        /// The socket that was to receive it, or that sent it; 0: none is known.
        id: Id,
        /// The inode of that socket; 0: it has no file (any more), or there is no socket.
        inode: Number,
        /// The inode of the network namespace of that socket; 0: there is no socket.
        netns: Number,
        /// The name of the kernel without `SKB_DROP_REASON_`; `reason_N`: one without a name.
        reason: Reason,
        /// The function that drops it, and the offset in it, by the symbols of the kernel at the
        /// time of reading; empty: none.
        location: Str,
        /// The EtherType.
        protocol: EtherType,
        /// Bytes, from the header that was processed last.
        len: Number [bytes],
        /// The index of the device that received it; 0: none.
        iif: Number,
        /// The protocol that IP carries, as `protocol` in `sockets`; `none`: there is no IP header
        /// at the network offset.
        transport: Protocol,
        /// The address of the sender, with the port if it has one; empty if there is no IP header.
        from: Address,
        /// The address of the receiver, likewise.
        to: Address,
    }

    /// shutdown() is called on a socket, with any result.
    ShutdownCall = 86 "shutdown" {
        /// Its place in the stream.
        place: Place,
        /// The process that calls it.
        who: Who,
        /// The requested directions; `how_N`: an invalid value.
        how: How,
        /// The socket.
        sock: Sock,
        /// What the socket holds.
        queues: Queues,
    }

    /// A descriptor table loses a descriptor of a socket.
    Close = 87 "close" {
        /// Its place in the stream.
        place: Place,
        /// The process that closes it.
        who: Who,
        /// It is closed by the exit of the process.
        exiting: Flag,
        /// The remaining references to the open file: descriptors, messages, system calls in
        /// progress.
        refs: Number,
        /// The socket.
        sock: Sock,
        /// What the socket holds.
        queues: Queues,
    }

    /// The last reference to the file of a socket is dropped, and the socket is closed.
    Release = 88 "release" {
        /// Its place in the stream.
        place: Place,
        /// The process that drops it.
        who: Who,
        /// The socket.
        sock: Sock,
        /// What the socket holds.
        queues: Queues,
    }

    /// A packet passes a point of its path.
    Packet = 89 "packet" {
        /// Its place in the stream.
        place: Place,
        /// The point.
        point: Point,
        /// The sk_buff, as in the report `skbs`. After it is freed, a later packet may have the
        /// same id.
        skb: Id,
        /// Its buffer, which an sk_buff and its clones share.
        head: Id,
        /// The socket that it belongs to at this point, or, of a `drop`, that was to receive it; 0:
        /// none is known. Received packets mostly have none before TCP queues them, nor do packets
        /// that a driver, SCTP or KCM owns.
        id: Id,
        /// The inode of that socket; 0: none is known.
        inode: Number,
        /// The inode of the network namespace, of the device or the socket; 0: neither is known.
        netns: Number,
        /// The index of its device; of `output`, that of the route; 0 if it is at no device: `copy`
        /// and the points below it.
        device: Number,
        /// Of `drop`: as there; otherwise `none`.
        reason: Reason,
        /// Of `drop` and `consume`: as of `drop`; otherwise empty.
        location: Str,
        /// The EtherType.
        protocol: EtherType,
        /// The protocol that IP carries, as `protocol` in `sockets`; `none`: there is no IP header
        /// at the network offset.
        carries: Protocol,
        /// The address of the sender, as of `drop`.
        from: Address,
        /// The address of the receiver, as of `drop`.
        to: Address,
        /// The sequence number of TCP; otherwise 0.
        sequence: Number,
        /// Bytes from `data` on.
        len: Number [bytes],
        /// Of `len`, bytes outside of the linear part.
        data_len: Number [bytes],
        /// Memory accounted for it.
        truesize: Number [bytes],
        /// Of `copy`: copied bytes, or, if UDP copies it itself, the result of recv(), which may be
        /// larger with MSG_TRUNC; otherwise 0.
        copied: Number [bytes],
        /// Payload of each segment; 0: it is one packet.
        gso_size: Number [bytes],
        /// Number of segments, if the kernel has computed it; otherwise 0.
        gso_segs: Number,
        /// From `head` to the start of the data.
        data: Number [bytes],
        /// From `head` to the end of the linear part.
        tail: Number [bytes],
        /// From `head` to the end of the buffer.
        end: Number [bytes],
        /// The link-layer header: bytes from `head`, and `set` or `unset`, as in `skbs`.
        mac: Offset [bytes],
        /// The network header, likewise. At `gro` and `receive` it may be that of an earlier layer.
        network: Offset [bytes],
        /// The transport header, likewise. At `gro` and `receive` it may be that of an earlier
        /// layer.
        transport: Offset [bytes],
        /// The link-layer header of the packet in a tunnel; 0 counts as unset.
        inner_mac: Offset [bytes],
        /// The network header of the packet in a tunnel, likewise.
        inner_network: Offset [bytes],
        /// The transport header of the packet in a tunnel, likewise.
        inner_transport: Offset [bytes],
        /// Its buffer is or was shared with another sk_buff.
        cloned: Flag,
        /// Its buffer is shared now.
        shared: Flag,
        /// It is an IP fragment.
        fragment: Flag,
        /// Whether it was allocated together with room for a clone.
        fclone: Fclone,
        /// With `device`: the name of the device at this time.
        dev: Maybe<Comm>,
        /// TCP, if the first 16 bytes of its header are in the linear part.
        tcp: Maybe<TcpHeader>,
    }

    /// Events for which the ring of a CPU had no room. It is leased, acknowledged and may fail like
    /// an event.
    Loss = 90 "loss" {
        /// The number of the first of them; the record replaces `count` numbers.
        seq: Number,
        /// The number of this delivery, from 1.
        attempt: Number,
        /// The time of the first of them, since boot, including suspend (CLOCK_BOOTTIME).
        time: Number [ns],
        /// The time of the last of them.
        last: Number [ns],
        /// The CPU.
        cpu: Number,
        /// How many they are.
        count: Number,
    }

    /// The first record of a batch.
    Batch = 91 "batch" {
        /// The name of the stream.
        stream: Word,
        /// The version of the format: 1.
        format: Number,
        /// The end of the lease, by CLOCK_BOOTTIME.
        deadline: Number [ns],
        /// The maximum number of deliveries of a record.
        attempts: Number,
    }

    /// The counts of a batch.
    EventsSummary = 92 "summary" {
        /// `events`.
        report: ReportName,
        /// Records of the batch.
        records: Number,
        /// The sum of its losses.
        lost: Number,
        /// Always 0.
        cut: Number,
    }

    /// The first record of the list of failed records.
    Failed = 93 "failed" {
        /// The name of the stream.
        stream: Word,
        /// The version of the format: 1.
        format: Number,
    }

    /// The counts of the list of failed records.
    FailedSummary = 94 "summary" {
        /// `failed`.
        report: ReportName,
        /// Records of the list.
        records: Number,
        /// Always 0.
        cut: Number,
    }

    /// A stream.
    Stream = 95 "stream" {
        /// Its name.
        name: Word,
        /// What it records.
        sources: Sources,
        /// Of which processes.
        scope: Scope,
        /// The process of `scope`, by its number in the initial pid namespace; 0: all.
        pid: Signed,
        /// The socket of the filter, as in `sockets`; 0: any.
        socket: Id,
        /// The cgroup of the filter; 0: any.
        cgroup: Number,
        /// The address of the filter; empty: any.
        address: Address,
        /// The port of the filter; 0: any.
        port: Number,
        /// The protocol of the filter; 0: any.
        protocol: Number,
        /// It is removed with a descriptor.
        until_close: Flag,
        /// Requested memory.
        bytes: Number [bytes],
        /// Allocated memory, including that for `tree` and for the batches of its open descriptors.
        memory: Number [bytes],
        /// Events since the stream was created.
        events: Number,
        /// Of `events`, those that are still in the rings, since there is no room for them.
        waiting: Number,
        /// Of `events`, those for which the rings had no room.
        lost: Number,
        /// Further events, in a non-maskable interrupt, where none is recorded.
        missed: Number,
        /// Records that can be reserved now.
        ready: Number,
        /// Records that are leased.
        reserved: Number,
        /// Records that were released, to be ready later.
        delayed: Number,
        /// Records that have failed.
        failed: Number,
        /// Records that were acknowledged.
        acked: Number,
        /// Failed records that were cleared.
        cleared: Number,
        /// Valid leases.
        leases: Number,
        /// Deliveries of records, each counted.
        attempts: Number,
        /// The maximum number of deliveries of a record.
        max_attempts: Number,
    }

    /// The counts of the list of streams.
    StreamsSummary = 96 "summary" {
        /// `streams`.
        report: ReportName,
        /// `stream` records.
        streams: Number,
        /// The most streams that there can be.
        limit: Number,
        /// Always 0.
        cut: Number,
    }

    /// A source of events.
    Source = 97 "source" {
        /// Its name.
        name: Word,
        /// The tracepoints that it uses, separated by commas, or `none`.
        tracepoints: Word,
        /// The functions that it uses, likewise.
        functions: Word,
        /// How many of these this kernel lacks, or does not allow to be probed; a stream can use
        /// the source if this is 0.
        missing: Number,
    }

    /// The counts of the list of sources.
    SourcesSummary = 98 "summary" {
        /// `sources`.
        report: ReportName,
        /// `source` records.
        sources: Number,
        /// Sources that lack a hook.
        missing: Number,
        /// Always 0.
        cut: Number,
    }
}

part! {
    /// The place of an event in its stream.
    Place {
        /// Its sequence number.
        seq: Number,
        /// The number of this delivery, from 1.
        attempt: Number,
        /// Its time since boot, including suspend (CLOCK_BOOTTIME).
        time: Number [ns],
        /// The CPU.
        cpu: Number,
    }

    /// The process of an event.
    Who {
        /// The process, in the initial pid namespace.
        pid: Number,
        /// Its thread, likewise.
        tid: Number,
        /// Creation time of the process, since boot. `pid` and `born` together identify a process
        /// uniquely.
        born: Number [ns],
        /// The name of the process, that of its main thread.
        comm: Comm,
    }

    /// What the header of TCP says besides its sequence number.
    TcpHeader {
        /// TCP: its flags, as in the report `skbs`.
        tcp_flags: TcpFlags,
        /// TCP: its acknowledgement number.
        ack: Number,
        /// TCP: its window, without the scale.
        window: Number,
    }

    /// The ancestors of a process.
    Ancestors {
        /// Its ancestors, the nearest first, at most 8, or `none`. A complete list ends with 1, or
        /// with 2 for a kernel thread.
        line: Numbers,
    }

    /// The socket of an event, as it is at the time of the event, mostly without its lock.
    Sock {
        /// The socket, as in the report `sockets`; 0: there is none. After it is freed, another may
        /// have its id.
        id: Id,
        /// Its inode, as there; 0: no process has it open (any more, or yet).
        inode: Number,
        /// The inode of its network namespace; 0: there is no socket.
        netns: Number,
        /// Its address family, as in `sockets`.
        family: Family,
        /// Its protocol, as in `sockets`.
        protocol: Protocol,
        /// Its address, as in `sockets`; empty for other families than inet and inet6.
        local: Address,
        /// The address of the peer, likewise.
        remote: Address,
    }

    /// What a socket holds.
    Queues {
        /// Its state before the event, as in `sockets`.
        sk_state: SkState,
        /// Its shut directions before the event, as in `sockets`.
        shutdown: Shutdown,
        /// Received and not yet read; TCP and unix streams, otherwise 0.
        rx_bytes: Number [bytes],
        /// sk_buffs received; of a listener, connections not yet accepted.
        rx_packets: Number,
        /// TCP: written and not acknowledged; otherwise 0.
        tx_bytes: Number [bytes],
        /// TCP: of `tx_bytes`, never sent; otherwise 0.
        unsent: Number [bytes],
        /// Memory of data that it sent and that is not yet freed.
        wmem: Number [bytes],
    }
}

enumeration! {
    /// The direction of a reset.
    Way else "way_" {
        SENT = 1 "sent",
        RECEIVED = 0 "received",
    }

    /// The directions that shutdown() is called with.
    How else "how_" {
        RD = 0 "RD",
        WR = 1 "WR",
        RDWR = 2 "RDWR",
    }

    /// A point of a packet's path.
    Point else "point_" {
        /// IP sends it, with its complete own header (`ip_output`, `ip_mc_output`, `ip6_output`);
        /// once for a packet that is then fragmented.
        OUTPUT = 0 "output",
        /// It is passed to the queue of its device, with a link-layer header (`net_dev_queue`).
        QUEUE = 1 "queue",
        /// It is passed to the driver (`net_dev_start_xmit`); again if the driver was busy.
        TRANSMIT = 2 "transmit",
        /// A driver passes it to GRO, which may merge it with others (`napi_gro_receive_entry`,
        /// `napi_gro_frags_entry`).
        GRO = 3 "gro",
        /// It was received by any device (`netif_receive_skb`).
        RECEIVE = 4 "receive",
        /// IP receives it (`ip_rcv`, `ipv6_rcv`, or each of a list: `ip_list_rcv`,
        /// `ipv6_list_rcv`).
        IP = 5 "ip",
        /// TCP or UDP receives it (`tcp_v4_rcv`, `tcp_v6_rcv`, `udp_rcv`, `udpv6_rcv`).
        TRANSPORT = 6 "transport",
        /// Some of it is copied to its reader (`skb_copy_datagram_iovec`; `skb_consume_udp`, if UDP
        /// copies it itself, which it does with a datagram that is linear or whose checksum it
        /// verifies).
        COPY = 7 "copy",
        /// It was processed completely (`consume_skb`).
        CONSUME = 8 "consume",
        /// It is dropped (`kfree_skb`).
        DROP = 9 "drop",
        /// The references of the sk_buff are released, the last step before its memory is freed
        /// (`skb_release_head_state`).
        FREE = 10 "free",
    }

    /// The processes that a stream is about.
    Scope else "scope_" {
        ALL = 0 "all",
        /// One process.
        PID = 1 "pid",
        /// A process and its descendants.
        TREE = 2 "tree",
    }
}

bits! {
    /// Sources of events.
    Sources {
        FORK = 0x1 "fork",
        EXEC = 0x2 "exec",
        EXIT = 0x4 "exit",
        TCP_STATE = 0x8 "tcp_state",
        RESET = 0x10 "reset",
        DROP = 0x20 "drop",
        SHUTDOWN = 0x40 "shutdown",
        CLOSE = 0x80 "close",
        RELEASE = 0x100 "release",
        PACKET = 0x200 "packet",
    }
}
