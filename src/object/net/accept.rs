// SPDX-License-Identifier: GPL-2.0

//! Accept queues: the connections of a listener that nobody has accepted.
//!
//! C header: [`include/net/request_sock.h`](srctree/include/net/request_sock.h)

use crate::bindings;
use crate::object::{
    net::{
        inet::{destination, Address},
        skb::QueueGuard,
        socket::{Kind, SockGuard, Socket},
        tcp::racy_unread,
        unix::UnixGuard,
    },
    sync::hold::{Hold, Lock},
    sync::id::Id,
    sync::read_once,
};
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::prelude::*;

/// An accept queue, locked: nobody can take a connection out of it, and so none goes away.
pub(crate) enum AcceptQueue<'g> {
    /// TCP: a list of requests.
    Requests(RequestQueue<'g>),
    /// Unix: sk_buffs, each of which belongs to its connection.
    Unix(&'g UnixGuard<'g>, QueueGuard<'g>),
}

/// The accept queue of a TCP listener, locked.
///
/// # Invariants
///
/// `rskq_lock` is held by this thread, with bottom halves off. The listener's spinlock is held,
/// too: listen() makes the queue anew, as the socket's owner.
pub(crate) struct RequestQueue<'g> {
    listener: &'g SockGuard<'g>,
    queue: NonNull<bindings::request_sock_queue>,
    _hold: Hold,
}

impl SockGuard<'_> {
    /// Locks the accept queue, if it is a TCP listener.
    fn accept_queue(&self) -> Option<AcceptQueue<'_>> {
        let socket = self.socket();
        if socket.kind() != Kind::Tcp || socket.state() != bindings::BPF_TCP_LISTEN {
            return None;
        }
        let icsk = socket.as_ptr().cast::<bindings::inet_connection_sock>();
        // SAFETY: The socket is valid, and an inet_connection_sock by its kind. The queue was made
        // by listen().
        let queue = unsafe {
            let queue = NonNull::new_unchecked(&raw mut (*icsk).icsk_accept_queue);
            // Bottom halves are off already.
            bindings::spin_lock(&raw mut (*queue.as_ptr()).rskq_lock);
            queue
        };
        // INVARIANT: Taken; `self` is borrowed.
        Some(AcceptQueue::Requests(RequestQueue {
            listener: self,
            queue,
            _hold: Lock::Queue.begin(),
        }))
    }
}

impl Drop for RequestQueue<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::spin_unlock(&raw mut (*self.queue.as_ptr()).rskq_lock) };
    }
}

impl UnixGuard<'_> {
    /// Locks the accept queue, if it listens.
    fn accept_queue(&self) -> Option<AcceptQueue<'_>> {
        let listens = self.socket().state() == bindings::BPF_TCP_LISTEN;
        listens.then(|| AcceptQueue::Unix(self, self.lock_queue()))
    }
}

impl AcceptQueue<'_> {
    /// Returns how many connections are in it.
    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Requests(queue) => {
                // SAFETY: The listener is valid while it is locked.
                unsafe { read_once!((*queue.listener.socket().as_ptr()).sk_ack_backlog) }
            }
            Self::Unix(_, queue) => queue.queue().len().unwrap_or(0),
        }
    }

    /// Returns the connections, in the order in which accept() returns them.
    pub(crate) fn connections(&self) -> Connections<'_> {
        let next = match self {
            Self::Requests(queue) => {
                // SAFETY: The queue's lock is held by the type's invariant.
                At::Request(unsafe { (*queue.queue.as_ptr()).rskq_accept_head })
            }
            Self::Unix(unix, _) => {
                let queue = unix.socket().receive_queue();
                // SAFETY: The queue's lock is held, as the variant shows.
                let first = unsafe { (*queue.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.next };
                At::SkBuff(queue, first)
            }
        };
        Connections {
            next,
            _queue: PhantomData,
        }
    }
}

/// Where a walk is.
enum At {
    Request(*mut bindings::request_sock),
    SkBuff(NonNull<bindings::sk_buff_head>, *mut bindings::sk_buff),
}

/// A walk over a locked accept queue.
///
/// # Invariants
///
/// `next` is in the queue, which is locked for `'q`, or its end.
pub(crate) struct Connections<'q> {
    next: At,
    _queue: PhantomData<&'q ()>,
}

impl<'q> Iterator for Connections<'q> {
    type Item = Connection<'q>;

    fn next(&mut self) -> Option<Connection<'q>> {
        // SAFETY: By the type's invariant, `next` is in a queue that is locked, and so is its
        // socket. A list of sk_buffs ends at the queue itself.
        unsafe {
            let sk = match &mut self.next {
                At::Request(request) => {
                    let at = NonNull::new(*request)?.as_ptr();
                    *request = (*at).dl_next;
                    (*at).sk
                }
                At::SkBuff(queue, skb) => {
                    if ptr::eq((*skb).cast(), queue.as_ptr()) {
                        return None;
                    }
                    let at = *skb;
                    let links = at.cast::<bindings::sk_buff_head>();
                    *skb = (*links).__bindgen_anon_1.__bindgen_anon_1.next;
                    (*at).sk.cast()
                }
            };
            // INVARIANT: Its connection stays while the queue is locked.
            Some(Connection(Socket::new(NonNull::new(sk)?, None)))
        }
    }
}

/// A connection in an accept queue that is locked.
pub(crate) struct Connection<'q>(Socket<'q>);

/// What can be read of a connection without its own lock.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    /// The socket that accept() will return.
    pub(crate) id: Id,
    /// `AF_*`.
    pub(crate) family: u16,
    /// `sk_state` and `sk_shutdown`.
    pub(crate) state: u8,
    pub(crate) shutdown: u8,
    /// Bytes that it has received.
    pub(crate) rx_bytes: u32,
    /// TCP: who connected.
    pub(crate) remote: Address,
    /// Unix: the inode of the socket that connected; 0 where no process has it open.
    pub(crate) peer_inode: u64,
}

/// Returns the MPTCP connection of a TCP socket in an accept queue; none if it is no subflow.
///
/// # Safety
///
/// The accept queue that `sk` is in is locked.
unsafe fn mptcp_connection(sk: *const bindings::sock) -> Option<NonNull<bindings::sock>> {
    // SAFETY: By this function's requirements `sk` is a valid tcp_sock. As in
    // mptcp_subflow_queue_clean(): a subflow has a context until it is dropped, which is freed by
    // RCU (bottom halves are off), and a reference to the connection.
    unsafe {
        if !read_once!((*sk.cast::<bindings::tcp_sock>()).is_mptcp) {
            return None;
        }
        let subflow = NonNull::new(bindings::mptcp_subflow_ctx(sk))?;
        NonNull::new(bindings::mptcp_subflow_conn(subflow.as_ptr()))
    }
}

impl Connection<'_> {
    /// Takes a reference to it.
    pub(crate) fn hold(&self) -> Child {
        // SAFETY: It is valid.
        unsafe { Child::hold(self.0.as_non_null()) }
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Waiting {
        let sk = self.0.as_ptr();
        let ident = self.0.ident();
        // SAFETY: The socket is valid while the queue is locked, and of the kind that its listener
        // has. The peer of a unix socket is set before it is queued, and whoever clears it has
        // taken it out of the queue first.
        unsafe {
            let mut waiting = Waiting {
                id: self.0.id(),
                family: ident.family,
                state: read_once!((*sk).__sk_common.skc_state),
                shutdown: read_once!((*sk).sk_shutdown) & 3,
                rx_bytes: 0,
                remote: Address::default(),
                peer_inode: 0,
            };
            match ident.kind() {
                Kind::Unix => {
                    let unix = sk.cast::<bindings::unix_sock>();
                    let bytes = read_once!((*unix).inq_len);
                    waiting.rx_bytes = u32::try_from(bytes).unwrap_or(0);
                    if let Some(peer) = NonNull::new(read_once!((*unix).peer)) {
                        waiting.peer_inode = read_once!((*peer.as_ptr()).sk_ino);
                    }
                }
                Kind::Tcp => {
                    waiting.rx_bytes = racy_unread(sk);
                    waiting.remote = destination(sk, ident.family);
                    if let Some(connection) = mptcp_connection(sk) {
                        // accept() returns the connection that this is the first subflow of; bytes
                        // move there when they come.
                        waiting.id = Id::of(connection.as_ptr());
                        waiting.rx_bytes = waiting
                            .rx_bytes
                            .saturating_add(bindings::mptcp_unread(connection.as_ptr()) as u32);
                    }
                }
                _ => {}
            }
            waiting
        }
    }
}

impl Socket<'_> {
    /// Calls a function with the accept queue of a listener, locked; none where it is not one of
    /// TCP, MPTCP or unix.
    ///
    /// `EBUSY` when the listener's user did not release it, `EINTR` on a fatal signal.
    pub(crate) fn with_accept_queue<T>(
        &self,
        look: impl FnOnce(&AcceptQueue<'_>) -> T,
    ) -> Result<Option<T>> {
        match self.kind() {
            Kind::Unix => {
                let guard = self.lock_unix();
                let queue = guard.as_ref().and_then(|unix| unix.accept_queue());
                Ok(queue.as_ref().map(look))
            }
            Kind::Tcp => {
                let guard = self.lock()?;
                let queue = guard.accept_queue();
                Ok(queue.as_ref().map(look))
            }
            Kind::Mptcp => {
                // The lock is dropped here: the subflow's is taken before the connection's
                // elsewhere (subflow_syn_recv_sock()).
                let first = self.lock()?.first_subflow();
                let Some(first) = first else {
                    return Ok(None);
                };
                let guard = first.socket().lock()?;
                let queue = guard.accept_queue();
                Ok(queue.as_ref().map(look))
            }
            _ => Ok(None),
        }
    }

    /// Collects what can be read of the connections that wait at a listener, as far as there is
    /// room; returns how many there are.
    pub(crate) fn waiting(&self, waiting: &mut KVVec<Waiting>) -> Result<u32> {
        waiting.clear();
        let found = self.with_accept_queue(|queue| {
            let room = waiting.capacity();
            for connection in queue.connections().take(room) {
                let _ = waiting.push_within_capacity(connection.read());
            }
            queue.len().max(waiting.len() as u32)
        })?;
        Ok(found.unwrap_or(0))
    }

    /// Takes references to the connections that wait at a listener of TCP or unix, as far as there
    /// is room; returns how many there are.
    pub(crate) fn children(&self, children: &mut KVVec<Child>) -> u32 {
        children.clear();
        if self.kind() == Kind::Mptcp {
            return 0;
        }
        let found = self.with_accept_queue(|queue| {
            let room = children.capacity();
            for connection in queue.connections().take(room) {
                let _ = children.push_within_capacity(connection.hold());
            }
            queue.len().max(children.len() as u32)
        });
        found.ok().flatten().unwrap_or(0)
    }
}

/// A socket that no file has.
///
/// # Invariants
///
/// A reference to the socket is owned.
pub(crate) struct Child(NonNull<bindings::sock>);

// SAFETY: A socket's references are counted, and may be dropped by any thread.
unsafe impl Send for Child {}

impl Child {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// The socket is valid.
    pub(super) unsafe fn hold(sk: NonNull<bindings::sock>) -> Self {
        // SAFETY: By this function's requirements.
        unsafe { bindings::sock_hold(sk.as_ptr()) };
        Self(sk)
    }

    /// Returns the socket.
    pub(crate) fn socket(&self) -> Socket<'_> {
        // SAFETY: The reference lives as long as the borrow of `self`.
        unsafe { Socket::new(self.0, None) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and dropped here.
        unsafe { bindings::sock_put(self.0.as_ptr()) };
    }
}
