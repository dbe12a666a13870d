// SPDX-License-Identifier: GPL-2.0

//! TCP sockets.
//!
//! Sequence numbers wrap around, and so do all differences of them here.
//!
//! C header: [`include/linux/tcp.h`](srctree/include/linux/tcp.h)

use crate::bindings;
use crate::object::{
    net::{
        inet::{destination_port, ipv4_pair, ipv6, Addresses, InetGuard},
        socket::{Common, Kind, SockFlags, SockGuard, Socket},
        state::{jiffies, ms, Own, Peer, Queued, State},
    },
    sync::id::Id,
    sync::read_once,
};
use core::ptr::{self, NonNull};
use kernel::sync::rcu;

/// FIN in `tcp_flags`.
const TCPHDR_FIN: u16 = 1;

/// How far this side's FIN is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fin {
    None,
    /// It waits behind bytes that were not sent.
    Queued,
    Sent,
    Acked,
    /// There was no memory for it: it will never be sent.
    Failed,
    /// The connection is over, and its socket does not show how it ended.
    Unknown,
}

/// What only TCP sockets have. Times are in milliseconds, and none where the timer is not set.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) addresses: Addresses,
    pub(crate) fin: Fin,
    /// TCP_REPAIR.
    pub(crate) repair: bool,
    /// Bytes that were never sent, and bytes sent and not acknowledged, without SYN and FIN.
    pub(crate) unsent: u32,
    pub(crate) unacked: u32,
    /// `snd_wnd` and `snd_cwnd`.
    pub(crate) window: u32,
    pub(crate) cwnd: u32,
    pub(crate) in_flight: u32,
    /// A listener: handshakes under way.
    pub(crate) requests: u32,
    pub(crate) retransmits: u8,
    pub(crate) probes: u8,
    pub(crate) backoff: u8,
    /// `ICSK_TIME_*`, 0 for none.
    pub(crate) timer: u8,
    pub(crate) timer_ms: Option<i64>,
    pub(crate) ack_ms: Option<i64>,
    pub(crate) keepalive_ms: Option<i64>,
    pub(crate) fin_timeout_ms: Option<i64>,
    pub(crate) silent_ms: Option<i64>,
}

/// A TCP socket whose spinlock is held, and that no process owns.
///
/// # Invariants
///
/// The guard's socket is a `tcp_sock`.
pub(crate) struct TcpGuard<'g> {
    guard: &'g SockGuard<'g>,
    inet: InetGuard<'g>,
    sk: NonNull<bindings::tcp_sock>,
}

impl SockGuard<'_> {
    /// Returns it as a TCP socket, if it is one.
    pub(crate) fn tcp(&self) -> Option<TcpGuard<'_>> {
        if self.socket().kind() != Kind::Tcp {
            return None;
        }
        // INVARIANT: By its family, type and protocol.
        Some(TcpGuard {
            guard: self,
            sk: self.socket().as_non_null().cast(),
            inet: self.inet()?,
        })
    }
}

/// Returns the state of `sk_state` that this is.
fn is(state: u8, other: u32) -> bool {
    u32::from(state) == other
}

/// Returns how many bytes a socket received and has not read, without a FIN.
fn unread(rcv_nxt: u32, copied_seq: u32, flags: SockFlags) -> u32 {
    let bytes = rcv_nxt.wrapping_sub(copied_seq);
    // A FIN takes a sequence number; it is not data.
    bytes.saturating_sub(flags.has(SockFlags::DONE).into())
}

impl TcpGuard<'_> {
    fn sock(&self) -> *mut bindings::sock {
        self.sk.as_ptr().cast()
    }

    /// Reads the socket.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(super) fn read(&self, to: &mut State) {
        let State { common, queued, .. } = to;
        self.guard.socket().read_common(common);
        let mut tcp = self.timers();
        let sk = self.sock();
        if common.listens() {
            // SAFETY: It is a valid tcp_sock by the type's invariant.
            unsafe {
                queued.rx_packets = read_once!((*sk).sk_ack_backlog);
                let requests = &raw const (*self.connection()).icsk_accept_queue.qlen;
                tcp.requests = read_once!((*requests).counter).max(0) as u32;
            }
        } else {
            self.receive(common, queued);
            self.send(common, queued, &mut tcp);
        }
        to.own = Own::Tcp(tcp);
    }

    fn connection(&self) -> *const bindings::inet_connection_sock {
        self.sk.as_ptr().cast()
    }

    /// Reads what was received.
    fn receive(&self, common: &Common, queued: &mut Queued) {
        let (tp, sk) = (self.sk.as_ptr(), self.sock());
        let handshake = is(common.state, bindings::BPF_TCP_SYN_SENT)
            || is(common.state, bindings::BPF_TCP_SYN_RECV);
        // SAFETY: It is a valid tcp_sock by the type's invariant, and its lock is held.
        unsafe {
            let (next, copied) = ((*tp).rcv_nxt, (*tp).copied_seq);
            let urgent = (*tp).urg_seq;
            queued.rx_bytes = unread(next, copied, common.flags);
            queued.rx_packets = (*sk).sk_receive_queue.qlen;
            queued.unread = self.has_unread(copied);
            // As tcp_ioctl(): until the handshake is over it returns 0, though Fast Open may have
            // brought bytes that can be read. Bytes behind an urgent one do not count.
            let before_urgent = !common.flags.has(SockFlags::URGINLINE)
                && (*tp).urg_data != 0
                && !is_before(urgent, copied)
                && is_before(urgent, next);
            let inq = match (handshake, before_urgent) {
                (true, _) => 0,
                (_, true) => urgent.wrapping_sub(copied),
                _ => queued.rx_bytes,
            };
            queued.inq = match common.psock {
                // As tcp_bpf_ioctl().
                Some(psock) if psock.has_verdict => psock.bytes.into(),
                Some(psock) => i64::from(inq).saturating_add(psock.bytes.into()),
                None => inq.into(),
            };
        }
    }

    /// Returns whether tcp_close() would count anything as unread: the last sk_buff ends behind
    /// what was read, its FIN left out.
    fn has_unread(&self, copied: u32) -> bool {
        // SAFETY: It is a valid tcp_sock by the type's invariant, and its lock guards the queue.
        unsafe {
            last_of(&raw const (*self.sock()).sk_receive_queue).is_some_and(|skb| {
                let (end, flags) = sequence(skb);
                let end = end.wrapping_sub((flags & TCPHDR_FIN).into());
                is_before(copied, end)
            })
        }
    }

    /// Reads what was written.
    fn send(&self, common: &Common, queued: &mut Queued, tcp: &mut Tcp) {
        let (tp, sk) = (self.sk.as_ptr(), self.sock());
        let syn_sent = is(common.state, bindings::BPF_TCP_SYN_SENT);
        let syn_received = is(common.state, bindings::BPF_TCP_SYN_RECV);
        // SAFETY: It is a valid tcp_sock by the type's invariant, and its lock is held.
        unsafe {
            // A SYN takes a sequence number until it is acknowledged. A child of Fast Open begins
            // behind it.
            let syn = syn_sent || (syn_received && (*tp).fastopen_rsk.is_null());
            let syn = u32::from(syn);
            let (written, next, first) = ((*tp).write_seq, (*tp).snd_nxt, (*tp).snd_una);
            tcp.fin = self.fin(common.state);
            let fin = u32::from(matches!(tcp.fin, Fin::Queued | Fin::Sent));
            let (fin_unsent, fin_unacked) = match tcp.fin {
                Fin::Queued => (1, 0),
                Fin::Sent => (0, 1),
                _ => (0, 0),
            };
            queued.tx_bytes = written
                .wrapping_sub(first)
                .saturating_sub(syn)
                .saturating_sub(fin);
            tcp.unsent = written.wrapping_sub(next).saturating_sub(fin_unsent);
            tcp.unacked = next
                .wrapping_sub(first)
                .saturating_sub(syn)
                .saturating_sub(fin_unacked);
            queued.outq = if syn_sent || syn_received {
                0
            } else {
                written.wrapping_sub(first).into()
            };
            let packets_out = (*tp).packets_out;
            queued.tx_packets = (*sk)
                .sk_write_queue
                .qlen
                .saturating_add(packets_out.saturating_sub(syn));
            tcp.window = if syn_sent { 0 } else { (*tp).snd_wnd };
            tcp.cwnd = (*tp).snd_cwnd;
            // As tcp_packets_in_flight().
            tcp.in_flight = packets_out
                .wrapping_sub((*tp).sacked_out.wrapping_add((*tp).lost_out))
                .wrapping_add((*tp).retrans_out);
        }
    }

    /// Returns how far the FIN is, which takes a sequence number, the last one.
    fn fin(&self, state: u8) -> Fin {
        let tp = self.sk.as_ptr();
        // SAFETY: It is a valid tcp_sock by the type's invariant, and its lock is held.
        unsafe {
            match u32::from(state) {
                bindings::BPF_TCP_FIN_WAIT1
                | bindings::BPF_TCP_CLOSING
                | bindings::BPF_TCP_LAST_ACK => {
                    if !self.ends_with_fin() {
                        // tcp_send_fin() had no memory, and says so to nobody.
                        Fin::Failed
                    } else if (*tp).snd_nxt == (*tp).write_seq {
                        Fin::Sent
                    } else {
                        Fin::Queued
                    }
                }
                bindings::BPF_TCP_FIN_WAIT2 => Fin::Acked,
                // Sequence numbers begin with a connection, and stay behind.
                bindings::BPF_TCP_CLOSE if (*tp).write_seq != 0 => Fin::Unknown,
                _ => Fin::None,
            }
        }
    }

    /// Returns whether the last of the sk_buffs to be sent or acknowledged has a FIN.
    fn ends_with_fin(&self) -> bool {
        let sk = self.sock();
        // SAFETY: It is a valid tcp_sock by the type's invariant. Its lock guards the write queue
        // and the tree of what was sent, which is in the order of sequence numbers; an sk_buff's
        // node is its first member.
        unsafe {
            let last = last_of(&raw const (*sk).sk_write_queue).or_else(|| {
                let root = (&raw const (*sk).__bindgen_anon_2).cast::<bindings::rb_root>();
                let mut node = NonNull::new((*root).rb_node)?;
                while let Some(right) = NonNull::new(node.as_ref().rb_right) {
                    node = right;
                }
                Some(node.as_ptr().cast::<bindings::sk_buff>().cast_const())
            });
            last.is_some_and(|skb| sequence(skb).1 & TCPHDR_FIN != 0)
        }
    }

    /// Reads the timers, as inet_sk_diag_fill() looks at them, but each; and what else does not
    /// depend on the state.
    fn timers(&self) -> Tcp {
        let (tp, sk, icsk) = (self.sk.as_ptr(), self.sock(), self.connection());
        let now = jiffies();
        let until = |expires: usize| ms(expires.wrapping_sub(now));
        // SAFETY: It is a valid tcp_sock by the type's invariant, and its lock is held. Timers may
        // fire meanwhile.
        unsafe {
            let pending = |timer: *const bindings::timer_list| {
                let is_pending = !read_once!((*timer).entry.pprev).is_null();
                is_pending.then(|| until(read_once!((*timer).expires)))
            };
            let timer = read_once!((*icsk).icsk_pending);
            let retransmit = (&raw const (*sk).__bindgen_anon_3).cast::<bindings::timer_list>();
            let keepalive = (&raw const (*icsk).__bindgen_anon_1).cast::<bindings::timer_list>();
            let delayed = u32::from(read_once!((*icsk).icsk_ack.pending))
                & bindings::inet_csk_ack_state_t_ICSK_ACK_TIMER;
            let received = (*tp).rcv_tstamp;
            let listens = u32::from((*sk).__sk_common.skc_state) == bindings::BPF_TCP_LISTEN;
            Tcp {
                addresses: self.inet.addresses(),
                fin: Fin::None,
                repair: bindings::tcp_sock::repair_raw(tp) != 0,
                unsent: 0,
                unacked: 0,
                window: 0,
                cwnd: 0,
                in_flight: 0,
                requests: 0,
                retransmits: (*icsk).icsk_retransmits,
                probes: (*icsk).icsk_probes_out,
                backoff: (*icsk).icsk_backoff,
                timer,
                timer_ms: (timer != 0).then(|| until(read_once!((*retransmit).expires))),
                ack_ms: (delayed != 0)
                    .then(|| pending(&raw const (*icsk).icsk_delack_timer))
                    .flatten(),
                keepalive_ms: pending(keepalive),
                fin_timeout_ms: ((*tp).linger2 >= 0).then(|| {
                    // It is positive: below 0 there is none.
                    ms(bindings::tcp_fin_time(sk) as usize)
                }),
                // connect() sets it, too; it stays 0 in what never was a connection.
                silent_ms: (received != 0 && !listens)
                    .then(|| ms((now as u32).wrapping_sub(received) as usize)),
            }
        }
    }
}

/// Returns whether a sequence number is before another.
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// Returns the last sk_buff of a queue.
///
/// # Safety
///
/// The lock that guards the queue is held.
unsafe fn last_of(queue: *const bindings::sk_buff_head) -> Option<*const bindings::sk_buff> {
    // SAFETY: By this function's requirements. The list ends at the queue itself.
    let last = unsafe { (*queue).__bindgen_anon_1.__bindgen_anon_1.prev };
    (!ptr::eq(last.cast(), queue)).then_some(last.cast_const())
}

/// Returns the sequence number behind an sk_buff, and its flags.
///
/// # Safety
///
/// The sk_buff is in a queue of TCP, and the lock that guards it is held.
unsafe fn sequence(skb: *const bindings::sk_buff) -> (u32, u16) {
    // SAFETY: By this function's requirements the control block is TCP's.
    unsafe {
        let cb = (&raw const (*skb).cb).cast::<bindings::tcp_skb_cb>();
        ((*cb).end_seq, (*cb).tcp_flags)
    }
}

/// Returns how many bytes of a TCP socket wait to be read, without its lock. It is never more than
/// were received.
///
/// # Safety
///
/// `sk` is a valid full TCP socket.
pub(super) unsafe fn racy_unread(sk: *const bindings::sock) -> u32 {
    let tp = sk.cast::<bindings::tcp_sock>();
    // SAFETY: By this function's requirements. A reader raises `copied_seq` as far as `rcv_nxt` at
    // most: read in this order, the second is not behind the first.
    unsafe {
        let copied = read_once!((*tp).copied_seq);
        bindings::smp_rmb();
        let bytes = read_once!((*tp).rcv_nxt).wrapping_sub(copied);
        // Where TCP_REPAIR or disconnect() sets them meanwhile, there is no answer but none.
        if bytes > i32::MAX as u32 {
            return 0;
        }
        let flags = (&raw const (*sk).__sk_common.__bindgen_anon_5)
            .cast::<usize>()
            .read_volatile();
        bytes.saturating_sub((flags >> bindings::sock_flags_SOCK_DONE & 1) as u32)
    }
}

/// Reads what others may read of a socket at any time.
///
/// # Safety
///
/// `sk` is a valid full socket.
pub(super) unsafe fn racy_peer(sk: *const bindings::sock) -> Peer {
    // SAFETY: By this function's requirements.
    unsafe {
        Peer {
            id: Id::of(sk),
            inode: read_once!((*sk).sk_ino),
            rx_bytes: 0,
            rx_packets: read_once!((*sk).sk_receive_queue.qlen),
            state: read_once!((*sk).__sk_common.skc_state),
            shutdown: read_once!((*sk).sk_shutdown) & 3,
        }
    }
}

impl Socket<'_> {
    /// Looks up the other end of a TCP connection in the socket's own network namespace. No lock is
    /// held: the addresses of a connection stay while it lasts, and those of one that has ended are
    /// not looked up.
    pub(super) fn tcp_peer(&self) -> Option<Peer> {
        if self.kind() != Kind::Tcp {
            return None;
        }
        let inet = self.as_ptr().cast::<bindings::inet_sock>();
        // Others may have the addresses of a connection that has ended.
        if matches!(
            self.state(),
            bindings::BPF_TCP_CLOSE | bindings::BPF_TCP_LISTEN
        ) {
            return None;
        }
        let _rcu = rcu::read_lock();
        // SAFETY: The socket is valid by the type's invariant, and an inet_sock by its kind; RCU is
        // held. The lookup takes a reference to what it returns, which may be a request or a
        // TIME_WAIT socket: of these only the common part exists. The reference is dropped by
        // sock_gen_put(), for each of them.
        unsafe {
            let peer = NonNull::new(lookup(inet)?)?.as_ptr();
            let state = read_once!((*peer).__sk_common.skc_state);
            let is_full = !is(state, bindings::BPF_TCP_TIME_WAIT)
                && !is(state, bindings::BPF_TCP_NEW_SYN_RECV);
            let found = if is_full {
                Peer {
                    rx_bytes: racy_unread(peer),
                    ..racy_peer(peer)
                }
            } else {
                Peer {
                    id: Id::of(peer),
                    state,
                    ..Peer::default()
                }
            };
            bindings::sock_gen_put(peer);
            Some(found)
        }
    }
}

/// Looks up the other end of a connection. Takes a reference to it.
///
/// # Safety
///
/// `inet` is a valid socket, and RCU is held.
unsafe fn lookup(inet: *const bindings::inet_sock) -> Option<*mut bindings::sock> {
    // SAFETY: By this function's requirements. IPv6 sockets that talk IPv4 have both addresses.
    unsafe {
        let sk = &raw const (*inet).sk;
        let net = (*sk).__sk_common.skc_net.net;
        let device = read_once!((*sk).sk_rx_dst_ifindex);
        let port = destination_port(sk);
        if port == 0 {
            return None;
        }
        let family = read_once!((*sk).__sk_common.skc_family);
        let remote = &raw const (*sk).__sk_common.skc_v6_daddr;
        let is_mapped = ipv6(remote)[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        Some(if u32::from(family) == bindings::AF_INET6 && !is_mapped {
            let local = &raw const (*sk).__sk_common.skc_v6_rcv_saddr;
            let own_port = (*inet).inet_sport;
            bindings::__inet6_lookup_established(net, local, own_port, remote, port, device, 0)
        } else {
            let remote = u32::from_ne_bytes(ipv4_pair(sk)[0]);
            bindings::__inet_lookup_established(
                net,
                (*inet).inet_saddr,
                (*inet).inet_sport,
                remote,
                port,
                device,
                0,
            )
        })
    }
}
