// SPDX-License-Identifier: GPL-2.0

//! Unix sockets.
//!
//! A socket's state lock guards its own state, its peer and its address. Its receive queue has a
//! lock of its own, taken inside that one, as unix_stream_sendmsg() does.
//!
//! C header: [`include/net/af_unix.h`](srctree/include/net/af_unix.h)

use crate::bindings;
use crate::object::{
    net::{
        skb::{ControlKind, QueueGuard},
        socket::{Kind, Socket},
        state::{Own, Peer, State},
        tcp::racy_peer,
    },
    sync::hold::{Hold, Lock},
    sync::read_once,
};
use core::{mem::offset_of, ptr::NonNull};
use kernel::types::NotThreadSafe;

/// The longest address of a unix socket, in bytes.
pub(crate) const UNIX_PATH_MAX: usize = 108;

/// A path, or an abstract name, which begins with a 0 byte; empty for none.
#[derive(Clone, Copy)]
pub(crate) struct UnixName {
    path: [u8; UNIX_PATH_MAX],
    len: usize,
}

impl UnixName {
    const NONE: Self = Self {
        path: [0; UNIX_PATH_MAX],
        len: 0,
    };

    /// Returns its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.path.get(..self.len).unwrap_or_default()
    }

    /// Replaces the 0 byte with which an abstract name begins by `@`.
    pub(crate) fn make_printable(&mut self) {
        if self.len > 0 && self.path[0] == 0 {
            self.path[0] = b'@';
        }
    }

    /// Reads the address of a unix socket.
    ///
    /// # Safety
    ///
    /// `unix` is valid.
    unsafe fn of(unix: *const bindings::unix_sock) -> Self {
        let mut name = Self::NONE;
        // SAFETY: By this function's requirements. The address is set once, completely before the
        // pointer to it is released (unix_bind_bsd()), never changes, and lives as long as the
        // socket. `len` counts from the start of the sockaddr_un.
        unsafe {
            let address = bindings::unix_sock_addr(unix);
            if address.is_null() {
                return name;
            }
            let from = (&raw const (*address).name)
                .cast::<u8>()
                .add(offset_of!(bindings::sockaddr_un, sun_path));
            let len = usize::try_from((*address).len).unwrap_or(0);
            let len = len
                .saturating_sub(offset_of!(bindings::sockaddr_un, sun_path))
                .min(UNIX_PATH_MAX);
            from.copy_to_nonoverlapping(name.path.as_mut_ptr(), len);
            name.len = len;
        }
        // A path is counted with the NUL that ends it; an abstract name begins with one.
        if name.path[0] != 0 {
            let end = name.bytes().iter().position(|&byte| byte == 0);
            name.len = end.unwrap_or(name.len);
        }
        name
    }
}

/// What only unix sockets have.
#[derive(Clone, Copy)]
pub(crate) struct Unix {
    pub(crate) local: UnixName,
    pub(crate) remote: UnixName,
}

/// A unix socket whose state lock (`unix_state_lock()`) is held.
///
/// # Invariants
///
/// The socket is a `unix_sock`, and its lock is held by this thread. The holder must not sleep.
pub(crate) struct UnixGuard<'f> {
    socket: Socket<'f>,
    sk: NonNull<bindings::unix_sock>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'f> Socket<'f> {
    /// Locks the state of a unix socket; none for other families.
    pub(crate) fn lock_unix(&self) -> Option<UnixGuard<'f>> {
        if self.kind() != Kind::Unix {
            return None;
        }
        let sk = self.as_non_null().cast::<bindings::unix_sock>();
        // SAFETY: The socket is valid, and a unix_sock by its family. Bottom halves are off, so
        // that none run under this lock where the receive queue's is released.
        unsafe { bindings::spin_lock_bh(&raw mut (*sk.as_ptr()).lock) };
        // INVARIANT: Taken.
        Some(UnixGuard {
            socket: *self,
            sk,
            _hold: Lock::Unix.begin(),
            _nts: NotThreadSafe,
        })
    }
}

impl<'f> UnixGuard<'f> {
    /// Returns the socket.
    pub(super) fn socket(&self) -> &Socket<'f> {
        &self.socket
    }

    /// Locks the receive queue.
    pub(super) fn lock_queue(&self) -> QueueGuard<'_> {
        // SAFETY: The queue is part of the socket, which is valid for the borrow, and its own lock
        // guards it.
        unsafe { QueueGuard::lock(self.socket.receive_queue(), ControlKind::Unix) }
    }

    /// Reads the socket, and what others may read of its peer at any time.
    ///
    /// A peer that is closed changes its own state first and this socket's afterwards, under this
    /// socket's lock (unix_release_sock()): what is read here of the peer is not older than what is
    /// read of the socket.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(super) fn read(&self, to: &mut State) {
        let unix = self.sk.as_ptr();
        let State { common, queued, .. } = to;
        // SAFETY: It is a valid unix_sock by the type's invariant.
        let type_ = u32::from(unsafe { (*unix).sk.sk_type });
        let guard = self.lock_queue();
        // The queue's lock covers what waits in it, the state lock all else.
        self.socket.read_common(common);
        let totals = guard.queue().totals();
        queued.receive(&totals);
        queued.outq = common.wmem.into();
        if common.listens() {
            // Its queue holds connections, not data.
            queued.rx_bytes = 0;
        } else {
            let is_stream = type_ == bindings::sock_type_SOCK_STREAM;
            let is_packets = type_ == bindings::sock_type_SOCK_SEQPACKET;
            queued.unread = (is_stream || is_packets) && self.has_unread(&guard);
            if is_stream {
                // SAFETY: As above.
                let bytes = unsafe { read_once!((*unix).inq_len) };
                queued.rx_bytes = u32::try_from(bytes).unwrap_or(0);
            }
            queued.inq = if is_stream || is_packets {
                queued.rx_bytes.into()
            } else {
                totals.first.into()
            };
        }
        drop(guard);
        // SAFETY: It is a valid unix_sock by the type's invariant. It holds a reference to its
        // peer, which it cannot give up while its state is locked; the peer is a unix_sock, too.
        let (peer, own) = unsafe {
            let local = UnixName::of(unix);
            match NonNull::new((*unix).peer) {
                Some(peer) => {
                    let of = peer.cast::<bindings::unix_sock>().as_ptr();
                    let remote = UnixName::of(of);
                    (Some(read_peer(of)), Own::Unix(Unix { local, remote }))
                }
                None => {
                    let remote = UnixName::NONE;
                    (None, Own::Unix(Unix { local, remote }))
                }
            }
        };
        (to.peer, to.own) = (peer, own);
    }

    /// Returns what unix_release_sock() would count as unread: the first sk_buff that is not one
    /// whose only byte was read out of band.
    fn has_unread(&self, _queue: &QueueGuard<'_>) -> bool {
        let queue = self.socket.receive_queue().as_ptr();
        // SAFETY: The queue is locked, as `_queue` shows, and its sk_buffs' control blocks are
        // those of unix sockets.
        unsafe {
            let first = (*queue).__bindgen_anon_1.__bindgen_anon_1.next;
            match (*queue).qlen {
                0 => false,
                1 => (*first).len != bindings::unix_skb_consumed(first),
                _ => true,
            }
        }
    }
}

/// Reads what others may read of a unix socket at any time.
///
/// # Safety
///
/// `unix` is valid.
unsafe fn read_peer(unix: *const bindings::unix_sock) -> Peer {
    // SAFETY: By this function's requirements; the sock is its first member.
    unsafe {
        let sk = &raw const (*unix).sk;
        let is_stream = u32::from((*sk).sk_type) == bindings::sock_type_SOCK_STREAM;
        let bytes = if is_stream {
            read_once!((*unix).inq_len)
        } else {
            0
        };
        Peer {
            rx_bytes: u32::try_from(bytes).unwrap_or(0),
            ..racy_peer(sk)
        }
    }
}

impl Drop for UnixGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::spin_unlock_bh(&raw mut (*self.sk.as_ptr()).lock) };
    }
}
