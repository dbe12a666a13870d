// SPDX-License-Identifier: GPL-2.0

//! Every holder of an open file: tables of descriptors, messages in unix sockets, rings.
//!
//! The kernel counts an open file's references, and keeps no list of their holders. They are found
//! by walking all tasks by number, and the descriptors of each. No file is kept open for that: they
//! are looked at under the locks of their table, and a unix socket or a ring, which takes longer,
//! by a reference that does not keep it open.
//!
//! The file that is asked for is kept, so that its address names no other one. The walk ends when
//! nobody else has it.

mod messages;
mod registered;

use crate::bindings;
use crate::object::{
    gfp,
    net::{
        descriptors::{visit, Progress, TableFile},
        socket::{FileToken, OpenFile},
    },
    process::{pause, Comm},
    sync::id::Id,
    sync::read_once,
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu, SetOnce},
    task::Task,
};
use messages::UnixSocket;
use registered::Ring;

/// The most places of references that are remembered, so that each is counted once.
const MAX_PLACES: usize = 16384;

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

/// A holder of references.
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
    /// References that are counted here. Others have the same table, or the same socket or ring:
    /// there they are reported again, and not counted.
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
    /// Where references are counted once: tables with the descriptor, and unix sockets and rings.
    /// Sorted.
    counted: KVVec<(usize, u32)>,
}

impl Found {
    /// Adds a sharer, and at most `most` of them.
    fn add(
        &mut self,
        by: &Place<'_>,
        holder: Holder,
        place: (usize, u32),
        times: u64,
        most: usize,
    ) -> Result {
        let at = self.counted.partition_point(|other| *other < place);
        let counted = if self.counted.get(at) == Some(&place) {
            0
        } else if self.counted.len() == MAX_PLACES {
            // Whether the next ones were counted before could not be known.
            self.cut = self.cut.saturating_add(1);
            return Ok(());
        } else {
            self.counted.push(place, gfp())?;
            self.counted[at..].rotate_right(1);
            times
        };
        self.named = self.named.saturating_add(counted);
        if self.sharers.len() == most {
            self.cut = self.cut.saturating_add(1);
            return Ok(());
        }
        let sharer = Sharer {
            pid: by.task.pid,
            comm: by.task.comm,
            fd: by.fd,
            table: Id::of(ptr::without_provenance::<bindings::files_struct>(by.table)),
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
}

/// A descriptor.
struct Place<'t> {
    task: &'t Walked,
    fd: u32,
    table: usize,
}

impl Walked {
    /// Returns the first task from number `nr` on whose table its main thread has not shown, or will
    /// not show; `nr` moves behind it.
    ///
    /// `EINTR` on a fatal signal.
    fn next(nr: &mut i32) -> Result<Option<Self>> {
        loop {
            {
                let _rcu = rcu::read_lock();
                // SAFETY: RCU, which is held, keeps the pid and its task. The initial namespace is
                // never freed.
                unsafe {
                    let initial = &raw mut bindings::init_pid_ns;
                    let pid = bindings::find_ge_pid(*nr, initial);
                    if pid.is_null() {
                        return Ok(None);
                    }
                    *nr = bindings::pid_nr_ns(pid, initial).saturating_add(1);
                    let task = bindings::pid_task(pid, bindings::pid_type_PIDTYPE_PID);
                    if let Some(task) = NonNull::new(task).filter(|task| is_to_be_looked_at(*task))
                    {
                        bindings::get_task_struct(task.as_ptr());
                        return Ok(Some(Self {
                            pid: (*task.as_ptr()).tgid,
                            comm: Comm::of(task.as_ptr()),
                            // The reference passes to the `ARef`; `Task` is transparent.
                            task: ARef::from_raw(task.cast()),
                        }));
                    }
                }
            }
            pause()?;
        }
    }
}

/// Returns whether a task has a table of descriptors that the walk may not have seen: any but a
/// thread whose main thread came before it with the same table. A task that exits keeps its table
/// for as long as it takes to free its memory (do_exit() calls exit_mm() before exit_files()), and a
/// main thread that exits while it is looked at leaves its table to the other threads.
///
/// # Safety
///
/// RCU keeps the task.
unsafe fn is_to_be_looked_at(task: NonNull<bindings::task_struct>) -> bool {
    let task = task.as_ptr();
    // SAFETY: RCU keeps the task, by the caller, and its main thread. The tables are compared, not
    // followed.
    unsafe {
        if read_once!((*task).flags) & bindings::PF_KTHREAD != 0 {
            return false;
        }
        let leader = read_once!((*task).group_leader);
        leader == task
            || read_once!((*leader).flags) & bindings::PF_EXITING != 0
            || read_once!((*leader).pid) > read_once!((*task).pid)
            || read_once!((*task).files) != read_once!((*leader).files)
    }
}

/// What a descriptor has to do with the file that is asked for.
struct Hit {
    fd: u32,
    table: usize,
    /// It is that file.
    is_wanted: bool,
    /// It is a unix socket that may have messages.
    socket: Option<UnixSocket>,
    /// It is a ring.
    ring: Option<Ring>,
}

impl Hit {
    /// The table is locked.
    fn of(file: &TableFile<'_>, wanted: FileToken) -> Option<Self> {
        let hit = Self {
            fd: file.fd,
            table: file.table,
            is_wanted: file.token() == wanted,
            socket: UnixSocket::of(file),
            ring: Ring::of(file),
        };
        (hit.is_wanted || hit.socket.is_some() || hit.ring.is_some()).then_some(hit)
    }
}

/// The files that readers ask for, with the number of those readers, each of which has a reference.
type Asked = KVVec<(FileToken, usize)>;

kernel::sync::global_lock! {
    // SAFETY: Initialized in the module's init function.
    unsafe(uninit) static ASKED: Mutex<Asked> = KVVec::new();
}

static INITIALIZED: SetOnce<()> = SetOnce::new();

/// Initializes the lock of what readers ask for. Comes before the first of them.
pub(crate) fn init() {
    if INITIALIZED.populate(()) {
        // SAFETY: Only the first call is here, and nothing was asked for yet.
        unsafe { ASKED.init() };
    }
}

/// An open file whose holders are looked for.
pub(crate) struct Wanted {
    /// Released while the list of what is asked for is locked, so that no other reader takes the
    /// reference for somebody else's.
    file: ManuallyDrop<OpenFile>,
}

impl Wanted {
    /// Keeps the file.
    pub(crate) fn new(file: OpenFile) -> Result<Self> {
        let token = file.token();
        let mut asked = ASKED.lock();
        match asked.iter_mut().find(|(other, _)| *other == token) {
            Some((_, readers)) => *readers = readers.saturating_add(1),
            None => asked.push((token, 1), gfp())?,
        }
        Ok(Self {
            file: ManuallyDrop::new(file),
        })
    }

    /// References to it, those of readers that ask for it left out.
    pub(crate) fn references(&self) -> usize {
        let token = self.file.token();
        let asked = ASKED.lock();
        let readers = asked.iter().find(|(other, _)| *other == token);
        let own = readers.map_or(1, |(_, readers)| *readers);
        // References() leaves one of them out.
        self.file.references().saturating_add(1).saturating_sub(own)
    }

    /// Looks for every holder, and returns at most `most` of them. Ends when there is none any
    /// more.
    ///
    /// `EINTR` on a fatal signal, `ENOMEM`.
    pub(crate) fn sharers(&self, most: usize) -> Result<Found> {
        let mut found = Found::default();
        let mut nr = 1;
        while let Some(task) = Walked::next(&mut nr)? {
            if !self.visit(&mut found, &task, most)? {
                break;
            }
        }
        Ok(found)
    }

    /// Looks at all descriptors of a task. False: nobody else has the file any more.
    fn visit(&self, found: &mut Found, task: &Walked, most: usize) -> Result<bool> {
        let wanted = self.file.token();
        let mut next = 0;
        let mut first = true;
        loop {
            let mut hit = None;
            let progress = visit(&task.task, &mut next, |file| {
                found.fds = found.fds.saturating_add(1);
                hit = Hit::of(file, wanted);
                hit.is_none()
            });
            found.tasks = found
                .tasks
                .saturating_add(u64::from(first && progress != Progress::NoTable));
            first = false;
            if let Some(hit) = hit {
                self.look(found, task, hit, most)?;
            }
            pause()?;
            if self.references() == 0 {
                return Ok(false);
            }
            if progress != Progress::More {
                return Ok(true);
            }
        }
    }

    /// Counts the references of one descriptor's file, and of what it holds.
    fn look(&self, found: &mut Found, task: &Walked, hit: Hit, most: usize) -> Result {
        let by = Place {
            task,
            fd: hit.fd,
            table: hit.table,
        };
        if hit.is_wanted {
            let place = (hit.table, hit.fd);
            found.add(&by, Holder::Descriptor, place, 1, most)?;
        }
        if let Some(socket) = hit.socket {
            let messages = socket.count(self.file.token());
            found.missed = found.missed.saturating_add(u64::from(messages.missed));
            if messages.found > 0 {
                let place = (socket.address(), u32::MAX);
                found.add(&by, Holder::Message, place, messages.found, most)?;
            }
        }
        if let Some(ring) = hit.ring {
            match ring.count(self)? {
                Some(0) => {}
                Some(slots) => {
                    let place = (ring.address(), u32::MAX);
                    found.add(&by, Holder::Ring, place, slots, most)?;
                }
                None => found.missed = found.missed.saturating_add(1),
            }
        }
        Ok(())
    }
}

impl Deref for Wanted {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.file
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let token = self.file.token();
        let mut asked = ASKED.lock();
        if let Some(at) = asked.iter().position(|(other, _)| *other == token) {
            asked[at].1 = asked[at].1.saturating_sub(1);
            if asked[at].1 == 0 {
                let _ = asked.remove(at);
            }
        }
        // SAFETY: It is not used any more.
        unsafe { ManuallyDrop::drop(&mut self.file) };
        if asked.is_empty() {
            *asked = KVVec::new();
        }
    }
}

impl OpenFile {
    /// Whether an epoll set watches it; that holds no reference.
    pub(crate) fn is_watched(&self) -> bool {
        let file = self.as_ptr();
        // SAFETY: The file is valid by the type's invariant, and `f_lock` guards the list of its
        // epoll sets.
        unsafe {
            bindings::spin_lock(&raw mut (*file).f_lock);
            let sets = read_once!((*file).f_ep);
            let watched = !sets.is_null() && !(*sets).first.is_null();
            bindings::spin_unlock(&raw mut (*file).f_lock);
            watched
        }
    }
}
