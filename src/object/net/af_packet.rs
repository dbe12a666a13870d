// SPDX-License-Identifier: GPL-2.0

//! Packet sockets, and the rings in which most programs have their packets.
//!
//! C header: [`include/uapi/linux/if_packet.h`](srctree/include/uapi/linux/if_packet.h)

use crate::bindings;
use crate::object::net::{
    socket::{Kind, SockGuard},
    state::{Own, State},
};

/// How many frames or blocks of a ring are looked at in one hold of the lock.
const RING_WALK: u32 = 4096;

/// A receive ring (`PACKET_RX_RING`).
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    /// `TPACKET_V1` to `TPACKET_V3`, as 1 to 3.
    pub(crate) version: u8,
    /// Frames that it has; of version 3, blocks.
    pub(crate) frames: u32,
    /// Frames or blocks of these that the program has not yet returned.
    pub(crate) used: u32,
    /// Packets in these.
    pub(crate) packets: u32,
}

/// What a packet socket is bound to, and its ring.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// An EtherType; 0 while it receives nothing.
    pub(crate) protocol: u16,
    /// A device's index; 0 for all.
    pub(crate) device: i32,
    pub(crate) ring: Option<Ring>,
}

/// A packet socket whose spinlock is held, and that no process owns.
///
/// # Invariants
///
/// The guard's socket is a `packet_sock`.
pub(crate) struct PacketGuard<'g>(&'g SockGuard<'g>);

impl SockGuard<'_> {
    /// Returns it as a packet socket, if it is one.
    pub(crate) fn packet(&self) -> Option<PacketGuard<'_>> {
        // INVARIANT: By its family.
        (self.socket().kind() == Kind::Packet).then_some(PacketGuard(self))
    }
}

impl PacketGuard<'_> {
    /// Reads the socket.
    pub(super) fn read(&self, to: &mut State) {
        let socket = self.0.socket();
        socket.read_common(&mut to.common);
        let receive = self.0.receive_totals();
        to.queued.receive(&receive);
        to.queued.inq = receive.first.into();
        to.queued.outq = to.common.wmem.into();
        let ring = self.ring(&mut to.queued.missed);
        // SAFETY: It is a valid packet_sock by the type's invariant.
        to.own = unsafe {
            Own::Packet(Packet {
                protocol: u16::from_be(bindings::packet_num(socket.as_ptr())),
                device: bindings::packet_ifindex(socket.as_ptr()),
                ring,
            })
        };
    }

    /// Reads the receive ring. setsockopt() makes and frees it as the socket's owner.
    fn ring(&self, missed: &mut u32) -> Option<Ring> {
        let sk = self.0.socket().as_ptr();
        // SAFETY: It is a valid packet_sock by the type's invariant, and its ring stands while no
        // process owns the socket (packet_set_ring()).
        let (version, frames) = unsafe {
            if !bindings::packet_has_rx_ring(sk) {
                return None;
            }
            let version = bindings::packet_version(sk);
            if version == bindings::tpacket_versions_TPACKET_V3 {
                (3, bindings::packet_rx_ring_blocks(sk))
            } else if version == bindings::tpacket_versions_TPACKET_V2 {
                (2, bindings::packet_rx_ring_frames(sk))
            } else {
                (1, bindings::packet_rx_ring_frames(sk))
            }
        };
        let mut ring = Ring {
            version,
            frames,
            used: 0,
            packets: 0,
        };
        for index in 0..frames.min(RING_WALK) {
            // SAFETY: As above; `index` is below the number of frames or blocks. The program has
            // the memory mapped, and may write there: all of it is plain numbers.
            let (status, packets) = unsafe {
                match version {
                    3 => {
                        let block = bindings::packet_rx_ring_block(sk, index);
                        let at = block.cast::<bindings::tpacket_block_desc>();
                        let head = (&raw const (*at).hdr).cast::<bindings::tpacket_hdr_v1>();
                        (
                            (&raw const (*head).block_status).read_volatile(),
                            (&raw const (*head).num_pkts).read_volatile(),
                        )
                    }
                    2 => {
                        let frame = bindings::packet_rx_ring_frame(sk, index);
                        let head = frame.cast::<bindings::tpacket2_hdr>();
                        ((&raw const (*head).tp_status).read_volatile(), 1)
                    }
                    _ => {
                        let frame = bindings::packet_rx_ring_frame(sk, index);
                        let head = frame.cast::<bindings::tpacket_hdr>();
                        ((&raw const (*head).tp_status).read_volatile() as u32, 1)
                    }
                }
            };
            if status & bindings::TP_STATUS_USER != 0 {
                ring.used = ring.used.saturating_add(1);
                ring.packets = ring.packets.saturating_add(packets);
            }
        }
        *missed = missed.saturating_add(frames.saturating_sub(RING_WALK));
        Some(ring)
    }
}
