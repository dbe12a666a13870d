// SPDX-License-Identifier: GPL-2.0

//! Probes of the points that packets pass.
//!
//! They run in any context but an NMI, with whatever locks held, mostly for packets that nobody
//! asked for: what can be rejected by a few bytes is rejected before anything is set up on the
//! stack.
//!
//! An sk_buff is read only where the caller of the probe holds it. That is why there is no point
//! behind the driver's ndo_start_xmit() (net_dev_xmit): by then it may be freed, and its memory
//! another's. Its device is read only where the kernel is sure to have one there: in a queue, the
//! same bytes serve for something else.
//!
//! C headers: [`include/trace/events/net.h`](srctree/include/trace/events/net.h),
//! [`include/trace/events/skb.h`](srctree/include/trace/events/skb.h),
//! [`include/trace/events/napi.h`](srctree/include/trace/events/napi.h)

use crate::object::trace::event::{hook, kind, packet_flag, point};
use crate::{
    arch::{argument, IrqsOff},
    bindings,
    object::{
        net::{
            flow::Flow,
            packet_ref::{PacketRef, UNSET},
            sock::{netns, SockRef},
        },
        sync::read_once,
        trace::{
            event::Packet,
            functions::Enter,
            net_probes::{rx_sock, sink_of},
            prototype,
            sink::Sink,
        },
    },
};
use core::{mem::offset_of, ptr};
use kernel::{
    ffi::{c_int, c_void},
    sync::rcu,
};

/// A packet at a point, and what its probe knows of it.
struct Crossing<'a> {
    packet: PacketRef<'a>,
    /// Null: none is known.
    dev: *const bindings::net_device,
    /// Likewise.
    net: *const bindings::net,
    /// The socket that was to have it: see `rx_sock()`.
    rx_sk: *const bindings::sock,
    location: usize,
    reason: u32,
    copied: u32,
    point: u8,
}

impl<'a> Crossing<'a> {
    #[inline(always)]
    fn new(packet: PacketRef<'a>, point: u8) -> Self {
        Self {
            packet,
            dev: ptr::null(),
            net: ptr::null(),
            rx_sk: ptr::null(),
            location: 0,
            reason: 0,
            copied: 0,
            point,
        }
    }
}

/// Returns where the network header is, from head. On its way in, data begins with it, and
/// network_header may be that of somewhere else.
#[inline(always)]
fn network_at(packet: PacketRef<'_>, point: u8) -> usize {
    match point {
        point::GRO | point::RECEIVE => packet.data_offset(),
        _ => packet.network_header().into(),
    }
}

/// Returns whether a packet is sure to be rejected.
#[inline(always)]
fn is_rejected(
    sink: &Sink,
    packet: PacketRef<'_>,
    point: u8,
    rx_sk: *const bindings::sock,
) -> bool {
    let network = network_at(packet, point);
    sink.net_filter().rejects(packet, network, rx_sk)
}

/// Records a packet where the filter lets it pass.
#[inline]
fn look(sink: &Sink, at: &mut Crossing<'_>) {
    let filter = sink.net_filter();
    let packet = at.packet;
    let flow = Flow::of(packet, network_at(packet, at.point));
    if !filter.accepts(&flow) {
        return;
    }
    let owner = packet.owner();
    if at.net.is_null() && !at.dev.is_null() {
        // SAFETY: A device that a probe gives is valid while the probe runs.
        at.net = unsafe { (*at.dev).nd_net.net };
    }
    if let (true, Some(owner)) = (at.net.is_null(), owner) {
        at.net = owner.net();
    }
    if let Some(wanted) = filter.sock() {
        let its = owner.is_some_and(|owner| owner.as_ptr() == wanted.as_ptr())
            || at.rx_sk == wanted.as_ptr();
        if !its && ((!at.net.is_null() && at.net != wanted.net()) || !flow.is_of(wanted)) {
            return;
        }
    }
    if filter.accepts_cgroup_of(owner) {
        record(sink, at, &flow, owner);
    }
}

#[inline(never)]
fn record(sink: &Sink, at: &Crossing<'_>, flow: &Flow, owner: Option<SockRef<'_>>) {
    let irqs = IrqsOff::new();
    let slot = sink.begin(&irqs);
    if let Some(mut slot) = slot {
        let event = slot.event();
        // SAFETY: The place is the slot's; all of it is written but its time and its CPU, which are
        // kept.
        unsafe {
            (*event).kind = kind::PACKET;
            fill((&raw mut (*event).part).cast(), at, flow, owner);
            slot.end();
        }
    }
}

/// Writes what is known where it will lie.
///
/// # Safety
///
/// The place may be written, and `at` is of a probe that runs.
#[inline(always)]
unsafe fn fill(to: *mut Packet, at: &Crossing<'_>, flow: &Flow, owner: Option<SockRef<'_>>) {
    let packet = at.packet;
    let named = rx_sock(at.rx_sk, owner);
    let [inner_mac, inner_network, inner_transport] = packet.inner_headers();
    let mut flags = 0;
    let (mut offsets, mut gso) = ([0; 3], (0, 0));
    if packet.is_cloned() {
        flags |= packet_flag::CLONED;
    }
    if !packet.head().is_null() {
        offsets = [packet.data_offset() as u32, packet.tail(), packet.end()];
        gso = packet.gso();
        if packet.is_shared() {
            flags |= packet_flag::SHARED;
        }
    }
    if flow.family != 0 {
        flags |= packet_flag::ADDRESS;
        if flow.is_fragment {
            flags |= packet_flag::FRAGMENT;
        }
        if flow.has_ports {
            flags |= packet_flag::PORTS;
        }
        if flow.has_tcp {
            flags |= packet_flag::TCP;
        }
    }
    let record = Packet {
        skb: packet.as_ptr().addr() as u64,
        head: packet.head().addr() as u64,
        sock: named.address,
        inode: named.inode,
        location: at.location as u64,
        netns: if at.net.is_null() {
            named.netns
        } else {
            // SAFETY: A namespace that is known to a probe is valid while it runs.
            unsafe { netns(at.net) }
        },
        reason: at.reason,
        device: if at.dev.is_null() {
            0
        } else {
            // SAFETY: Likewise, a device.
            unsafe { read_once!((*at.dev).ifindex) as u32 }
        },
        len: packet.len(),
        data_len: packet.data_len(),
        copied: at.copied,
        data: offsets[0],
        tail: offsets[1],
        end: offsets[2],
        sequence: flow.sequence,
        mac: packet.mac_header(),
        network: packet.network_header(),
        transport: packet.transport_header(),
        inner_mac,
        inner_network,
        inner_transport,
        ethertype: packet.ethertype(),
        family: flow.family,
        from_port: flow.from_port,
        to_port: flow.to_port,
        from: flow.from,
        to: flow.to,
        protocol: flow.protocol,
        point: at.point,
        flags: flags as u8,
        fclone: packet.fclone(),
        truesize: packet.truesize(),
        gso_size: gso.0,
        gso_segs: gso.1,
        acknowledgement: flow.acknowledgement,
        tcp_flags: flow.tcp_flags,
        window: flow.window,
        name: device_name(at.dev),
    };
    // SAFETY: By this function's contract.
    unsafe { to.write(record) };
}

// A name is read as two words.
const _: () = assert!(offset_of!(bindings::net_device, name) % size_of::<u64>() == 0);

/// Copies the name of a device that a probe gives; empty where there is none.
#[inline(always)]
fn device_name(dev: *const bindings::net_device) -> [u8; 16] {
    if dev.is_null() {
        return [0; 16];
    }
    // SAFETY: A device that a probe gives is valid while the probe runs, and its name is aligned,
    // as asserted above. It may change meanwhile (`ip link set name`); then the copy mixes both,
    // and ends nevertheless.
    let words = unsafe {
        let name = (&raw const (*dev).name).cast::<u64>();
        [name.read_volatile(), name.add(1).read_volatile()]
    };
    let mut name = [0; 16];
    name[..8].copy_from_slice(&words[0].to_ne_bytes());
    name[8..].copy_from_slice(&words[1].to_ne_bytes());
    name[15] = 0;
    name
}

/// Goes on with what most points know of a packet.
#[inline(never)]
fn cross(sink: &Sink, packet: PacketRef<'_>, point: u8, dev: *const bindings::net_device) {
    let mut crossing = Crossing::new(packet, point);
    crossing.dev = dev;
    look(sink, &mut crossing);
}

/// A packet enters point::GRO: `napi_gro_receive_entry`, `napi_gro_frags_entry`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn gro(sink: *mut c_void, skb: *const bindings::sk_buff) {
    // SAFETY: The tracepoint's caller holds the sk_buff, with a device.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if !is_rejected(sink, packet, point::GRO, ptr::null()) {
        cross(sink, packet, point::GRO, packet.dev());
    }
}

/// A packet is received by a device: `netif_receive_skb`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn receive(sink: *mut c_void, skb: *mut bindings::sk_buff) {
    // SAFETY: As in `gro()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if !is_rejected(sink, packet, point::RECEIVE, ptr::null()) {
        cross(sink, packet, point::RECEIVE, packet.dev());
    }
}

/// A packet is queued for a device: `net_dev_queue`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn queue(sink: *mut c_void, skb: *mut bindings::sk_buff) {
    // SAFETY: As in `gro()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if !is_rejected(sink, packet, point::QUEUE, ptr::null()) {
        cross(sink, packet, point::QUEUE, packet.dev());
    }
}

/// A packet is given to a driver: `net_dev_start_xmit`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn transmit(
    sink: *mut c_void,
    skb: *const bindings::sk_buff,
    dev: *const bindings::net_device,
) {
    // SAFETY: As in `gro()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if !is_rejected(sink, packet, point::TRANSMIT, ptr::null()) {
        cross(sink, packet, point::TRANSMIT, dev);
    }
}

/// Returns whether a layer of the network has had a packet that ends. sk_buffs of other kinds end
/// at the same points: those of netlink and of unix sockets, and those that TCP keeps of what it
/// has sent, while their clones go.
#[inline(always)]
fn was_on_its_way(packet: PacketRef<'_>) -> bool {
    packet.mac_header() != UNSET || !matches!(packet.network_header(), 0 | UNSET)
}

/// Returns whether a filter may let an end pass. An sk_buff may have no buffer by then.
#[inline(always)]
fn may_end(sink: &Sink, packet: PacketRef<'_>, point: u8, rx_sk: *const bindings::sock) -> bool {
    !packet.head().is_null() && !is_rejected(sink, packet, point, rx_sk) && was_on_its_way(packet)
}

#[inline(never)]
fn copied(sink: &Sink, packet: PacketRef<'_>, len: u32) {
    let mut crossing = Crossing::new(packet, point::COPY);
    crossing.copied = len;
    look(sink, &mut crossing);
}

/// A packet is copied to its reader: `skb_copy_datagram_iovec`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn copy(sink: *mut c_void, skb: *const bindings::sk_buff, len: c_int) {
    // SAFETY: The tracepoint's caller holds the sk_buff.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if may_end(sink, packet, point::COPY, ptr::null()) {
        copied(sink, packet, len as u32);
    }
}

#[inline(never)]
fn consumed(sink: &Sink, packet: PacketRef<'_>, location: usize) {
    let mut crossing = Crossing::new(packet, point::CONSUME);
    crossing.location = location;
    look(sink, &mut crossing);
}

/// A packet is consumed: `consume_skb`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn consume(
    sink: *mut c_void,
    skb: *mut bindings::sk_buff,
    location: *mut c_void,
) {
    // SAFETY: As in `copy()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if may_end(sink, packet, point::CONSUME, ptr::null()) {
        consumed(sink, packet, location.addr());
    }
}

#[inline(never)]
fn dropped(
    sink: &Sink,
    packet: PacketRef<'_>,
    location: usize,
    reason: u32,
    rx_sk: *const bindings::sock,
) {
    let mut crossing = Crossing::new(packet, point::DROP);
    (crossing.location, crossing.reason, crossing.rx_sk) = (location, reason, rx_sk);
    // For `rx_sock()`.
    let _rcu = rcu::read_lock();
    look(sink, &mut crossing);
}

/// Records a packet that is dropped: `kfree_skb`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn drop(
    sink: *mut c_void,
    skb: *mut bindings::sk_buff,
    location: *mut c_void,
    reason: bindings::skb_drop_reason,
    rx_sk: *const bindings::sock,
) {
    // SAFETY: As in `copy()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    if may_end(sink, packet, point::DROP, rx_sk) {
        dropped(sink, packet, location.addr(), reason, rx_sk);
    }
}

/// Returns the sk_buff among a function's arguments.
///
/// # Safety
///
/// That is one, held as long as the function has not returned; `regs` are those of ftrace's
/// callback, which runs.
#[inline(always)]
unsafe fn packet_in<'a>(regs: *const bindings::ftrace_regs, place: usize) -> PacketRef<'a> {
    // SAFETY: By this function's contract.
    unsafe { PacketRef::from_raw(argument(regs, place) as *const _) }
}

/// `skb_consume_udp(struct sock *, struct sk_buff *, int)`: UDP has copied a datagram to its
/// reader, and is done with it. The tracepoint has reported those in several pieces whose checksum
/// was known, or had to be, since not all was read, or it was only looked at; the number is
/// negative then.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn copied_udp(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, packet, len) =
        unsafe { (sink_of(sink), packet_in(regs, 1), argument(regs, 2) as i32) };
    let skb = packet.as_ptr().cast_mut();
    // SAFETY: UDP has its notes there while the sk_buff is a datagram that it has received.
    let is_told = unsafe {
        !bindings::udp_skb_is_linear(skb)
            && (len < 0 || bindings::udp_skb_csum_unnecessary(skb) || packet.is_csum_valid())
    };
    if !is_told && !is_rejected(sink, packet, point::COPY, ptr::null()) {
        copied(sink, packet, len.unsigned_abs());
    }
}

#[inline(always)]
fn cross_ip(sink: &Sink, packet: PacketRef<'_>) {
    if !is_rejected(sink, packet, point::IP, ptr::null()) {
        cross(sink, packet, point::IP, packet.dev());
    }
}

/// `ip_rcv(struct sk_buff *, ...)`, and IPv6's.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn ip(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    unsafe { cross_ip(sink_of(sink), packet_in(regs, 0)) };
}

/// `ip_list_rcv(struct list_head *, ...)`, and IPv6's: each of a list, as the function itself will
/// go through it.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn ip_list(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, list) = unsafe { (sink_of(sink), argument(regs, 0) as *const _) };
    let mut at = list;
    // SAFETY: The function has the list for itself, and is called when this returns.
    while let Some((packet, next)) = unsafe { PacketRef::next_in(list, at) } {
        cross_ip(sink, packet);
        at = next;
    }
}

/// `tcp_v4_rcv(struct sk_buff *)`, `udp_rcv()`, and IPv6's.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn transport(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, packet) = unsafe { (sink_of(sink), packet_in(regs, 0)) };
    if !is_rejected(sink, packet, point::TRANSPORT, ptr::null()) {
        cross(sink, packet, point::TRANSPORT, packet.dev());
    }
}

/// The device is that of the route.
#[inline(never)]
fn put_out(sink: &Sink, packet: PacketRef<'_>, net: *const bindings::net) {
    let mut crossing = Crossing::new(packet, point::OUTPUT);
    crossing.net = net;
    let _rcu = rcu::read_lock();
    let dst = packet.dst();
    if !dst.is_null() {
        // SAFETY: The sk_buff keeps its route, and RCU the route's device.
        crossing.dev = unsafe { read_once!((*dst).__bindgen_anon_1.dev) }.cast_const();
    }
    look(sink, &mut crossing);
}

/// `ip_output(struct net *, struct sock *, struct sk_buff *)`, that of multicast, and IPv6's.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn output(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, packet, net) = unsafe {
        (
            sink_of(sink),
            packet_in(regs, 2),
            argument(regs, 0) as *const _,
        )
    };
    if !is_rejected(sink, packet, point::OUTPUT, ptr::null()) {
        put_out(sink, packet, net);
    }
}

/// `skb_release_head_state(struct sk_buff *)`, or `skb_release_all()` and `__kfree_skb()`, which it
/// may be part of: nearly all that end pass here, and hardly any other; EVENTS.md names the rest.
/// What is attached to the sk_buff is still there.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn free(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, packet) = unsafe { (sink_of(sink), packet_in(regs, 0)) };
    if may_end(sink, packet, point::FREE, ptr::null()) {
        cross(sink, packet, point::FREE, ptr::null());
    }
}

/// `kfree_skb_partial(struct sk_buff *, bool)`: where another has its buffer by now, this frees it
/// by itself.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn free_stolen(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments; of a bool, the lowest byte is defined.
    unsafe {
        if argument(regs, 1) as u8 != 0 {
            free(sink, regs);
        }
    }
}

/// Returns the probe of a tracepoint's hook.
pub(super) fn probe(hook: u32) -> Option<*const ()> {
    Some(match hook {
        hook::PACKET_GRO => gro as *const (),
        hook::PACKET_RECEIVE => receive as *const (),
        hook::PACKET_COPY => copy as *const (),
        hook::PACKET_QUEUE => queue as *const (),
        hook::PACKET_TRANSMIT => transmit as *const (),
        hook::PACKET_CONSUME => consume as *const (),
        hook::PACKET_DROP => drop as *const (),
        _ => return None,
    })
}

/// Returns what is called for a function's hook.
pub(super) fn enter(hook: u32) -> Option<Enter> {
    Some(match hook {
        hook::PACKET_IP => ip,
        hook::PACKET_IP_LIST => ip_list,
        hook::PACKET_TRANSPORT => transport,
        hook::PACKET_OUTPUT => output,
        hook::PACKET_COPY_UDP => copied_udp,
        hook::PACKET_FREE => free,
        hook::PACKET_FREE_STOLEN => free_stolen,
        _ => return None,
    })
}

// The types are those of the tracepoints, and of the functions.
const _: () = {
    prototype::same2(bindings::__traceiter_napi_gro_receive_entry, gro);
    prototype::same2(bindings::__traceiter_napi_gro_frags_entry, gro);
    prototype::same2(bindings::__traceiter_netif_receive_skb, receive);
    prototype::same3(bindings::__traceiter_skb_copy_datagram_iovec, copy);
    prototype::same2(bindings::__traceiter_net_dev_queue, queue);
    prototype::same3(bindings::__traceiter_net_dev_start_xmit, transmit);
    prototype::same3(bindings::__traceiter_consume_skb, consume);
    prototype::same5(bindings::__traceiter_kfree_skb, drop);
};

const _: unsafe extern "C" fn(
    *mut bindings::sk_buff,
    *mut bindings::net_device,
    *mut bindings::packet_type,
    *mut bindings::net_device,
) -> c_int = bindings::ip_rcv;
const _: unsafe extern "C" fn(
    *mut bindings::list_head,
    *mut bindings::packet_type,
    *mut bindings::net_device,
) = bindings::ip_list_rcv;
const _: unsafe extern "C" fn(*mut bindings::sk_buff) -> c_int = bindings::tcp_v4_rcv;
const _: unsafe extern "C" fn(*mut bindings::sk_buff) -> c_int = bindings::udp_rcv;
const _: [unsafe extern "C" fn(
    *mut bindings::net,
    *mut bindings::sock,
    *mut bindings::sk_buff,
) -> c_int; 3] = [
    bindings::ip_output,
    bindings::ip_mc_output,
    bindings::ip6_output,
];
const _: unsafe extern "C" fn(*mut bindings::sock, *mut bindings::sk_buff, c_int) =
    bindings::skb_consume_udp;
const _: [unsafe extern "C" fn(*mut bindings::sk_buff); 2] =
    [bindings::skb_release_head_state, bindings::__kfree_skb];
const _: unsafe extern "C" fn(*mut bindings::sk_buff, bool) = bindings::kfree_skb_partial;
