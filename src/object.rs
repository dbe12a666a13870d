// SPDX-License-Identifier: GPL-2.0

//! The kernel's objects, each behind the lock or reference that makes reading it right.
//!
//! All of ravel's `unsafe` is here. What comes out of this layer is either a guard, something borrowed
//! from a guard, or a plain value; what a report does with those cannot go wrong in the kernel's eyes.
//!
//! Locks, in the order they are taken, never two of one kind at once:
//!
//! 1. the target's `mmap_lock`, for reading ([`mm::MmapGuard`])
//! 2. a file's `i_mmap_rwsem`, for reading ([`file_map::FileGuard`])
//! 3. an anon_vma root's `rwsem`, for reading ([`anon_vma::RootGuard`]). No memory is allocated under it or
//!    the one before: reclaim takes them.
//! 4. a page table's lock, within [`page::Entries`]
//! 5. RCU, for the tasks that own other address spaces ([`process::Viewpoint::owner`])
//!
//! and apart from those, never together with one of them: a socket's spinlock, then none
//! ([`socket::SockGuard`]); a queue's lock ([`skb::QueueGuard`]); a wait queue's ([`waiters::WaitQueue`]).
//!
//! Events are written without any lock, from wherever they happen ([`ring`]).

pub(crate) mod anon_vma;
pub(crate) mod debugfs;
pub(crate) mod file_map;
pub(crate) mod hold;
pub(crate) mod id;
mod interval;
pub(crate) mod layout;
pub(crate) mod lineage;
pub(crate) mod mm;
pub(crate) mod netevent;
pub(crate) mod netfilter;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod sharers;
pub(crate) mod skb;
pub(crate) mod socket;
pub(crate) mod source;
pub(crate) mod waiters;
pub(crate) mod waker;

use kernel::{alloc::Flags, prelude::*};

/// How memory that a user asks for is allocated. Where there is none he is told; the kernel log need not be.
pub(crate) fn gfp() -> Flags {
    GFP_KERNEL | __GFP_NOWARN
}
