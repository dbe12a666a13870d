// SPDX-License-Identifier: GPL-2.0

//! Tables of descriptors.
//!
//! A table is walked in short holds of its locks, `task_lock()` of a task that uses it, then
//! `file_lock`. An entry cannot be closed meanwhile, so that its file is looked at without a
//! reference to it: who closes it waits for a few entries at most, and is then the one who releases
//! it.
//!
//! C header: [`include/linux/fdtable.h`](srctree/include/linux/fdtable.h)

use crate::bindings;
use crate::object::{
    net::socket::{FileToken, OpenFile},
    sync::hold::{Hold, Lock},
    sync::read_once,
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{task::Task, types::NotThreadSafe};

/// The most words of the bitmap of open descriptors, and open descriptors, that one hold covers.
const MAX_STEPS: usize = 256;

/// How far a walk over a table is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::object) enum Progress {
    /// There may be more descriptors.
    More,
    /// There are no more.
    End,
    /// The task has no table.
    NoTable,
}

/// A task's table of descriptors, locked.
///
/// # Invariants
///
/// `task_lock()` of the task and the table's `file_lock` are held by this thread; the table is the
/// task's. The holder must not sleep.
pub(in crate::object) struct TableGuard<'t> {
    task: &'t Task,
    files: NonNull<bindings::files_struct>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'t> TableGuard<'t> {
    fn lock(task: &'t Task) -> Option<Self> {
        // SAFETY: `task` is a reference. Its `files` changes under task_lock() alone, and is a
        // reference of the task's, which keeps the table while that is held. The locks nest as in
        // update_classid_task().
        unsafe {
            let task_lock = &raw mut (*task.as_ptr()).alloc_lock;
            bindings::spin_lock(task_lock);
            let Some(files) = NonNull::new((*task.as_ptr()).files) else {
                bindings::spin_unlock(task_lock);
                return None;
            };
            let hold = Lock::Descriptors.begin();
            bindings::spin_lock(&raw mut (*files.as_ptr()).file_lock);
            // INVARIANT: Both were just taken.
            Some(Self {
                task,
                files,
                _hold: hold,
                _nts: NotThreadSafe,
            })
        }
    }

    /// Returns the first descriptor from `next` on, with its file, and moves `next` behind it.
    /// `steps` counts down.
    fn next(&self, next: &mut u32, steps: &mut usize) -> Result<TableFile<'_>, Progress> {
        const BITS: u32 = usize::BITS;

        // SAFETY: `file_lock` is held, by the type's invariant: the table is not replaced by a
        // larger one, and no file is taken out of it. One may be put in, with a release store
        // (fd_install()).
        let (fdt, max) = unsafe {
            let fdt = read_once!((*self.files.as_ptr()).fdt);
            (fdt, (*fdt).max_fds)
        };
        while *next < max {
            if *steps == 0 {
                return Err(Progress::More);
            }
            *steps = steps.saturating_sub(1);
            // SAFETY: As above. The bitmap has a bit for each of `max` entries, which fill whole
            // words.
            let word = unsafe { read_once!(*(*fdt).open_fds.add((*next / BITS) as usize)) };
            let ahead = word >> (*next % BITS);
            if ahead == 0 {
                *next = (*next / BITS).saturating_add(1).saturating_mul(BITS);
                continue;
            }
            let fd = next.saturating_add(ahead.trailing_zeros());
            *next = fd.saturating_add(1);
            // SAFETY: As above. `fd` is below `max`.
            let file = unsafe { read_once!(*(*fdt).fd.add(fd as usize)) };
            // A descriptor that is being opened has no file yet.
            if let Some(file) = NonNull::new(file) {
                // INVARIANT: The guard keeps the entry.
                return Ok(TableFile {
                    fd,
                    file,
                    table: self.files.addr().get(),
                    _guard: PhantomData,
                });
            }
        }
        Err(Progress::End)
    }
}

impl Drop for TableGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: Both locks are held by the type's invariant.
        unsafe {
            bindings::spin_unlock(&raw mut (*self.files.as_ptr()).file_lock);
            bindings::spin_unlock(&raw mut (*self.task.as_ptr()).alloc_lock);
        }
    }
}

/// A file in a table that is locked.
///
/// # Invariants
///
/// The table's entry, which is a reference, keeps the file for `'g`.
pub(in crate::object) struct TableFile<'g> {
    /// The descriptor.
    pub(in crate::object) fd: u32,
    /// The table's address, to be named and compared, not followed.
    pub(in crate::object) table: usize,
    file: NonNull<bindings::file>,
    _guard: PhantomData<&'g ()>,
}

impl TableFile<'_> {
    pub(in crate::object) fn as_ptr(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// Which open file it is.
    pub(in crate::object) fn token(&self) -> FileToken {
        FileToken::of(self.file)
    }

    /// Takes a reference.
    fn get(&self) -> OpenFile {
        // SAFETY: The table's entry keeps the file by the type's invariant. The reference taken
        // passes to the result.
        unsafe {
            bindings::get_file(self.file.as_ptr());
            OpenFile::from_raw(self.file)
        }
    }
}

/// Shows the open files of a task to `each`, from the descriptor `next` on, which moves behind the
/// last that was shown, until that returns false or the hold was long enough.
///
/// `each` runs under the table's locks: it must not sleep.
pub(in crate::object) fn visit(
    task: &Task,
    next: &mut u32,
    mut each: impl FnMut(&TableFile<'_>) -> bool,
) -> Progress {
    let Some(guard) = TableGuard::lock(task) else {
        return Progress::NoTable;
    };
    let mut steps = MAX_STEPS;
    loop {
        match guard.next(next, &mut steps) {
            Ok(file) if each(&file) => {}
            Ok(_) => return Progress::More,
            Err(progress) => return progress,
        }
    }
}

/// Returns a task's first open file whose descriptor is `fd` or above; `fd` becomes its descriptor.
pub(in crate::object) fn next_file(task: &Task, fd: &mut u32) -> Option<OpenFile> {
    let mut next = *fd;
    loop {
        let mut found = None;
        let progress = visit(task, &mut next, |file| {
            *fd = file.fd;
            found = Some(file.get());
            false
        });
        match (found, progress) {
            (Some(file), _) => return Some(file),
            // SAFETY: No lock is held here, and callers may sleep: they release files.
            (None, Progress::More) => unsafe { bindings::cond_resched() },
            (None, _) => return None,
        }
    }
}
