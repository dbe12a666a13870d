// SPDX-License-Identifier: GPL-2.0

//! The kernel's objects, each behind the lock or reference that makes reading it right.
//!
//! All of ravel's `unsafe` is here. What comes out of this layer is either a guard, something
//! borrowed from a guard, or a plain value; what a report does with those cannot go wrong in the
//! kernel's eyes.
//!
//! Locks, in the order they are taken, never two of one kind at once:
//!
//! 1. a VMA's lock, for reading ([`memory::address_space::VmaGuard`]), after the target's
//!    `mmap_lock`, for reading, if it cannot be found without
//! 2. a file's `i_mmap_rwsem`, for reading ([`memory::file_map::FileGuard`])
//! 3. an anon_vma root's `rwsem`, for reading ([`memory::anon_vma::RootGuard`]). No memory is
//!    allocated under it or those before: reclaim takes 2 and 3, and who waits for reclaim would
//!    make the target wait for 1.
//! 4. a page table's lock, within [`memory::page::Entries`]
//! 5. RCU, for the tasks that own other address spaces ([`process::Viewpoint::owner`])
//!
//! and apart from those, never together with one of them:
//!
//! 1. a socket's spinlock ([`net::socket::SockGuard`]), or a unix socket's state lock
//!    ([`net::unix::UnixGuard`])
//! 2. within it the lock of its accept queue ([`net::accept::AcceptQueue`]) or of a queue of
//!    sk_buffs ([`net::skb::QueueGuard`]); of UDP, the reader queue's, and within that the receive
//!    queue's ([`net::udp::UdpQueues`])
//!
//! and apart from those, a wait queue's lock ([`net::waiters::WaitQueue`]); a task's `alloc_lock`
//! (`task_lock()`), then the `file_lock` of its table of descriptors
//! ([`net::descriptors::TableGuard`]); an io_uring's `uring_lock` (in [`net::sharers`]); a unix
//! listener's queue lock, then those of its connections, one after the other (likewise).
//!
//! Events are written without any lock, from wherever they happen ([`trace::ring`]).
//!
//! The kernel checks Rust's arithmetic for overflow, and panics on one
//! (`CONFIG_RUST_OVERFLOW_CHECKS`). What is read here may be changing meanwhile, so arithmetic
//! wraps, saturates or is checked.

#![deny(clippy::arithmetic_side_effects)]

pub(crate) mod bytes;
pub(crate) mod compat;
pub(crate) mod debugfs;
pub(crate) mod layout;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod sync;
pub(crate) mod trace;

use kernel::{alloc::Flags, prelude::*};

/// How memory that a user asks for is allocated: charged to the user's cgroup. A failure is
/// reported to the user, and not in the kernel log.
pub(crate) fn gfp() -> Flags {
    GFP_KERNEL_ACCOUNT | __GFP_NOWARN
}
