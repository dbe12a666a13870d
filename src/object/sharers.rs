// SPDX-License-Identifier: GPL-2.0

//! Everyone who holds an open file: tables of descriptors, messages on their way, rings.
//!
//! The kernel counts an open file's references, and keeps no list of who has them. They are found by
//! walking all tasks by number, and the descriptors of each one by one: no lock is held from one to the
//! next, and references, to one task and one more file, only while they are looked at.

use super::{
    gfp,
    hold::Lock,
    id::Id,
    process::{interrupted, pause, Comm},
    socket::OpenFile,
};
use crate::bindings;
use core::ptr::{self, NonNull};
use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task,
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

/// How long a ring may stay in use before it is passed over, in milliseconds.
const PATIENCE: i64 = 100;

/// How many places are remembered in which references were counted.
const MAX_PLACES: usize = 16384;

/// After how many descriptors other tasks get their turn.
const BREATH: usize = 64;

/// How a reference is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// By a descriptor.
    Descriptor,
    /// By messages that a unix socket has received, and nobody has read (SCM_RIGHTS).
    Message,
    /// By an io_uring, as a registered file.
    Ring,
}

/// Who holds references.
pub(crate) struct Sharer {
    /// The process.
    pub(crate) pid: i32,
    /// Its task's name.
    pub(crate) comm: Comm,
    /// The descriptor; or that of the unix socket or ring.
    pub(crate) fd: u32,
    /// The table of descriptors that this one is in.
    pub(crate) table: Id,
    /// How.
    pub(crate) holder: Holder,
    /// References that are counted here. Others have the same table, or the same socket or ring: there
    /// they are told again, and not counted.
    pub(crate) counted: u64,
}

/// What was found, and what was not looked at.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) sharers: KVVec<Sharer>,
    /// References that the sharers hold.
    pub(crate) named: u64,
    /// Tasks, and their descriptors, that were looked at.
    pub(crate) tasks: u64,
    pub(crate) fds: u64,
    /// Sharers past the bound.
    pub(crate) cut: u64,
    /// Rings that were in use, and messages past the bound of a walk.
    pub(crate) missed: u64,
    /// Where references are counted once: tables with the descriptor, and files of sockets and rings.
    counted: KVVec<(usize, u32)>,
}

impl Found {
    fn add(
        &mut self,
        task: &Walked,
        fd: u32,
        holder: Holder,
        place: (usize, u32),
        times: u64,
        most: usize,
    ) -> Result {
        let counted = if self.counted.contains(&place) {
            0
        } else if self.counted.len() == MAX_PLACES {
            // Whether it was counted before could not be told of the next ones.
            self.cut += 1;
            return Ok(());
        } else {
            self.counted.push(place, gfp())?;
            times
        };
        self.named += counted;
        if self.sharers.len() == most {
            self.cut += 1;
            return Ok(());
        }
        let sharer = Sharer {
            pid: task.pid,
            comm: task.comm,
            fd,
            table: Id::of(ptr::without_provenance::<bindings::files_struct>(
                task.files,
            )),
            holder,
            counted,
        };
        Ok(self.sharers.push(sharer, gfp())?)
    }
}

/// A task whose descriptors are looked at.
struct Walked {
    task: ARef<Task>,
    pid: i32,
    comm: Comm,
    files: usize,
}

impl Walked {
    /// The first task from number `nr` on that is worth looking at; `nr` moves behind it.
    fn next(nr: &mut i32) -> Option<Self> {
        loop {
            // SAFETY: `nr` is ours. Nothing is held.
            let task = NonNull::new(unsafe { bindings::ravel_next_task(nr) })?;
            // SAFETY: The reference that was taken passes to the `ARef`; `Task` is transparent.
            let task = unsafe { ARef::<Task>::from_raw(task.cast()) };
            // SAFETY: `task` is a reference.
            let (pid, comm, files) = unsafe {
                (
                    bindings::ravel_task_tgid(task.as_ptr()),
                    Comm::of(task.as_ptr()),
                    bindings::ravel_task_files(task.as_ptr()),
                )
            };
            if files != 0 {
                return Some(Self {
                    task,
                    pid,
                    comm,
                    files,
                });
            }
        }
    }
}

impl OpenFile {
    /// Whether an epoll set watches it; that holds no reference.
    pub(crate) fn is_watched(&self) -> bool {
        // SAFETY: The file is valid by the type's invariant.
        unsafe { bindings::ravel_file_is_watched(self.as_ptr()) }
    }

    /// Looks for everyone who holds it, and tells at most `most` of them.
    ///
    /// `EINTR` on a fatal signal, `ENOMEM`.
    pub(crate) fn sharers(&self, most: usize) -> Result<Found> {
        let mut found = Found::default();
        let mut nr = 1;
        while let Some(task) = Walked::next(&mut nr) {
            found.tasks += 1;
            let mut fd = 0;
            while let Some(file) = OpenFile::next_of(&task.task, &mut fd) {
                found.fds += 1;
                self.look(&mut found, &task, fd, &file, most)?;
                fd += 1;
                if found.fds as usize % BREATH == 0 {
                    pause()?;
                }
            }
        }
        if interrupted() {
            return Err(EINTR);
        }
        Ok(found)
    }

    /// Looks whether a task's file is this one, or holds it.
    fn look(
        &self,
        found: &mut Found,
        task: &Walked,
        fd: u32,
        file: &OpenFile,
        most: usize,
    ) -> Result {
        if file.as_ptr() == self.as_ptr() {
            let place = (task.files, fd);
            found.add(task, fd, Holder::Descriptor, place, 1, most)?;
        }
        let mut missed = 0;
        let hold = Lock::Queue.begin();
        // SAFETY: Both files are valid by the type's invariant.
        let messages =
            unsafe { bindings::ravel_unix_messages(file.as_ptr(), self.as_ptr(), &mut missed) };
        drop(hold);
        found.missed += u64::from(missed);
        let place = (file.as_ptr().addr(), u32::MAX);
        if messages > 0 {
            found.add(task, fd, Holder::Message, place, messages.into(), most)?;
        }
        // SAFETY: The file is valid by the type's invariant.
        if unsafe { bindings::ravel_file_is_ring(file.as_ptr()) } {
            match self.slots(file)? {
                Some(0) => {}
                Some(slots) => found.add(task, fd, Holder::Ring, place, slots, most)?,
                None => found.missed += 1,
            }
        }
        Ok(())
    }

    /// How often a ring has this file registered; none if somebody keeps using the ring.
    fn slots(&self, ring: &OpenFile) -> Result<Option<u64>> {
        let since = Instant::<Monotonic>::now();
        loop {
            // SAFETY: Both files are valid by the type's invariant, and `ring` is a ring.
            let slots = unsafe { bindings::ravel_ring_slots(ring.as_ptr(), self.as_ptr()) };
            if let Ok(slots) = u64::try_from(slots) {
                return Ok(Some(slots));
            }
            if interrupted() {
                return Err(EINTR);
            }
            if since.elapsed().as_millis() >= PATIENCE {
                return Ok(None);
            }
            fsleep(Delta::from_micros(100));
        }
    }
}
