// SPDX-License-Identifier: GPL-2.0

//! The wait queues of sockets, and the owners of their signals.
//!
//! An entry of a wait queue lies where the waiter has put it, mostly on its stack, and stays while
//! the queue is locked. What it leads to depends on the function that wakes it. Nothing exports
//! most of those functions, but kallsyms knows their names: an address that is seen for the first
//! time is looked up after the queue was unlocked, and the queue is then walked again. An entry is
//! followed only if its function is known, and part of the kernel proper, which stays.
//!
//! C headers: [`include/linux/wait.h`](srctree/include/linux/wait.h),
//! [`include/linux/poll.h`](srctree/include/linux/poll.h)

mod entry;

use crate::bindings;
use crate::object::{
    gfp,
    net::socket::{Kind, OpenFile, Socket},
    sync::hold::{Hold, Lock},
    sync::read_once,
};
use core::{marker::PhantomData, mem::offset_of, ptr::NonNull};
use kernel::{prelude::*, sync::rcu, types::NotThreadSafe};

pub(crate) use entry::{Sleeper, Target, Waiter};

/// How many entries of a queue are looked at in one hold of its lock, as each wake-up does with
/// all.
const MAX_WALK: usize = 16384;

/// How many functions are remembered.
const MAX_KNOWN: usize = 32;

/// How many functions can be seen for the first time in one walk.
const MAX_NEW: usize = 8;

/// What an entry stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// A task that sleeps in the kernel.
    Task,
    /// A task in select() or poll().
    Poll,
    /// An epoll set.
    Epoll,
    /// A request of an io_uring.
    Request,
    /// The pollers of a unix socket that is connected to this one.
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

/// Room for a symbol with its offset, size and module.
const SYMBOL_LEN: usize = bindings::RAVEL_KSYM_SYMBOL_LEN as usize;

/// The text of a symbol, as kallsyms prints it.
pub(crate) struct Symbol {
    text: [u8; SYMBOL_LEN],
    len: usize,
}

impl Symbol {
    /// Makes room for one.
    pub(crate) const fn new() -> Self {
        Self {
            text: [0; SYMBOL_LEN],
            len: 0,
        }
    }

    fn look_up(&mut self, function: Function) {
        // SAFETY: The longest symbol fits. An address is looked up, and not followed.
        let len = unsafe { bindings::sprint_symbol(self.text.as_mut_ptr().cast(), function.0) };
        self.len = usize::try_from(len).unwrap_or(0).min(self.text.len());
    }

    /// The name, what stands behind it (`+OFFSET/SIZE`), and the module's name in brackets; none
    /// where there is no symbol, but an address.
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

    /// What an entry with that function stands for; none if the function can go away with its
    /// module.
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

/// The functions that were seen.
pub(crate) struct Functions {
    known: KVec<(Function, Wakes)>,
    new: [Function; MAX_NEW],
    seen: usize,
    symbol: KBox<Symbol>,
}

impl Functions {
    /// Makes room for them.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            known: KVec::with_capacity(MAX_KNOWN, gfp())?,
            new: [Function(0); MAX_NEW],
            seen: 0,
            symbol: KBox::new(Symbol::new(), gfp())?,
        })
    }

    /// Returns the name of a function, and of its module.
    pub(crate) fn name(&mut self, function: Function) -> (&[u8], &[u8]) {
        self.symbol.name(function)
    }

    /// Returns what is known; what is not is remembered, to be looked up.
    fn wakes(&mut self, function: Function) -> Wakes {
        if let Some((_, wakes)) = self.known.iter().find(|(known, _)| *known == function) {
            return *wakes;
        }
        if self.seen < MAX_NEW && !self.new[..self.seen].contains(&function) {
            self.new[self.seen] = function;
            self.seen = self.seen.saturating_add(1);
        }
        Wakes::Other
    }

    /// Looks up what was seen. Returns whether that lets an entry be followed.
    fn learn(&mut self) -> bool {
        let mut learnt = false;
        for &function in &self.new[..self.seen] {
            if let Some(wakes) = self.symbol.wakes(function) {
                let room = self.known.push_within_capacity((function, wakes));
                learnt |= room.is_ok() && wakes != Wakes::Other;
            }
        }
        self.seen = 0;
        learnt
    }
}

/// A wait queue of a socket.
///
/// # Invariants
///
/// An open file keeps it for `'f`.
pub(crate) struct WaitQueue<'f> {
    head: NonNull<bindings::wait_queue_head>,
    _file: PhantomData<&'f OpenFile>,
}

impl WaitQueue<'_> {
    /// Appends its entries, as far as there is room and at most `most`, and returns how many there
    /// are.
    pub(crate) fn collect(
        &self,
        functions: &mut Functions,
        to: &mut KVVec<Waiter>,
        most: usize,
    ) -> usize {
        let from = to.len();
        loop {
            let found = self.lock().collect(functions, to, most);
            if functions.seen == 0 || !functions.learn() {
                return found;
            }
            // Each time around more functions are known, of which there are few.
            to.truncate(from);
        }
    }

    fn lock(&self) -> WaitGuard<'_> {
        // SAFETY: The queue is valid by the type's invariant.
        // Wake-ups come from interrupts, too, which are on here.
        unsafe { bindings::spin_lock_irq(&raw mut (*self.head.as_ptr()).lock) };
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
/// `head.lock` is held by this thread, with interrupts off. The holder must not sleep, and takes no
/// other lock.
struct WaitGuard<'q> {
    head: NonNull<bindings::wait_queue_head>,
    _hold: Hold,
    _queue: PhantomData<&'q ()>,
    _nts: NotThreadSafe,
}

impl WaitGuard<'_> {
    fn collect(&self, functions: &mut Functions, to: &mut KVVec<Waiter>, most: usize) -> usize {
        let mut found = 0;
        for entry in self.entries().take(MAX_WALK) {
            if found < most {
                // SAFETY: The entry is in the queue, which is locked.
                let waiter = unsafe { entry::read(entry, functions) };
                // There is room, or it is left out.
                let _ = to.push_within_capacity(waiter);
            }
            found = found.saturating_add(1);
        }
        found
    }

    fn entries(&self) -> impl Iterator<Item = NonNull<bindings::wait_queue_entry>> + '_ {
        // SAFETY: The queue is locked, by the type's invariant.
        let (head, mut next) = unsafe {
            let head = &raw mut (*self.head.as_ptr()).head;
            (head, (*head).next)
        };
        core::iter::from_fn(move || {
            if next == head {
                return None;
            }
            let entry = next.wrapping_byte_sub(offset_of!(bindings::wait_queue_entry, entry));
            // SAFETY: The queue is locked, and `next` in it.
            next = unsafe { (*next).next };
            NonNull::new(entry.cast())
        })
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::spin_unlock_irq(&raw mut (*self.head.as_ptr()).lock) };
    }
}

/// The wait queues that a socket has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitName {
    /// Waiters for something of the socket: data, room to send, a connection.
    Socket,
    /// Unix: waiters for room in its receive queue.
    Room,
    /// Waiters for its lock, while somebody else uses it.
    Lock,
}

impl<'f> Socket<'f> {
    /// Returns one of its wait queues; none where it has no such queue, or no file.
    pub(crate) fn wait_queue(&self, name: WaitName) -> Option<WaitQueue<'f>> {
        let sk = self.as_ptr();
        // SAFETY: The socket and what a file has of it are valid for `'f`; only a unix socket is a
        // unix_sock.
        let head = unsafe {
            match name {
                WaitName::Socket => &raw mut (*self.socket()?.as_ptr()).wq.wait,
                WaitName::Lock => bindings::sock_lock_waiters(sk),
                WaitName::Room if self.kind() == Kind::Unix => {
                    &raw mut (*sk.cast::<bindings::unix_sock>()).peer_wq.wait
                }
                WaitName::Room => return None,
            }
        };
        // INVARIANT: The queue is part of the socket, which is kept for `'f`.
        NonNull::new(head).map(|head| WaitQueue {
            head,
            _file: PhantomData,
        })
    }
}

impl OpenFile {
    /// Returns what is sent signals of the file, as f_getown() does, but by numbers of the initial
    /// pid namespace.
    pub(crate) fn owner(&self) -> SignalOwner {
        let file = self.as_ptr();
        // SAFETY: The file is valid by the type's invariant, and keeps its owner, whose lock guards
        // the pid.
        unsafe {
            let mut owner = SignalOwner {
                is_async: read_once!((*file).f_flags) & bindings::FASYNC != 0,
                ..Default::default()
            };
            let Some(of) = NonNull::new(read_once!((*file).f_owner)) else {
                return owner;
            };
            let of = of.as_ptr();
            owner.signal = read_once!((*of).signum) as u32;
            bindings::read_lock_irq(&raw mut (*of).lock);
            let pid = (*of).pid;
            if !pid.is_null() {
                let rcu = rcu::read_lock();
                if !bindings::pid_task(pid, (*of).pid_type).is_null() {
                    owner.pid = bindings::pid_nr_ns(pid, &raw mut bindings::init_pid_ns);
                }
                drop(rcu);
                owner.kind = match (*of).pid_type {
                    bindings::pid_type_PIDTYPE_PID => OwnerKind::Thread,
                    bindings::pid_type_PIDTYPE_PGID => OwnerKind::Group,
                    _ => OwnerKind::Process,
                };
            }
            bindings::read_unlock_irq(&raw mut (*of).lock);
            owner
        }
    }
}

/// What fcntl(F_SETOWN) named.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OwnerKind {
    #[default]
    None,
    Thread,
    Process,
    Group,
}

/// What is sent signals of a file.
#[derive(Clone, Copy, Default)]
pub(crate) struct SignalOwner {
    /// 0: none, or it has exited.
    pub(crate) pid: i32,
    /// 0: SIGIO.
    pub(crate) signal: u32,
    pub(crate) kind: OwnerKind,
    /// `O_ASYNC`.
    pub(crate) is_async: bool,
}
