// SPDX-License-Identifier: GPL-2.0

//! Open files, and a process' table of descriptors.
//!
//! C header: [`include/linux/file.h`](srctree/include/linux/file.h)

use crate::bindings;
use crate::object::{
    net::{descriptors, release, socket::Socket},
    process::{is_exiting, Gone, Process},
    sync::read_once,
};
use core::ptr::NonNull;
use kernel::{prelude::*, sync::aref::ARef, task::Task};

/// A process' open files, in the order of descriptors.
pub(crate) struct Files(ARef<Task>);

impl Files {
    /// Returns the files that a process has now.
    pub(crate) fn of(process: &Process) -> Result<Self, Gone> {
        process.user_thread().map(Self)
    }

    /// Returns whether the thread through which they are reached has begun to exit, and may have
    /// dropped them. Other threads of the process may run on, and have them still.
    pub(crate) fn are_stale(&self) -> bool {
        is_exiting(&self.0)
    }

    /// Returns the first open file whose descriptor is `fd` or above, and its descriptor.
    pub(crate) fn next(&self, mut fd: u32) -> Option<(u32, OpenFile)> {
        OpenFile::next_of(&self.0, &mut fd).map(|file| (fd, file))
    }
}

/// An open file of any process.
///
/// # Invariants
///
/// A reference to it is owned.
pub(crate) struct OpenFile(NonNull<bindings::file>);

/// Identifies an open file among others. It may be closed already, and its address reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileToken(usize);

impl FileToken {
    pub(in crate::object) fn of(file: NonNull<bindings::file>) -> Self {
        Self(file.addr().get())
    }
}

impl OpenFile {
    /// Returns a task's first open file whose descriptor is `fd` or above; `fd` becomes its
    /// descriptor.
    pub(in crate::object) fn next_of(task: &Task, fd: &mut u32) -> Option<Self> {
        descriptors::next_file(task, fd)
    }

    /// # Safety
    ///
    /// A reference to the file is owned, and passes to the result.
    pub(in crate::object) unsafe fn from_raw(file: NonNull<bindings::file>) -> Self {
        // INVARIANT: By the caller.
        Self(file)
    }

    pub(in crate::object) fn as_ptr(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// Returns a token to compare it with others.
    pub(crate) fn token(&self) -> FileToken {
        FileToken::of(self.0)
    }

    /// Returns the number of references to it, without this one.
    pub(crate) fn references(&self) -> usize {
        // SAFETY: The file is valid by the type's invariant.
        unsafe { bindings::file_count(self.0.as_ptr()) as usize }.saturating_sub(1)
    }

    /// Returns the number of its inode.
    pub(crate) fn inode(&self) -> usize {
        // SAFETY: The file is valid by the type's invariant.
        unsafe { (*(*self.0.as_ptr()).f_inode).i_ino as usize }
    }

    /// Returns whether its reads and writes do not wait (`O_NONBLOCK`).
    pub(crate) fn is_nonblocking(&self) -> bool {
        // SAFETY: The file is valid by the type's invariant. fcntl() may change the flag meanwhile.
        let flags = unsafe { read_once!((*self.0.as_ptr()).f_flags) };
        flags & bindings::O_NONBLOCK != 0
    }

    /// Returns the socket behind it, if it is one.
    pub(crate) fn socket(&self) -> Option<Socket<'_>> {
        // SAFETY: The file is valid by the type's invariant.
        let socket = NonNull::new(unsafe { bindings::sock_from_file(self.0.as_ptr()) })?;
        // SAFETY: The reference to the file keeps what sock_from_file() returns, as it does for
        // each system call. That is not always the socket of the file's inode: where SMC falls back
        // to TCP, its inner socket becomes the file's (smc_switch_to_fallback()), and lives until
        // the outer one is released with the file. Therefore the pointer is read once, and
        // everything about the socket is reached through it. `sk` is cleared when the file's last
        // reference is dropped, and may be set after the file exists (accept()).
        let sk = unsafe { read_once!((*socket.as_ptr()).sk) };
        // The kernel crate has an opaque `struct sock`.
        NonNull::new(sk.cast()).map(|sk| {
            // SAFETY: The `struct socket` holds a reference to `sk`, and the file keeps both for
            // the borrow of `self`.
            unsafe { Socket::new(sk, Some(socket)) }
        })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end. Holders of an open file may sleep.
        unsafe { release::put(self.0) };
    }
}
