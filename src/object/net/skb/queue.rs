// SPDX-License-Identifier: GPL-2.0

//! The queues of sockets.
//!
//! A queue is guarded by a lock of its own, or as the socket itself is: by its spinlock while no
//! process owns it. The backlog is guarded by the spinlock whoever owns the socket. Queues are
//! lists, but for TCP's trees of what was sent and of what came out of order, and the backlog, a
//! chain.
//!
//! C headers: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h),
//! [`include/net/sock.h`](srctree/include/net/sock.h)

use super::{list::List, ControlKind, SkBuff};
use crate::bindings;
use crate::object::{
    net::socket::{Kind, SockGuard, Socket},
    sync::hold::{Hold, Lock},
    sync::read_once,
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{sync::rcu, types::NotThreadSafe};

/// The most sk_buffs of one queue that are looked at in one hold of its lock.
pub(crate) const MAX_WALK: u32 = 16384;

/// A socket's queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueName {
    /// Received, and not read (`sk_receive_queue`).
    Receive,
    /// UDP: moved by a reader as a whole, and not yet read (`udp_sock.reader_queue`).
    Reader,
    /// TCP: received, and something before it is missing (`out_of_order_queue`).
    OutOfOrder,
    /// Written, and not yet sent (`sk_write_queue`).
    Write,
    /// TCP: sent, and not acknowledged (`tcp_rtx_queue`).
    Retransmit,
    /// TCP and SCTP: came while a process owned the socket (`sk_backlog`).
    Backlog,
    /// Errors and time stamps of what was sent (`sk_error_queue`).
    Error,
}

/// A queue of which the lock that guards it is held.
///
/// # Invariants
///
/// The queue, and what is in it, does not change for `'g`. `control` says whose the sk_buffs'
/// control blocks are.
pub(crate) struct Queue<'g> {
    of: Of,
    control: ControlKind,
    _guard: PhantomData<&'g ()>,
}

/// A queue by how its sk_buffs are linked.
#[derive(Clone, Copy)]
pub(in crate::object) enum Of {
    List(*const bindings::sk_buff_head),
    /// By the root of a tree, in the order of sequence numbers.
    Tree(*const bindings::rb_root),
    /// By the first of a chain, which a null ends.
    Chain(*mut bindings::sk_buff),
}

impl<'g> Queue<'g> {
    /// # Safety
    ///
    /// The lock that guards the queue is held for `'g`, and its control blocks are of that kind.
    pub(in crate::object) unsafe fn new(of: Of, control: ControlKind) -> Self {
        // INVARIANT: By the caller.
        Self {
            of,
            control,
            _guard: PhantomData,
        }
    }

    /// Returns its sk_buffs from first to last.
    pub(crate) fn skbs(&self) -> Skbs<'_> {
        // SAFETY: The queue's lock is held, by the type's invariant.
        let walk = unsafe {
            match self.of {
                Of::List(head) => Walk::List(List::new(head)),
                Of::Tree(root) => Walk::Tree(leftmost((*root).rb_node)),
                Of::Chain(first) => Walk::Chain(first),
            }
        };
        Skbs { walk, queue: self }
    }

    /// Returns how many sk_buffs are in it, where the kernel keeps count.
    pub(crate) fn len(&self) -> Option<u32> {
        match self.of {
            // SAFETY: By the type's invariant.
            Of::List(head) => Some(unsafe { read_once!((*head).qlen) }),
            _ => None,
        }
    }

    /// Returns its sums; none where the kernel keeps no count.
    pub(crate) fn totals(&self) -> QueueTotals {
        let mut totals = QueueTotals::default();
        let (Of::List(head), Some(packets)) = (self.of, self.len()) else {
            return totals;
        };
        let mut seen = 0_u32;
        // SAFETY: The queue's lock is held, by the type's invariant, and keeps its sk_buffs.
        for skb in unsafe { List::new(head) }.take(MAX_WALK as usize) {
            // SAFETY: As above.
            let len = unsafe { (*skb.as_ptr()).len };
            if seen == 0 {
                totals.first = len;
            }
            seen = seen.saturating_add(1);
            totals.bytes = totals.bytes.wrapping_add(len);
        }
        totals.packets = packets;
        totals.missed = packets.saturating_sub(seen);
        totals
    }
}

/// A walk over a queue.
pub(crate) struct Skbs<'q> {
    walk: Walk<'q>,
    queue: &'q Queue<'q>,
}

/// Where a walk is: at the next one, if any.
enum Walk<'q> {
    List(List<'q>),
    Tree(*mut bindings::rb_node),
    Chain(*mut bindings::sk_buff),
}

impl<'q> Iterator for Skbs<'q> {
    type Item = SkBuff<'q>;

    fn next(&mut self) -> Option<SkBuff<'q>> {
        // SAFETY: By the queue's invariant it does not change, and what was found in it stays.
        unsafe {
            let skb = match &mut self.walk {
                Walk::List(list) => list.next()?,
                Walk::Tree(node) => {
                    let at = NonNull::new(*node)?;
                    *node = bindings::rb_next(at.as_ptr());
                    // The node is the sk_buff's first member (rb_to_skb()).
                    at.cast()
                }
                Walk::Chain(next) => {
                    let at = NonNull::new(*next)?;
                    *next = (*at.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.next;
                    at
                }
            };
            Some(SkBuff::new(skb, self.queue.control))
        }
    }
}

/// Returns a tree's first node (rb_first()).
///
/// # Safety
///
/// The tree does not change meanwhile.
unsafe fn leftmost(mut node: *mut bindings::rb_node) -> *mut bindings::rb_node {
    // SAFETY: The tree does not change, by the caller.
    unsafe {
        while !node.is_null() && !(*node).rb_left.is_null() {
            node = (*node).rb_left;
        }
    }
    node
}

/// Bytes and packets of a queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct QueueTotals {
    /// Bytes in the first [`MAX_WALK`] packets.
    pub(crate) bytes: u32,
    /// Packets.
    pub(crate) packets: u32,
    /// Bytes of the first packet.
    pub(crate) first: u32,
    /// Packets whose bytes were not counted.
    pub(crate) missed: u32,
}

/// A queue that a spinlock guards which nobody sleeps with, with that held.
///
/// # Invariants
///
/// The lock is held by this thread, with bottom halves or interrupts off. The holder must not
/// sleep.
pub(crate) struct QueueGuard<'f> {
    held: Held,
    control: ControlKind,
    _hold: Hold,
    _socket: PhantomData<&'f ()>,
    _nts: NotThreadSafe,
}

/// Which lock, and of what.
enum Held {
    /// The queue's own, with bottom halves off.
    Queue(NonNull<bindings::sk_buff_head>),
    /// The queue's own, with interrupts off.
    Interrupts(NonNull<bindings::sk_buff_head>),
    /// The socket's spinlock, whoever owns the socket.
    Backlog(NonNull<bindings::sock>),
}

impl QueueGuard<'_> {
    fn new(held: Held, control: ControlKind, lock: Lock) -> Self {
        // INVARIANT: By the callers, which have just taken it.
        Self {
            held,
            control,
            _hold: lock.begin(),
            _socket: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// Locks a queue.
    ///
    /// # Safety
    ///
    /// `head` is valid for the guard's life, its own lock guards it, and no interrupt takes that.
    /// Its control blocks are of that kind.
    pub(in crate::object) unsafe fn lock(
        head: NonNull<bindings::sk_buff_head>,
        control: ControlKind,
    ) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::spin_lock_bh(&raw mut (*head.as_ptr()).lock) };
        Self::new(Held::Queue(head), control, Lock::Queue)
    }

    /// Locks an error queue. A device's interrupt may put a time stamp there.
    ///
    /// # Safety
    ///
    /// `head` is a socket's error queue, and valid for the guard's life. Interrupts are on.
    unsafe fn lock_errors(head: NonNull<bindings::sk_buff_head>) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::spin_lock_irq(&raw mut (*head.as_ptr()).lock) };
        Self::new(Held::Interrupts(head), ControlKind::Error, Lock::Queue)
    }

    /// Locks a backlog.
    ///
    /// # Safety
    ///
    /// The socket is valid for the guard's life, and its control blocks are of that kind.
    unsafe fn lock_backlog(sk: NonNull<bindings::sock>, control: ControlKind) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::sock_spin_lock_bh(sk.as_ptr()) };
        Self::new(Held::Backlog(sk), control, Lock::Socket)
    }

    /// Returns the queue.
    pub(crate) fn queue(&self) -> Queue<'_> {
        let of = match self.held {
            Held::Queue(head) | Held::Interrupts(head) => Of::List(head.as_ptr()),
            // SAFETY: The socket's spinlock is held, by the type's invariant.
            Held::Backlog(sk) => Of::Chain(unsafe { (*sk.as_ptr()).sk_backlog.head }),
        };
        // SAFETY: The lock is held while `self` is borrowed, and `control` is by what made the
        // guard.
        unsafe { Queue::new(of, self.control) }
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe {
            match self.held {
                Held::Queue(head) => bindings::spin_unlock_bh(&raw mut (*head.as_ptr()).lock),
                Held::Interrupts(head) => {
                    bindings::spin_unlock_irq(&raw mut (*head.as_ptr()).lock);
                }
                Held::Backlog(sk) => bindings::sock_spin_unlock_bh(sk.as_ptr()),
            }
        }
    }
}

/// What uses a socket's queues, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Tcp,
    Udp,
    /// SCTP, MPTCP and TIPC: under lock_sock() or the socket's spinlock, as TCP.
    Locked,
    Unix,
    /// Another one of IPv4 or IPv6.
    Inet,
    /// Under the queue's own lock, as UDP and unix sockets.
    Other,
}

impl User {
    fn of(socket: &Socket<'_>) -> Self {
        let ident = socket.ident();
        match ident.kind() {
            Kind::Tcp => Self::Tcp,
            Kind::Udp => Self::Udp,
            Kind::Unix => Self::Unix,
            Kind::Mptcp => Self::Locked,
            Kind::Inet => match ident.protocol.into() {
                bindings::IPPROTO_SCTP | bindings::IPPROTO_MPTCP => Self::Locked,
                _ => Self::Inet,
            },
            _ if u32::from(ident.family) == bindings::AF_TIPC => Self::Locked,
            _ => Self::Other,
        }
    }

    /// Whether the receive queue is guarded as the socket itself is, not by a lock of its own.
    fn by_socket(self) -> bool {
        matches!(self, Self::Tcp | Self::Locked)
    }

    /// Whose the control blocks of what was received are.
    fn incoming(self) -> ControlKind {
        match self {
            Self::Tcp => ControlKind::TcpIncoming,
            Self::Unix => ControlKind::Unix,
            _ => ControlKind::None,
        }
    }
}

/// A network device.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    /// Ends with a 0.
    pub(crate) name: [u8; 16],
    /// The type of its link layer (`ARPHRD_*`).
    pub(crate) kind: u16,
}

impl<'f> Socket<'f> {
    /// Locks one of its queues that no owner of the socket needs to release; none where it has no
    /// such queue.
    pub(crate) fn queue(&self, name: QueueName) -> Option<QueueGuard<'f>> {
        let sk = self.as_ptr();
        let user = User::of(self);
        // SAFETY: The socket is valid for `'f` by the type's invariant; only a UDP socket is a
        // udp_sock. The queues are part of it, and are guarded as `User` says; the reader queue by
        // its own lock.
        unsafe {
            match name {
                QueueName::Receive if !user.by_socket() => {
                    let queue = NonNull::new(&raw mut (*sk).sk_receive_queue)?;
                    Some(QueueGuard::lock(queue, user.incoming()))
                }
                QueueName::Reader if user == User::Udp => {
                    let udp = sk.cast::<bindings::udp_sock>();
                    let queue = NonNull::new(&raw mut (*udp).reader_queue)?;
                    Some(QueueGuard::lock(queue, ControlKind::None))
                }
                QueueName::Backlog if user.by_socket() => Some(QueueGuard::lock_backlog(
                    self.as_non_null(),
                    user.incoming(),
                )),
                QueueName::Error if user != User::Unix => {
                    let queue = NonNull::new(&raw mut (*sk).sk_error_queue)?;
                    Some(QueueGuard::lock_errors(queue))
                }
                _ => None,
            }
        }
    }

    /// Returns a device, as it is now, of the socket's network namespace; none where there is none.
    pub(crate) fn device(&self, index: i32) -> Option<Device> {
        let _rcu = rcu::read_lock();
        // SAFETY: The socket is valid by the type's invariant, and keeps its network namespace.
        // RCU, which is held, keeps the device. Its name may change meanwhile, and ends with a 0 in
        // any case.
        unsafe {
            let net = (*self.as_ptr()).__sk_common.skc_net.net;
            let device = bindings::dev_get_by_index_rcu(net, index);
            if device.is_null() {
                return None;
            }
            let mut name = [0; 16];
            for (at, to) in name[..15].iter_mut().enumerate() {
                *to = (&raw const (*device).name)
                    .cast::<u8>()
                    .add(at)
                    .read_volatile();
                if *to == 0 {
                    break;
                }
            }
            Some(Device {
                name,
                kind: read_once!((*device).type_),
            })
        }
    }
}

impl SockGuard<'_> {
    /// Returns one of its queues that are guarded as the socket itself is; none where it has no
    /// such queue.
    pub(crate) fn queue(&self, name: QueueName) -> Option<Queue<'_>> {
        let socket = self.socket();
        let sk = socket.as_ptr();
        let tcp = sk.cast::<bindings::tcp_sock>();
        let user = User::of(socket);
        let outgoing = match user {
            User::Tcp => ControlKind::TcpOutgoing,
            _ => ControlKind::None,
        };
        // SAFETY: The socket is valid, and a tcp_sock where it is TCP's. These queues are guarded
        // by this lock, which is held for the borrow of `self`; the write queue of UDP and raw
        // sockets is, too (ip_append_data()).
        unsafe {
            let (of, control) = match (name, user) {
                (QueueName::Receive, user) if user.by_socket() => {
                    (Of::List(&raw const (*sk).sk_receive_queue), user.incoming())
                }
                (QueueName::OutOfOrder, User::Tcp) => (
                    Of::Tree(&raw const (*tcp).out_of_order_queue),
                    user.incoming(),
                ),
                (QueueName::Write, User::Tcp | User::Udp | User::Inet) => {
                    (Of::List(&raw const (*sk).sk_write_queue), outgoing)
                }
                // The tree shares its place with what other protocols have there.
                (QueueName::Retransmit, User::Tcp) => (
                    Of::Tree((&raw const (*sk).__bindgen_anon_2).cast()),
                    outgoing,
                ),
                _ => return None,
            };
            Some(Queue::new(of, control))
        }
    }
}
