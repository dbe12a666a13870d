// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of the kernel, found by name, and the probes that hang on them while a stream asks for it.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use super::{
    gfp,
    process::Process,
    ring::{Filter, Sink},
};
use crate::bindings;
use core::{ffi::c_void, ptr::NonNull};
use kernel::{error::to_result, prelude::*, str::CStrExt, sync::Arc};

/// Where events come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A process made another.
    Fork,
    /// A process began another program.
    Exec,
    /// A process ended.
    Exit,
}

impl Source {
    /// All of them.
    pub(crate) const ALL: [Self; bindings::RAVEL_EVENT_KINDS as usize] =
        [Self::Fork, Self::Exec, Self::Exit];

    /// Its name, and its events'.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Exec => "exec",
            Self::Exit => "exit",
        }
    }

    /// The source of that name.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|source| source.name().as_bytes() == name)
    }

    /// The tracepoint that it needs.
    pub(crate) fn tracepoint(self) -> &'static CStr {
        match self {
            Self::Fork => c"sched_process_fork",
            Self::Exec => c"sched_process_exec",
            Self::Exit => c"sched_process_exit",
        }
    }

    /// The kind of its events.
    pub(crate) fn kind(self) -> u32 {
        match self {
            Self::Fork => bindings::RAVEL_EVENT_FORK,
            Self::Exec => bindings::RAVEL_EVENT_EXEC,
            Self::Exit => bindings::RAVEL_EVENT_EXIT,
        }
    }

    /// Whether this kernel has its tracepoint.
    pub(crate) fn is_there(self) -> bool {
        self.find().is_some()
    }

    fn find(self) -> Option<NonNull<c_void>> {
        // SAFETY: The name is a string. Found are tracepoints of the kernel proper, which stay.
        NonNull::new(unsafe { bindings::ravel_tracepoint(self.tracepoint().as_char_ptr()) })
    }
}

/// The probes of a sink. Once this is dropped, none of them runs any more.
///
/// # Invariants
///
/// Each probe is registered with `sink`, which is kept.
pub(crate) struct Probes {
    probes: KVec<(NonNull<c_void>, u32)>,
    sink: Arc<Sink>,
}

// SAFETY: Tracepoints are locked by the kernel, and probes may be unregistered from any thread.
unsafe impl Send for Probes {}

impl Probes {
    /// Has a sink told of its kinds of events from now on.
    ///
    /// Where its filter is a tree, `root` is that tree's: the processes that descend from it now are put in.
    /// `EOPNOTSUPP` where the kernel lacks a tracepoint.
    pub(crate) fn new(sink: Arc<Sink>, root: Option<&Process>) -> Result<Self> {
        let mut all = Self {
            probes: KVec::with_capacity(Source::ALL.len(), gfp())?,
            sink,
        };
        for source in Source::ALL {
            // Forks tell what becomes of process numbers.
            let filters = source == Source::Fork && !matches!(all.sink.filter(), Filter::All);
            if all.sink.has_kind(source.kind()) || filters {
                all.add(source)?;
            }
            if let (true, Filter::Tree(pids), Some(root)) = (filters, all.sink.filter(), root) {
                // Forks are watched by now, so who is made meanwhile is not missed.
                pids.set(root.nr() as u32, true);
                root.mark_descendants(pids);
            }
        }
        Ok(all)
    }

    fn add(&mut self, source: Source) -> Result {
        let tracepoint = source.find().ok_or(EOPNOTSUPP)?;
        let kind = source.kind();
        self.probes.reserve(1, gfp())?;
        let sink = Arc::as_ptr(&self.sink).cast_mut().cast();
        // SAFETY: The tracepoint is one of this kind, and stays. The sink lives until the probe is unregistered
        // and waited for.
        to_result(unsafe { bindings::ravel_probe_register(tracepoint.as_ptr(), kind, sink) })?;
        // INVARIANT: Just registered.
        Ok(self.probes.push((tracepoint, kind), gfp())?)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        let sink: *mut c_void = Arc::as_ptr(&self.sink).cast_mut().cast();
        for (tracepoint, kind) in &self.probes {
            // SAFETY: By the type's invariant.
            unsafe { bindings::ravel_probe_unregister(tracepoint.as_ptr(), *kind, sink) };
        }
        // SAFETY: May sleep, and may be called at any time.
        unsafe { bindings::ravel_probe_synchronize() };
    }
}
