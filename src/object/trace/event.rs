// SPDX-License-Identifier: GPL-2.0

//! Events as they lie in a ring: plain numbers, no pointers.

use core::mem::{size_of, MaybeUninit};

/// Number of parents that an event names.
pub(crate) const LINE_MAX: usize = 8;

/// Bytes of a file's name that an exec event has room for.
pub(crate) const FILE_MAX: usize = 62;

/// Number of functions that can be probed: all that there are.
pub(crate) const FUNCTIONS: usize = 21;

/// Kinds of events; also bits of a sink's mask, by `1 << kind`.
pub(crate) mod kind {
    pub(crate) const FORK: u32 = 0;
    pub(crate) const EXEC: u32 = 1;
    pub(crate) const EXIT: u32 = 2;
    pub(crate) const TCP_STATE: u32 = 3;
    pub(crate) const RESET: u32 = 4;
    pub(crate) const DROP: u32 = 5;
    pub(crate) const SHUTDOWN: u32 = 6;
    pub(crate) const CLOSE: u32 = 7;
    pub(crate) const RELEASE: u32 = 8;
    pub(crate) const PACKET: u32 = 9;
    /// Number of kinds.
    pub(crate) const COUNT: u32 = 10;
}

/// What probes are attached to: tracepoints, then functions from [`TRACEPOINTS`](hook::TRACEPOINTS)
/// on.
pub(crate) mod hook {
    pub(crate) const FORK: u32 = 0;
    pub(crate) const EXEC: u32 = 1;
    pub(crate) const EXIT: u32 = 2;
    pub(crate) const TCP_STATE: u32 = 3;
    pub(crate) const RESET_SENT: u32 = 4;
    pub(crate) const RESET_RECEIVED: u32 = 5;
    pub(crate) const DROP: u32 = 6;
    pub(crate) const PACKET_GRO: u32 = 7;
    pub(crate) const PACKET_RECEIVE: u32 = 8;
    pub(crate) const PACKET_COPY: u32 = 9;
    pub(crate) const PACKET_QUEUE: u32 = 10;
    pub(crate) const PACKET_TRANSMIT: u32 = 11;
    pub(crate) const PACKET_CONSUME: u32 = 12;
    pub(crate) const PACKET_DROP: u32 = 13;
    pub(crate) const SHUTDOWN: u32 = 14;
    pub(crate) const CLOSE: u32 = 15;
    pub(crate) const RELEASE: u32 = 16;
    pub(crate) const PACKET_IP: u32 = 17;
    pub(crate) const PACKET_IP_LIST: u32 = 18;
    pub(crate) const PACKET_TRANSPORT: u32 = 19;
    pub(crate) const PACKET_OUTPUT: u32 = 20;
    pub(crate) const PACKET_FREE: u32 = 21;
    pub(crate) const PACKET_FREE_STOLEN: u32 = 22;
    pub(crate) const PACKET_COPY_UDP: u32 = 23;
    pub(crate) const RESET_ACTIVE: u32 = 24;
    /// Number of hooks that are tracepoints.
    pub(crate) const TRACEPOINTS: u32 = 14;
}

/// Where a packet is, in the order in which one that goes over the loopback device passes.
pub(crate) mod point {
    pub(crate) const OUTPUT: u8 = 0;
    pub(crate) const QUEUE: u8 = 1;
    pub(crate) const TRANSMIT: u8 = 2;
    pub(crate) const GRO: u8 = 3;
    pub(crate) const RECEIVE: u8 = 4;
    pub(crate) const IP: u8 = 5;
    pub(crate) const TRANSPORT: u8 = 6;
    pub(crate) const COPY: u8 = 7;
    pub(crate) const CONSUME: u8 = 8;
    pub(crate) const DROP: u8 = 9;
    pub(crate) const FREE: u8 = 10;
}

/// Flags of an event of the network.
pub(crate) mod net_flag {
    /// Local[] and remote[] are known; of a drop, where it came from and goes to.
    pub(crate) const ADDRESS: u32 = 1;
    /// And the ports.
    pub(crate) const PORTS: u32 = 2;
    /// Reset.
    pub(crate) const SENT: u32 = 4;
    /// Close: by the end of the process.
    pub(crate) const EXITING: u32 = 8;
}

/// Flags of a packet.
pub(crate) mod packet_flag {
    /// From[] and to[] are known.
    pub(crate) const ADDRESS: u32 = 1;
    /// And the ports.
    pub(crate) const PORTS: u32 = 2;
    /// The buffer is, or was, another sk_buff's, too.
    pub(crate) const CLONED: u32 = 4;
    /// It is another's now.
    pub(crate) const SHARED: u32 = 8;
    /// One of IP's.
    pub(crate) const FRAGMENT: u32 = 16;
    /// All of TCP's numbers are known, not only that of the sequence.
    pub(crate) const TCP: u32 = 32;
}

/// The process that caused an event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Who {
    /// When it was made.
    pub(crate) born: u64,
    /// In the initial pid namespace.
    pub(crate) pid: u32,
    /// The thread.
    pub(crate) tid: u32,
    /// Comm.
    pub(crate) comm: [u8; 16],
}

/// An event of a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Lineage {
    /// Who.
    pub(crate) who: Who,
    /// Fork.
    pub(crate) child_born: u64,
    /// Fork.
    pub(crate) child: u32,
    /// Exit: as wait() gives it.
    pub(crate) status: u32,
    /// Its parents, nearest first.
    pub(crate) line: [u32; LINE_MAX],
    /// How many of line[].
    pub(crate) lines: u8,
    /// Exec: the name was longer.
    pub(crate) file_cut: u8,
    /// Exec: ends at the first 0.
    pub(crate) file: [u8; FILE_MAX],
}

/// An event of a socket, or a drop.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct NetPart {
    /// Shutdown, close, release; else 0.
    pub(crate) who: Who,
    /// Address, to be named, not followed; 0: none.
    pub(crate) sock: u64,
    /// 0: nobody has it open.
    pub(crate) inode: u64,
    /// Drop: an address in the kernel's text, to be named.
    pub(crate) location: u64,
    /// 0: no socket.
    pub(crate) netns: u32,
    /// Reset, drop.
    pub(crate) reason: u32,
    /// Drop: the packet's.
    pub(crate) len: u32,
    /// Drop: the device that it came in by, or 0.
    pub(crate) iif: u32,
    /// Close: references on the open file that stay.
    pub(crate) refs: u32,
    /// Shutdown, close, release: these and the next, as in ravel_sock.
    pub(crate) rx_bytes: u32,
    /// Rx packets.
    pub(crate) rx_packets: u32,
    /// Tx bytes.
    pub(crate) tx_bytes: u32,
    /// Unsent.
    pub(crate) unsent: u32,
    /// Wmem.
    pub(crate) wmem: u32,
    /// Family.
    pub(crate) family: u16,
    /// Protocol.
    pub(crate) protocol: u16,
    /// Drop.
    pub(crate) ethertype: u16,
    /// Host order.
    pub(crate) local_port: u16,
    /// Remote port.
    pub(crate) remote_port: u16,
    /// Network order; IPv4 in the first four.
    pub(crate) local: [u8; 16],
    /// Remote.
    pub(crate) remote: [u8; 16],
    /// Tcp_state.
    pub(crate) old_state: u8,
    /// 0: no socket.
    pub(crate) state: u8,
    /// Directions that are shut.
    pub(crate) shutdown: u8,
    /// Shutdown: as it was called with, cut to 8 bits.
    pub(crate) how: u8,
    /// Flags.
    pub(crate) flags: u8,
    /// Last.
    pub(crate) last: u8,
}

/// A packet that passes a point.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Packet {
    /// Addresses, to be named, not followed.
    pub(crate) skb: u64,
    /// Head.
    pub(crate) head: u64,
    /// 0: none is known.
    pub(crate) sock: u64,
    /// 0: not known.
    pub(crate) inode: u64,
    /// Drop: an address in the kernel's text, to be named.
    pub(crate) location: u64,
    /// 0: not known.
    pub(crate) netns: u32,
    /// Drop.
    pub(crate) reason: u32,
    /// 0: none is known.
    pub(crate) device: u32,
    /// Len.
    pub(crate) len: u32,
    /// Data len.
    pub(crate) data_len: u32,
    /// Copy: bytes.
    pub(crate) copied: u32,
    /// These, and the headers, are bytes from head.
    pub(crate) data: u32,
    /// Tail.
    pub(crate) tail: u32,
    /// End.
    pub(crate) end: u32,
    /// TCP.
    pub(crate) sequence: u32,
    /// As the kernel keeps it, as the next.
    pub(crate) mac: u16,
    /// Network.
    pub(crate) network: u16,
    /// Transport.
    pub(crate) transport: u16,
    /// Inner mac.
    pub(crate) inner_mac: u16,
    /// Inner network.
    pub(crate) inner_network: u16,
    /// Inner transport.
    pub(crate) inner_transport: u16,
    /// Ethertype.
    pub(crate) ethertype: u16,
    /// Family.
    pub(crate) family: u16,
    /// Host order.
    pub(crate) from_port: u16,
    /// To port.
    pub(crate) to_port: u16,
    /// Network order; IPv4 in the first four.
    pub(crate) from: [u8; 16],
    /// To.
    pub(crate) to: [u8; 16],
    /// What IP carries.
    pub(crate) protocol: u8,
    /// Point.
    pub(crate) point: u8,
    /// Flags.
    pub(crate) flags: u8,
    /// SKB_FCLONE_*.
    pub(crate) fclone: u8,
    /// Truesize.
    pub(crate) truesize: u32,
    /// Bytes of data in each packet that it stands for; 0: it is one.
    pub(crate) gso_size: u16,
    /// How many these are, where the kernel has counted them.
    pub(crate) gso_segs: u16,
    /// TCP, as the next two: with [`packet_flag::TCP`].
    pub(crate) acknowledgement: u32,
    /// As in bytes 12 and 13 of the header.
    pub(crate) tcp_flags: u16,
    /// As in the header.
    pub(crate) window: u16,
    /// The device's name, ending with a 0; empty where `device` is 0.
    pub(crate) name: [u8; 16],
}

/// The part of an event that its kind selects.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union Part {
    packet: Packet,
    lineage: Lineage,
    net: NetPart,
    who: Who,
}

// The first is as long as any: to set it to 0 does so to all.
const _: () = assert!(size_of::<Packet>() == size_of::<Part>());

/// An event.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Event {
    /// CLOCK_BOOTTIME, in nanoseconds.
    pub(crate) time: u64,
    /// One of [`kind`].
    pub(crate) kind: u32,
    /// The CPU that wrote it.
    pub(crate) cpu: u32,
    /// What the kind selects.
    pub(crate) part: Part,
}

/// Bytes of an event in a ring.
pub(crate) const EVENT_SIZE: usize = size_of::<Event>();

const _: () = assert!(EVENT_SIZE == 184);

/// Words of a part. Zeroing and copying a part word by word takes two instructions a word; the
/// compiler would call the kernel's memset() and memcpy(), which take more to begin.
const WORDS: usize = size_of::<Part>() / size_of::<u64>();

const _: () = assert!(size_of::<Part>() % size_of::<u64>() == 0);

impl Event {
    /// Returns an event whose time, CPU and part are 0.
    #[inline(always)]
    pub(in crate::object) fn new(kind: u32) -> Self {
        let mut event = MaybeUninit::<Self>::uninit();
        let place = event.as_mut_ptr();
        // SAFETY: The place is valid, and all of it is written: the fields before the part, and the
        // part's words, which are aligned, since it contains a `u64`.
        unsafe {
            (*place).time = 0;
            (*place).kind = kind;
            (*place).cpu = 0;
            let words = (&raw mut (*place).part).cast::<u64>();
            for i in 0..WORDS {
                words.add(i).write_volatile(0);
            }
            event.assume_init()
        }
    }
}

impl Part {
    /// Copies a part.
    ///
    /// # Safety
    ///
    /// `to` is valid for writing.
    #[inline(always)]
    pub(in crate::object) unsafe fn copy_to(&self, to: *mut Self) {
        let from = (&raw const *self).cast::<u64>();
        for i in 0..WORDS {
            // SAFETY: Both are parts, which have so many words; `to` is valid by the caller.
            unsafe { to.cast::<u64>().add(i).write_volatile(from.add(i).read()) };
        }
    }
}

impl Event {
    /// Returns what an event of a process has.
    pub(crate) fn lineage(&self) -> &Lineage {
        // SAFETY: Whoever writes an event writes the part that its kind selects, and the caller
        // asks for that one. All parts are integers, for which any bits will do.
        unsafe { &self.part.lineage }
    }

    /// The same, to be changed.
    pub(in crate::object) fn lineage_mut(&mut self) -> &mut Lineage {
        // SAFETY: As above.
        unsafe { &mut self.part.lineage }
    }

    /// Returns the process that did it; of an event that names none, nothing of meaning.
    pub(crate) fn who(&self) -> &Who {
        // SAFETY: As above.
        unsafe { &self.part.who }
    }

    /// The same, to be changed.
    pub(in crate::object) fn who_mut(&mut self) -> &mut Who {
        // SAFETY: As above.
        unsafe { &mut self.part.who }
    }

    /// Returns what an event of a packet's way has.
    pub(crate) fn packet(&self) -> &Packet {
        // SAFETY: As above.
        unsafe { &self.part.packet }
    }

    /// Returns what an event of the network has.
    pub(crate) fn net(&self) -> &NetPart {
        // SAFETY: As above.
        unsafe { &self.part.net }
    }
}
