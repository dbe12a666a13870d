// SPDX-License-Identifier: GPL-2.0

//! Open files that are sockets.
//!
//! A socket is come to through its file, a reference to which keeps both. While ravel holds it, a close()
//! by its last user ends the connection only when ravel lets go, at the latest after [`PATIENCE`].
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/af_unix.h`](srctree/include/net/af_unix.h)

use super::{
    hold::{Hold, Lock},
    id::Id,
    process::{interrupted, is_exiting, Gone, Process},
    skb::{Of, Queue, QueueGuard, QueueName},
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task,
    time::{delay::fsleep, Delta, Instant, Monotonic},
    types::NotThreadSafe,
};

pub(crate) use crate::bindings::{
    ravel_peer as PeerState, ravel_sock as SockState, ravel_waiting as WaitingState,
};

impl PeerState {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(ptr::without_provenance::<bindings::sock>(self.sock))
    }
}

impl WaitingState {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(ptr::without_provenance::<bindings::sock>(self.sock))
    }
}

/// How long a socket may stay owned by its user before ravel passes it over, in milliseconds.
const PATIENCE: i64 = 100;

/// The longest address of a unix socket, in bytes.
pub(crate) const UNIX_PATH_MAX: usize = 108;

/// A process' open files, in the order of descriptors.
pub(crate) struct Files(ARef<Task>);

impl Files {
    /// The files that a process has now.
    pub(crate) fn of(process: &Process) -> Result<Self, Gone> {
        process.user_thread().map(Self)
    }

    /// The thread through which they were come to has begun to exit, and has perhaps given them up.
    /// Other threads of the process may go on, and have them still.
    pub(crate) fn are_stale(&self) -> bool {
        is_exiting(&self.0)
    }

    /// The first open file whose descriptor is `fd` or above, and its descriptor.
    pub(crate) fn next(&self, mut fd: u32) -> Option<(u32, OpenFile)> {
        OpenFile::next_of(&self.0, &mut fd).map(|file| (fd, file))
    }
}

/// An open file of whatever process.
///
/// # Invariants
///
/// A reference to it is owned.
pub(crate) struct OpenFile(NonNull<bindings::file>);

/// Which open file it was, to look for it among others. Tells nothing else: it may be closed already, and
/// another in its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileToken(usize);

impl OpenFile {
    /// A task's first open file whose descriptor is `fd` or above; `fd` becomes its descriptor.
    pub(super) fn next_of(task: &Task, fd: &mut u32) -> Option<Self> {
        // SAFETY: The task is a reference; its files_struct is read under its task_lock().
        let file = unsafe { bindings::fget_task_next(task.as_ptr(), fd) };
        // INVARIANT: fget_task_next() took a reference.
        NonNull::new(file).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// To look for it elsewhere.
    pub(crate) fn token(&self) -> FileToken {
        FileToken(self.0.addr().get())
    }

    /// References to it, this one left out.
    pub(crate) fn references(&self) -> usize {
        // SAFETY: The file is valid by the type's invariant.
        unsafe { bindings::ravel_file_count(self.0.as_ptr()) }.saturating_sub(1)
    }

    /// The number of its inode.
    pub(crate) fn inode(&self) -> usize {
        // SAFETY: The file is valid by the type's invariant.
        unsafe { bindings::ravel_file_inode(self.0.as_ptr()) }
    }

    /// Whether its reads and writes do not wait (`O_NONBLOCK`).
    pub(crate) fn is_nonblocking(&self) -> bool {
        // SAFETY: The file is valid by the type's invariant. The flag can change under our eyes.
        let flags = unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).f_flags) };
        flags & bindings::O_NONBLOCK != 0
    }

    /// The address of a netlink, packet or vsock socket as text, and its length.
    pub(crate) fn socket_name(&self, peer: bool, text: &mut [u8]) -> usize {
        let len = text.len().min(UNIX_PATH_MAX) as i32;
        // SAFETY: The file is a valid socket: only those have a family. At most `len` bytes are written.
        let len = unsafe {
            bindings::ravel_sock_name(self.0.as_ptr(), text.as_mut_ptr().cast(), len, peer)
        };
        usize::try_from(len).unwrap_or(0)
    }

    /// The socket behind it, if it is one.
    pub(crate) fn socket(&self) -> Option<Socket<'_>> {
        // SAFETY: The file is valid by the type's invariant.
        let socket = NonNull::new(unsafe { bindings::sock_from_file(self.0.as_ptr()) })?;
        // SAFETY: The socket lives in the file's inode. Its `sk` is taken away only when the file's last
        // reference goes, but may be put there after the file was made (accept()).
        let sk = unsafe { ptr::read_volatile(&raw const (*socket.as_ptr()).sk) };
        // INVARIANT: The socket holds a reference to `sk`, and the file keeps the socket.
        NonNull::new(sk).map(|sk| Socket {
            sk,
            _file: PhantomData,
        })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end. fput() may be called wherever.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// A socket.
///
/// # Invariants
///
/// It is kept for `'f`, by an open file or by a reference.
#[derive(Clone, Copy)]
pub(crate) struct Socket<'f> {
    sk: NonNull<bindings::sock>,
    _file: PhantomData<&'f OpenFile>,
}

impl<'f> Socket<'f> {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.sk.as_ptr())
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::sock {
        self.sk.as_ptr()
    }

    /// Its address, to take a reference.
    pub(super) fn as_non_null(&self) -> NonNull<bindings::sock> {
        self.sk
    }

    /// What can be said of it without its lock: `netns`, `family`, `type_`, `protocol`. Nothing of what was there
    /// stays.
    pub(crate) fn ident(&self, state: &mut SockState) {
        // SAFETY: The socket is valid by the type's invariant.
        unsafe { bindings::ravel_sock_ident(self.sk.as_ptr(), state) };
    }

    /// Its address family.
    pub(crate) fn family(&self) -> u32 {
        // SAFETY: The socket is valid by the type's invariant.
        unsafe { bindings::ravel_sock_family(self.sk.as_ptr()) }.into()
    }

    /// Whether it is a `tcp_sock`.
    fn is_tcp(&self) -> bool {
        // SAFETY: The socket is valid by the type's invariant.
        unsafe { bindings::ravel_sock_is_tcp(self.sk.as_ptr()) }
    }

    /// Whether it is a `udp_sock`.
    fn is_udp(&self) -> bool {
        // SAFETY: The socket is valid by the type's invariant.
        unsafe { bindings::ravel_sock_is_udp(self.sk.as_ptr()) }
    }

    /// Waits until no process owns the socket, and keeps it so.
    ///
    /// `EBUSY` when it stayed owned for [`PATIENCE`] (the owner may sleep on a page fault that a program
    /// serves), `EINTR` on a fatal signal.
    pub(crate) fn lock(&self) -> Result<SockGuard<'f>> {
        let mut since = None;
        loop {
            // SAFETY: The socket is valid by the type's invariant.
            if unsafe { bindings::ravel_sock_trylock(self.sk.as_ptr()) } {
                // INVARIANT: Taken.
                return Ok(SockGuard {
                    socket: *self,
                    _hold: Lock::Socket.begin(),
                    _nts: NotThreadSafe,
                });
            }
            if interrupted() {
                return Err(EINTR);
            }
            // Nearly all are had at once, and never ask for the time.
            let since: &mut Instant<Monotonic> = since.get_or_insert_with(Instant::now);
            if since.elapsed().as_millis() >= PATIENCE {
                return Err(EBUSY);
            }
            fsleep(Delta::from_micros(100));
        }
    }

    /// Whether its receive queue is guarded as the socket itself is, not by a lock of its own.
    pub(crate) fn guards_its_queues(&self) -> bool {
        // SAFETY: The socket is valid by the type's invariant.
        let guard = unsafe { bindings::ravel_receive_guard(self.sk.as_ptr()) };
        guard == bindings::RAVEL_BY_SOCKET as i32
    }

    /// One of its queues that no owner of the socket needs to let go of; none where it has no such queue.
    pub(crate) fn queue(&self, name: QueueName) -> Option<QueueGuard<'f>> {
        let sk = self.sk.as_ptr();
        let by_itself = self.guards_its_queues();
        let is_unix = self.family() == bindings::AF_UNIX;
        // SAFETY: The socket is valid for `'f` by the type's invariant; only a UDP socket is a udp_sock. The
        // queues are part of it, and are guarded as ravel_receive_guard() says; the reader queue by its own
        // lock. What is in a control block follows from the family.
        unsafe {
            match name {
                QueueName::Receive if !by_itself => {
                    let cb = if is_unix {
                        bindings::RAVEL_CB_UNIX
                    } else {
                        bindings::RAVEL_CB_NONE
                    };
                    NonNull::new(bindings::ravel_receive_queue(sk))
                        .map(|queue| QueueGuard::lock(queue, cb))
                }
                QueueName::Reader if self.is_udp() => {
                    NonNull::new(bindings::ravel_udp_reader_queue(sk))
                        .map(|queue| QueueGuard::lock(queue, bindings::RAVEL_CB_NONE))
                }
                QueueName::Backlog if by_itself => {
                    let cb = if self.is_tcp() {
                        bindings::RAVEL_CB_TCP_IN
                    } else {
                        bindings::RAVEL_CB_NONE
                    };
                    Some(QueueGuard::lock_backlog(self.sk, cb))
                }
                QueueName::Error if !is_unix => NonNull::new(bindings::ravel_error_queue(sk))
                    .map(|q| QueueGuard::lock_errors(q)),
                _ => None,
            }
        }
    }

    /// The connections that wait at a listener of TCP, or of unix sockets, as many as there is room for; returns how
    /// many there are.
    pub(crate) fn children(&self, children: &mut KVVec<Child>) -> u32 {
        let mut found = 0;
        children.clear();
        let room = children.capacity() as u32;
        let _hold = Lock::Queue.begin();
        // SAFETY: The socket is valid. Of `room` entries, that many are filled in which then count as the
        // vector's length. A `Child` is a pointer to a socket with a reference, which is what is filled in.
        unsafe {
            let to = children.as_mut_ptr().cast();
            let told = bindings::ravel_children(self.sk.as_ptr(), to, room, &mut found);
            children.inc_len(told as usize);
        }
        found
    }

    /// The name that a device has now in the socket's network namespace; its length is 0 where there is none.
    pub(crate) fn device_name(&self, index: i32) -> [u8; 16] {
        let mut name = [0; 16];
        // SAFETY: The socket is valid, and there is room for a name.
        unsafe {
            bindings::ravel_dev_name(self.sk.as_ptr(), index, (&raw mut name).cast());
        }
        name
    }

    /// Looks for the other end of a TCP connection on this machine. Where there is none, and for other protocols,
    /// `peer` stays as it is.
    pub(crate) fn tcp_peer(&self, peer: &mut PeerState) {
        if self.is_tcp() {
            // SAFETY: The socket is valid, and a TCP socket.
            unsafe { bindings::ravel_tcp_peer(self.sk.as_ptr(), peer) };
        }
    }

    /// Adds a listener's connections that nobody has accepted, as many as there is room for, and returns
    /// how many there are. No other socket has any.
    pub(crate) fn waiting(&self, waiting: &mut KVVec<WaitingState>) -> u32 {
        let mut found = 0;
        if !self.is_tcp() && self.family() != bindings::AF_UNIX {
            return found;
        }
        waiting.clear();
        let room = waiting.capacity() as u32;
        let _hold = Lock::Queue.begin();
        // SAFETY: The socket is valid, and a TCP or unix one. Of `room` entries, that many are filled in
        // which then count as the vector's length.
        unsafe {
            let to = waiting.as_mut_ptr();
            let told = bindings::ravel_waiting(self.sk.as_ptr(), to, room, &mut found);
            waiting.inc_len(told as usize);
        }
        found
    }

    /// Locks the state of a unix socket, which its own lock guards; none for other families.
    pub(crate) fn lock_unix(&self) -> Option<UnixGuard<'f>> {
        if self.family() != bindings::AF_UNIX {
            return None;
        }
        // SAFETY: The socket is valid, and a unix_sock by its family.
        unsafe { bindings::ravel_unix_lock(self.sk.as_ptr()) };
        // INVARIANT: Taken.
        Some(UnixGuard {
            socket: *self,
            _hold: Lock::Unix.begin(),
            _nts: NotThreadSafe,
        })
    }
}

/// A socket that no process owns, and that none can come to own: its spinlock is held.
///
/// The holder must not sleep, and must let go soon: incoming packets wait.
///
/// # Invariants
///
/// `sk_lock.slock` is held by this thread with bottom halves off, and `sk_lock.owned` is 0.
pub(crate) struct SockGuard<'f> {
    socket: Socket<'f>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl SockGuard<'_> {
    /// Completes what [`Socket::ident`] began.
    pub(crate) fn state(&self, state: &mut SockState) {
        // SAFETY: The socket is valid, and locked by the type's invariant.
        unsafe { bindings::ravel_sock_snapshot(self.socket.sk.as_ptr(), state) };
    }

    /// One of its queues that are guarded as the socket itself is; none where it has no such queue.
    pub(crate) fn queue(&self, name: QueueName) -> Option<Queue<'_>> {
        let sk = self.socket.sk.as_ptr();
        let is_tcp = self.socket.is_tcp();
        let by_itself = self.socket.guards_its_queues();
        let family = self.socket.family();
        let is_inet = family == bindings::AF_INET || family == bindings::AF_INET6;
        let (incoming, outgoing) = if is_tcp {
            (bindings::RAVEL_CB_TCP_IN, bindings::RAVEL_CB_TCP_OUT)
        } else {
            (bindings::RAVEL_CB_NONE, bindings::RAVEL_CB_NONE)
        };
        // SAFETY: The socket is valid, and a tcp_sock where it is TCP's. These queues are guarded by this
        // lock, which is held for the borrow of `self`; the write queue of UDP and raw sockets is, too
        // (ip_append_data()). What is in a control block follows from the protocol.
        unsafe {
            let (of, cb) = match name {
                QueueName::Receive if by_itself => {
                    (Of::List(bindings::ravel_receive_queue(sk)), incoming)
                }
                QueueName::OutOfOrder if is_tcp => (Of::OutOfOrder(sk), incoming),
                QueueName::Write if is_tcp || (is_inet && !by_itself) => {
                    (Of::List(bindings::ravel_write_queue(sk)), outgoing)
                }
                QueueName::Retransmit if is_tcp => (Of::Retransmit(sk), outgoing),
                _ => return None,
            };
            Some(Queue::new(of, cb))
        }
    }
}

/// A connection that nobody has accepted.
///
/// # Invariants
///
/// A reference to the socket is owned.
#[repr(transparent)]
pub(crate) struct Child(NonNull<bindings::sock>);

// SAFETY: A socket's references are counted, and may be given back by anybody.
unsafe impl Send for Child {}

impl Child {
    /// The socket.
    pub(crate) fn socket(&self) -> Socket<'_> {
        // INVARIANT: The reference lives as long as `self`.
        Socket {
            sk: self.0,
            _file: PhantomData,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end.
        unsafe { bindings::ravel_child_put(self.0.as_ptr()) };
    }
}

impl Drop for SockGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::ravel_sock_unlock(self.socket.sk.as_ptr()) };
    }
}

/// A unix socket's state, locked (`unix_state_lock()`).
///
/// # Invariants
///
/// The lock is held by this thread. The holder must not sleep.
pub(crate) struct UnixGuard<'f> {
    socket: Socket<'f>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl UnixGuard<'_> {
    /// A stream's unread bytes; -1 for a listener.
    pub(crate) fn stream_unread(&self) -> i64 {
        // SAFETY: The socket is a unix_sock.
        unsafe { bindings::ravel_unix_inq(self.socket.sk.as_ptr()) as i64 }
    }

    /// Whether a stream or seqpacket socket has anything that close() would throw away.
    pub(crate) fn unread(&self) -> bool {
        // SAFETY: The socket is a unix_sock.
        unsafe { bindings::ravel_unix_unread(self.socket.sk.as_ptr()) }
    }

    /// What is to be said of the peer; nothing if there is none.
    pub(crate) fn peer(&self) -> PeerState {
        let mut state = PeerState::default();
        // SAFETY: The socket is a unix_sock, and its state is locked: it keeps its peer.
        unsafe {
            let peer = bindings::ravel_unix_peer(self.socket.sk.as_ptr());
            if !peer.is_null() {
                bindings::ravel_unix_peer_state(peer, &mut state);
            }
        }
        state
    }

    /// Copies the socket's address, and returns its length; an abstract one begins with a 0 byte.
    pub(crate) fn local(&self, path: &mut [u8; UNIX_PATH_MAX]) -> usize {
        name(self.socket.sk.as_ptr(), path)
    }

    /// Copies the peer's address; none if there is no peer.
    pub(crate) fn remote(&self, path: &mut [u8; UNIX_PATH_MAX]) -> Option<usize> {
        // SAFETY: The socket is a unix_sock, and its state is locked.
        let peer = unsafe { bindings::ravel_unix_peer(self.socket.sk.as_ptr()) };
        // The socket holds a reference to its peer, and cannot give it up while its state is locked.
        (!peer.is_null()).then(|| name(peer, path))
    }
}

/// Copies a unix socket's address. The socket is kept by the caller.
fn name(sk: *mut bindings::sock, path: &mut [u8; UNIX_PATH_MAX]) -> usize {
    let mut from = ptr::null();
    // SAFETY: `sk` is a unix_sock that is kept.
    let len = unsafe { bindings::ravel_unix_name(sk, &mut from) };
    let len = usize::try_from(len).unwrap_or(0).min(UNIX_PATH_MAX);
    for (i, to) in path[..len].iter_mut().enumerate() {
        // SAFETY: The address has `len` bytes, is never changed once it is set, and lives as long as the
        // socket.
        *to = unsafe { *from.add(i) };
    }
    len
}

impl Drop for UnixGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::ravel_unix_unlock(self.socket.sk.as_ptr()) };
    }
}
