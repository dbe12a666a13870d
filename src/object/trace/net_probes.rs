// SPDX-License-Identifier: GPL-2.0

//! Probes of sockets, and of drops.
//!
//! Those of tracepoints run in any context but an NMI, with whatever locks held; those of functions
//! in that of a process. None may sleep, lock or allocate. Whose event it is, the socket decides:
//! the current task has mostly nothing to do with it.
//!
//! C headers: [`include/trace/events/sock.h`](srctree/include/trace/events/sock.h),
//! [`include/trace/events/tcp.h`](srctree/include/trace/events/tcp.h),
//! [`include/trace/events/skb.h`](srctree/include/trace/events/skb.h)

use crate::object::trace::event::{hook, kind, net_flag};
use crate::{
    arch::{argument, current_task, IrqsOff},
    bindings,
    object::{
        net::{
            flow::Flow,
            packet_ref::PacketRef,
            sock::{netns, SockRef, IPPROTO_TCP},
        },
        sync::read_once,
        trace::{event::NetPart, functions::Enter, prototype, sink::Sink, task},
    },
};
use kernel::{
    ffi::{c_int, c_void},
    sync::rcu,
};

/// Returns what a probe was registered with.
///
/// # Safety
///
/// `sink` is that, and the probe still runs: it is unregistered and waited for before its sink is
/// dropped.
#[inline(always)]
pub(super) unsafe fn sink_of<'a>(sink: *mut c_void) -> &'a Sink {
    // SAFETY: By this function's contract.
    unsafe { &*sink.cast::<Sink>() }
}

/// The socket that a drop names.
#[derive(Clone, Copy, Default)]
pub(super) struct Named<'a> {
    /// Its address, to be named, not followed.
    pub(super) address: u64,
    pub(super) inode: u64,
    pub(super) netns: u32,
    /// Where it may be followed.
    pub(super) sk: Option<SockRef<'a>>,
}

/// Returns the socket that was to have a packet, or else that which it belongs to.
///
/// `rx_sk` may have been released by now. Whoever names it to `sk_skb_reason_drop()` has a
/// reference to it, its lock or RCU, except TCP, which may have released a reference before. Then
/// RCU, which is held while TCP receives, keeps the memory that of a socket (SLAB_TYPESAFE_BY_RCU),
/// and its namespace. Another socket may have the memory since: that one has the same id, too.
#[inline(always)]
pub(super) fn rx_sock<'a>(rx_sk: *const bindings::sock, owner: Option<SockRef<'a>>) -> Named<'a> {
    // SAFETY: As said above, which is what is read of it here and in the filter.
    let sk = unsafe { SockRef::from_raw(rx_sk) }.or(owner);
    match sk {
        Some(sk) => Named {
            address: sk.as_ptr().addr() as u64,
            inode: sk.inode(),
            // SAFETY: Likewise.
            netns: unsafe { netns(sk.net()) },
            sk: Some(sk),
        },
        None => Named::default(),
    }
}

/// Returns whether a filter lets an event pass. `named` is the address of its socket, or 0; `sk` is
/// its socket, where it may be followed.
#[inline(always)]
fn is_wanted(sink: &Sink, named: u64, sk: Option<SockRef<'_>>, flow: &Flow) -> bool {
    let filter = sink.net_filter();
    let is_of_socket = match filter.sock() {
        Some(wanted) => wanted.as_ptr().addr() as u64 == named,
        None => true,
    };
    is_of_socket && filter.accepts_cgroup_of(sk) && filter.accepts(flow)
}

/// Returns what an event says of where a packet comes from (local) and goes to (remote), or of the
/// two ends of a connection.
#[inline(always)]
fn part_of_flow(flow: &Flow) -> NetPart {
    let mut flags = 0;
    if flow.family != 0 {
        flags |= net_flag::ADDRESS;
        if flow.has_ports {
            flags |= net_flag::PORTS;
        }
    }
    NetPart {
        family: flow.family,
        protocol: flow.protocol.into(),
        local: flow.from,
        remote: flow.to,
        local_port: flow.from_port,
        remote_port: flow.to_port,
        flags: flags as u8,
        ..NetPart::default()
    }
}

/// Returns what an event says of a socket whose ends are `flow`: also of what is left of one in
/// TIME_WAIT, and of a request.
#[inline(always)]
fn part_of_sock(sk: SockRef<'_>, flow: &Flow) -> NetPart {
    NetPart {
        sock: sk.as_ptr().addr() as u64,
        // SAFETY: A socket keeps its namespace.
        netns: unsafe { netns(sk.net()) },
        family: sk.family(),
        protocol: sk.protocol(),
        state: sk.state(),
        inode: sk.inode(),
        shutdown: sk.shutdown(),
        ..part_of_flow(flow)
    }
}

/// Records an event, which is put together where it will lie.
#[inline(always)]
fn record(sink: &Sink, kind: u32, part: impl FnOnce() -> NetPart) {
    let irqs = IrqsOff::new();
    let slot = sink.begin(&irqs);
    if let Some(mut slot) = slot {
        let event = slot.event();
        // SAFETY: The place is the slot's; its kind and the part of that kind are written, and its
        // time and its CPU are kept.
        unsafe {
            (*event).kind = kind;
            (&raw mut (*event).part).cast::<NetPart>().write(part());
            slot.end();
        }
    }
}

/// Records a change of a TCP socket's state: `inet_sock_set_state`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn tcp_state(
    sink: *mut c_void,
    sk: *const bindings::sock,
    old: c_int,
    new: c_int,
) {
    // SAFETY: The tracepoint's caller has the socket; of the sink see `sink_of()`.
    let (sink, sk) = unsafe { (sink_of(sink), SockRef::from_raw(sk)) };
    let Some(sk) = sk else {
        return;
    };
    let flow = Flow::of_sock(sk);
    if is_wanted(sink, sk.as_ptr().addr() as u64, Some(sk), &flow) {
        record(sink, kind::TCP_STATE, || NetPart {
            old_state: old as u8,
            state: new as u8,
            ..part_of_sock(sk, &flow)
        });
    }
}

/// Records a reset that answers a packet. `sk` is none where nobody has the port.
///
/// A reset that a socket sends by itself is reported to the tracepoint after it was sent, and
/// without a packet: see `reset_active()`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn reset_sent(
    sink: *mut c_void,
    sk: *const bindings::sock,
    skb: *const bindings::sk_buff,
    reason: bindings::sk_rst_reason,
) {
    if skb.is_null() {
        return;
    }
    // SAFETY: The tracepoint's caller has both; of the sink see `sink_of()`.
    let (sink, sk, packet) = unsafe {
        (
            sink_of(sink),
            SockRef::from_raw(sk),
            PacketRef::from_raw(skb),
        )
    };
    send_reset(sink, sk, Some(packet), reason);
}

/// `tcp_send_active_reset(struct sock *, enum sk_rst_reason)`: on the same machine, the other end
/// has received the reset when this returns. Where there is no memory for it, none is sent.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn reset_active(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments; its caller has the socket.
    let (sink, sk, reason) = unsafe {
        (
            sink_of(sink),
            SockRef::from_raw(argument(regs, 0) as *const _),
            argument(regs, 1) as u32,
        )
    };
    send_reset(sink, sk, None, reason);
}

fn send_reset(
    sink: &Sink,
    sk: Option<SockRef<'_>>,
    packet: Option<PacketRef<'_>>,
    reason: bindings::sk_rst_reason,
) {
    let mut flow = sk.map_or_else(Flow::default, Flow::of_sock);
    // A listener answers by a reset, too, and has no other end.
    if let Some(packet) = packet.filter(|_| flow.to_port == 0) {
        let answered = Flow::of(packet, packet.network_header().into());
        if answered.family != 0 {
            flow = answered.reply();
        }
    }
    flow.protocol = IPPROTO_TCP;
    let named = sk.map_or(0, |sk| sk.as_ptr().addr() as u64);
    if is_wanted(sink, named, sk, &flow) {
        record(sink, kind::RESET, || {
            let mut part = match sk {
                Some(sk) => part_of_sock(sk, &flow),
                None => part_of_flow(&flow),
            };
            part.flags |= net_flag::SENT as u8;
            part.reason = reason;
            part.protocol = IPPROTO_TCP.into();
            part
        });
    }
}

/// Records a reset that was received: `tcp_receive_reset`.
///
/// # Safety
///
/// Called by that tracepoint, with a registered [`Sink`].
unsafe extern "C" fn reset_received(sink: *mut c_void, sk: *mut bindings::sock) {
    // SAFETY: The tracepoint's caller has the socket; of the sink see `sink_of()`.
    let (sink, sk) = unsafe { (sink_of(sink), SockRef::from_raw(sk)) };
    let Some(sk) = sk else {
        return;
    };
    let flow = Flow::of_sock(sk);
    if is_wanted(sink, sk.as_ptr().addr() as u64, Some(sk), &flow) {
        record(sink, kind::RESET, || part_of_sock(sk, &flow));
    }
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
    // SAFETY: The tracepoint's caller holds the sk_buff; of the sink see `sink_of()`.
    let (sink, packet) = unsafe { (sink_of(sink), PacketRef::from_raw(skb)) };
    let flow = Flow::of(packet, packet.network_header().into());
    // For `rx_sock()`.
    let _rcu = rcu::read_lock();
    let named = rx_sock(rx_sk, packet.owner());
    if is_wanted(sink, named.address, named.sk, &flow) {
        record(sink, kind::DROP, || NetPart {
            sock: named.address,
            inode: named.inode,
            netns: named.netns,
            ethertype: packet.ethertype(),
            location: location.addr() as u64,
            reason,
            len: packet.len(),
            iif: packet.iif(),
            ..part_of_flow(&flow)
        });
    }
}

/// What the current process does to a socket.
struct Shut {
    kind: u32,
    how: u8,
    refs: u32,
    flags: u32,
}

fn shut(sink: &Sink, sk: Option<SockRef<'_>>, what: Shut) {
    // SAFETY: The current task is there, and its tgid does not change.
    let pid = unsafe { (*current_task()).tgid as u32 };
    let Some(sk) = sk.filter(|_| sink.wants(what.kind, pid)) else {
        return;
    };
    let flow = Flow::of_sock(sk);
    if !is_wanted(sink, sk.as_ptr().addr() as u64, Some(sk), &flow) {
        return;
    }
    let (who, queues) = (task::who(), sk.queues());
    record(sink, what.kind, || {
        let mut part = part_of_sock(sk, &flow);
        part.flags |= what.flags as u8;
        NetPart {
            who,
            rx_bytes: queues.rx_bytes,
            rx_packets: queues.rx_packets,
            tx_bytes: queues.tx_bytes,
            unsent: queues.unsent,
            wmem: queues.wmem,
            how: what.how,
            refs: what.refs,
            ..part
        }
    });
}

/// Returns the socket of a `struct socket`, which the function that is entered holds.
///
/// # Safety
///
/// If it is not null, it is valid as long as `'a`.
unsafe fn sock_of<'a>(socket: *const bindings::socket) -> Option<SockRef<'a>> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: By this function's contract; the socket's file keeps what it refers to.
    unsafe { SockRef::from_raw(read_once!((*socket).sk).cast()) }
}

/// `inet_shutdown(struct socket *, int)`, and that of unix sockets, which has the same type as
/// every protocol's.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn shutdown(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments.
    let (sink, sk, how) = unsafe {
        (
            sink_of(sink),
            sock_of(argument(regs, 0) as *const _),
            argument(regs, 1) as u8,
        )
    };
    let what = Shut {
        kind: kind::SHUTDOWN,
        how,
        refs: 0,
        flags: 0,
    };
    shut(sink, sk, what);
}

/// `locks_remove_posix(struct file *, fl_owner_t)`: a table of descriptors, the owner, has one less
/// of the file, by close(), dup2(), execve() or exit(). That POSIX locks then end is what POSIX
/// wants of every close(); no other function is called for each and for nothing else. __fput()
/// calls it with the file as the owner.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn close(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments; its caller holds the file.
    let (sink, file, owner) = unsafe {
        (
            sink_of(sink),
            argument(regs, 0) as *mut bindings::file,
            argument(regs, 1),
        )
    };
    // SAFETY: As above.
    let socket = unsafe { bindings::sock_from_file(file) };
    if socket.is_null() || owner == file.addr() {
        return;
    }
    // SAFETY: The file keeps its socket; the current task is there.
    let (sk, references, flags) = unsafe {
        (
            sock_of(socket),
            bindings::file_count(file) as u32,
            read_once!((*current_task()).flags),
        )
    };
    let what = Shut {
        kind: kind::CLOSE,
        how: 0,
        // One of the references is that which is being released.
        refs: references.wrapping_sub(1),
        flags: if flags & bindings::PF_EXITING == 0 {
            0
        } else {
            net_flag::EXITING
        },
    };
    shut(sink, sk, what);
}

/// `sock_close(struct inode *, struct file *)`, the release() of sockets' files.
///
/// # Safety
///
/// Called by ftrace at the entry of that function, with a registered [`Sink`].
unsafe extern "C" fn release(sink: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: These are the function's arguments; the file keeps its socket.
    let (sink, sk) = unsafe {
        let socket = bindings::sock_from_file(argument(regs, 1) as *mut _);
        (sink_of(sink), sock_of(socket))
    };
    let what = Shut {
        kind: kind::RELEASE,
        how: 0,
        refs: 0,
        flags: 0,
    };
    shut(sink, sk, what);
}

/// Returns the probe of a tracepoint's hook.
pub(super) fn probe(hook: u32) -> Option<*const ()> {
    Some(match hook {
        hook::TCP_STATE => tcp_state as *const (),
        hook::RESET_SENT => reset_sent as *const (),
        hook::RESET_RECEIVED => reset_received as *const (),
        hook::DROP => drop as *const (),
        _ => return None,
    })
}

/// Returns what is called for a function's hook.
pub(super) fn enter(hook: u32) -> Option<Enter> {
    Some(match hook {
        hook::RESET_ACTIVE => reset_active,
        hook::SHUTDOWN => shutdown,
        hook::CLOSE => close,
        hook::RELEASE => release,
        _ => return None,
    })
}

// The types are those of the tracepoints, and of the functions.
const _: () = {
    prototype::same4(bindings::__traceiter_inet_sock_set_state, tcp_state);
    prototype::same4(bindings::__traceiter_tcp_send_reset, reset_sent);
    prototype::same2(bindings::__traceiter_tcp_receive_reset, reset_received);
    prototype::same5(bindings::__traceiter_kfree_skb, drop);
};

const _: unsafe extern "C" fn(*mut bindings::socket, c_int) -> c_int = bindings::inet_shutdown;
const _: unsafe extern "C" fn(*mut bindings::file, bindings::fl_owner_t) =
    bindings::locks_remove_posix;
const _: unsafe extern "C" fn(*mut bindings::sock, bindings::sk_rst_reason) =
    bindings::tcp_send_active_reset;
const _: fn(
    &bindings::proto_ops,
) -> Option<unsafe extern "C" fn(*mut bindings::socket, c_int) -> c_int> = |ops| ops.shutdown;
const _: fn(
    &bindings::file_operations,
) -> Option<unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int> =
    |ops| ops.release;
