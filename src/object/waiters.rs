// SPDX-License-Identifier: GPL-2.0

//! Who waits on a socket: its wait queues, and the owner of its signals.
//!
//! An entry of a wait queue lies wherever who waits has put it, mostly on his stack, and stands for as long
//! as the queue is locked. What it leads to depends on the function that wakes it. Nothing exports most of
//! those functions, but kallsyms tells their names: an address met for the first time is looked up after the
//! queue was unlocked, and the queue is then walked anew. An entry is followed only if its function is known,
//! and part of the kernel proper, which stays.
//!
//! C headers: [`include/linux/wait.h`](srctree/include/linux/wait.h),
//! [`include/linux/poll.h`](srctree/include/linux/poll.h)

use super::{
    gfp,
    hold::{Hold, Lock},
    id::Id,
    process::Comm,
    socket::{OpenFile, Socket},
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{prelude::*, types::NotThreadSafe};

pub(crate) use crate::bindings::{ravel_owner as OwnerOfSignals, ravel_waiter as WaiterState};

/// How many entries of a queue are looked at in one hold of its lock, as each wake-up does with all.
const MAX_WALK: usize = 16384;

/// How many functions are remembered.
const MAX_KNOWN: usize = 32;

/// How many functions can be met for the first time in one walk.
const MAX_NEW: usize = 8;

/// What an entry stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakes {
    /// A task that sleeps in the kernel.
    Task,
    /// A task in select() or poll().
    Poll,
    /// An epoll set.
    Epoll,
    /// A request of an io_uring.
    Request,
    /// Those who poll a unix socket that is connected to this one.
    Relay,
    /// Something that ravel does not follow.
    Other,
}

/// The functions by which entries are known (kernel/sched/wait.c, net/core/datagram.c, fs/select.c,
/// fs/eventpoll.c, io_uring/poll.c, net/unix/af_unix.c).
const FUNCTIONS: [(&[u8], Wakes); 8] = [
    (b"default_wake_function", Wakes::Task),
    (b"autoremove_wake_function", Wakes::Task),
    (b"woken_wake_function", Wakes::Task),
    (b"receiver_wake_function", Wakes::Task),
    (b"pollwake", Wakes::Poll),
    (b"ep_poll_callback", Wakes::Epoll),
    (b"io_poll_wake", Wakes::Request),
    (b"unix_dgram_peer_wake_relay", Wakes::Relay),
];

/// The address of a function, to be named, not called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function(usize);

/// The text of a symbol, as kallsyms prints it.
pub(crate) struct Symbol {
    text: [u8; bindings::RAVEL_SYMBOL_LEN as usize],
    len: usize,
}

impl Symbol {
    /// Room for one.
    pub(crate) const fn new() -> Self {
        Self {
            text: [0; bindings::RAVEL_SYMBOL_LEN as usize],
            len: 0,
        }
    }

    fn look_up(&mut self, function: Function) {
        // SAFETY: The longest symbol fits. An address is looked up, and not followed.
        let len = unsafe { bindings::sprint_symbol(self.text.as_mut_ptr().cast(), function.0) };
        self.len = usize::try_from(len).unwrap_or(0).min(self.text.len());
    }

    /// The name, what stands behind it (`+OFFSET/SIZE`), and the module's name in brackets; none where
    /// there is no symbol, but an address.
    fn parts(&self) -> Option<(&[u8], &[u8], &[u8])> {
        let text = &self.text[..self.len];
        let plus = text.iter().position(|&byte| byte == b'+')?;
        let space = text.iter().position(|&byte| byte == b' ');
        let (text, module) = text.split_at(space.unwrap_or(text.len()));
        let (name, place) = text.split_at_checked(plus)?;
        Some((name, place, module.trim_ascii()))
    }

    /// The name of a function, and that of its module in brackets, both empty where not known.
    pub(crate) fn name(&mut self, function: Function) -> (&[u8], &[u8]) {
        self.look_up(function);
        self.parts()
            .map_or((b"", b""), |(name, _, module)| (name, module))
    }

    /// What an entry with that function stands for; none if the function can go away with its module.
    fn wakes(&mut self, function: Function) -> Option<Wakes> {
        self.look_up(function);
        let (name, place, module) = self.parts()?;
        if !module.is_empty() {
            return None;
        }
        let whole = place.starts_with(b"+0x0/");
        let known = FUNCTIONS.into_iter().find(|(known, _)| *known == name);
        Some(match known {
            Some((_, wakes)) if whole => wakes,
            _ => Wakes::Other,
        })
    }
}

/// The functions that were met.
pub(crate) struct Functions {
    known: KVec<(Function, Wakes)>,
    new: [Function; MAX_NEW],
    met: usize,
    symbol: KBox<Symbol>,
}

impl Functions {
    /// None yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            known: KVec::with_capacity(MAX_KNOWN, gfp())?,
            new: [Function(0); MAX_NEW],
            met: 0,
            symbol: KBox::new(Symbol::new(), gfp())?,
        })
    }

    /// The name of a function, and of its module.
    pub(crate) fn name(&mut self, function: Function) -> (&[u8], &[u8]) {
        self.symbol.name(function)
    }

    /// What is known; what is not is remembered, to be looked up.
    fn wakes(&mut self, function: Function) -> Wakes {
        if let Some((_, wakes)) = self.known.iter().find(|(known, _)| *known == function) {
            return *wakes;
        }
        if self.met < MAX_NEW && !self.new[..self.met].contains(&function) {
            self.new[self.met] = function;
            self.met += 1;
        }
        Wakes::Other
    }

    /// Looks up what was met. Whether anything was learnt by which an entry can be followed.
    fn learn(&mut self) -> bool {
        let mut learnt = false;
        for &function in &self.new[..self.met] {
            if let Some(wakes) = self.symbol.wakes(function) {
                let room = self.known.push_within_capacity((function, wakes));
                learnt |= room.is_ok() && wakes != Wakes::Other;
            }
        }
        self.met = 0;
        learnt
    }
}

/// An entry as it was when it was looked at: plain values.
pub(crate) struct Waiter {
    pub(crate) wakes: Wakes,
    pub(crate) function: Function,
    /// A wake-up reaches one of those only.
    pub(crate) exclusive: bool,
    pub(crate) state: WaiterState,
    /// The task's name.
    pub(crate) comm: Comm,
}

impl WaiterState {
    /// The id of the ring, or of the socket that is told.
    pub(crate) fn object(&self) -> Id {
        Id::of(ptr::without_provenance::<()>(self.object))
    }
}

/// A wait queue of a socket.
///
/// # Invariants
///
/// It is kept by an open file for `'f`.
pub(crate) struct WaitQueue<'f> {
    head: NonNull<bindings::wait_queue_head>,
    _file: PhantomData<&'f OpenFile>,
}

impl WaitQueue<'_> {
    /// Appends who is in it, as far as there is room and at most `most`, and tells how many there are.
    pub(crate) fn collect(
        &self,
        functions: &mut Functions,
        to: &mut KVVec<Waiter>,
        most: usize,
    ) -> usize {
        let from = to.len();
        loop {
            let found = self.lock().collect(functions, to, most);
            if functions.met == 0 || !functions.learn() {
                return found;
            }
            // Each time around more functions are known, of which there are few.
            to.truncate(from);
        }
    }

    fn lock(&self) -> WaitGuard<'_> {
        // SAFETY: The queue is valid by the type's invariant.
        unsafe { bindings::ravel_wait_lock(self.head.as_ptr()) };
        // INVARIANT: Taken.
        WaitGuard {
            head: self.head,
            _hold: Lock::Wait.begin(),
            _queue: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

/// A wait queue, locked: entries stay in it, and what their functions would wake stays with them.
///
/// # Invariants
///
/// `head.lock` is held by this thread, with interrupts off. The holder must not sleep, and takes no other lock.
struct WaitGuard<'q> {
    head: NonNull<bindings::wait_queue_head>,
    _hold: Hold,
    _queue: PhantomData<&'q ()>,
    _nts: NotThreadSafe,
}

impl WaitGuard<'_> {
    fn collect(&self, functions: &mut Functions, to: &mut KVVec<Waiter>, most: usize) -> usize {
        let mut entry = ptr::null_mut();
        let mut found = 0;
        while found < MAX_WALK {
            // SAFETY: The queue is locked, and `entry` is null or in it.
            entry = unsafe { bindings::ravel_wait_next(self.head.as_ptr(), entry) };
            if entry.is_null() {
                break;
            }
            if found < most {
                // SAFETY: The entry is in the queue, which is locked. There is room, or it is left out.
                let _ = to.push_within_capacity(unsafe { self.look(entry, functions) });
            }
            found += 1;
        }
        found
    }

    /// # Safety
    ///
    /// `entry` is in the queue.
    unsafe fn look(
        &self,
        entry: *mut bindings::wait_queue_entry,
        functions: &mut Functions,
    ) -> Waiter {
        // SAFETY: By the caller.
        let function = Function(unsafe { bindings::ravel_wait_function(entry) });
        let wakes = functions.wakes(function);
        let mut state = WaiterState {
            syscall: bindings::RAVEL_NO_SYSCALL,
            ..Default::default()
        };
        // SAFETY: By the caller. The queue's lock is held, and the entry's function is the one that each of
        // these is for: a wake-up, which could come as soon as the lock is free, would follow it likewise.
        let (exclusive, task) = unsafe {
            let task = match wakes {
                Wakes::Task => bindings::ravel_wait_task(entry, &mut state),
                Wakes::Poll => bindings::ravel_wait_poll(entry, &mut state),
                Wakes::Request => bindings::ravel_wait_request(entry, &mut state),
                Wakes::Relay => {
                    bindings::ravel_wait_relay(entry, &mut state);
                    ptr::null_mut()
                }
                Wakes::Epoll | Wakes::Other => ptr::null_mut(),
            };
            (bindings::ravel_wait_exclusive(entry), task)
        };
        let comm = if task.is_null() {
            Comm::default()
        } else {
            // SAFETY: The entry keeps the task for as long as it is in the queue.
            unsafe { Comm::of(task) }
        };
        Waiter {
            wakes,
            function,
            exclusive,
            state,
            comm,
        }
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::ravel_wait_unlock(self.head.as_ptr()) };
    }
}

/// The wait queues that a socket has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitName {
    /// Those who want something of the socket: data, room to send, a connection.
    Socket,
    /// Unix: those who have something for it, and no room in its receive queue.
    Room,
    /// Those who would use it while somebody else does.
    Lock,
}

impl OpenFile {
    /// One of the wait queues of a socket that this file is.
    pub(crate) fn wait_queue<'f>(
        &'f self,
        socket: &Socket<'f>,
        name: WaitName,
    ) -> Option<WaitQueue<'f>> {
        let sk = socket.as_ptr();
        let is_unix = socket.family() == bindings::AF_UNIX;
        // SAFETY: The file is a valid socket, whose `sk` is `socket`; a unix_sock by its family.
        let head = unsafe {
            match name {
                WaitName::Socket => bindings::ravel_socket_waiters(self.as_ptr()),
                WaitName::Lock => bindings::ravel_lock_waiters(sk),
                WaitName::Room if is_unix => bindings::ravel_unix_room_waiters(sk),
                WaitName::Room => return None,
            }
        };
        // INVARIANT: The queue is part of the socket, which the file keeps.
        NonNull::new(head).map(|head| WaitQueue {
            head,
            _file: PhantomData,
        })
    }

    /// Who is sent signals of what happens to the file.
    pub(crate) fn owner(&self) -> OwnerOfSignals {
        let mut owner = OwnerOfSignals::default();
        // SAFETY: The file is valid by the type's invariant.
        unsafe { bindings::ravel_file_owner(self.as_ptr(), &mut owner) };
        owner
    }
}
