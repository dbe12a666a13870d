// SPDX-License-Identifier: GPL-2.0

//! Reports: what ravel says of a process, as the text that `report/FORMAT.md` describes.
//!
//! A report is made in chunks while it is read. Plain values are collected under the locks, the locks are
//! dropped, and only then is text made of them, no more at once than [`CHUNK_TEXT`].

#![deny(unsafe_code)]

mod buffer;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod stream;
pub(crate) mod text;

pub(crate) use crate::object::gfp;
use crate::{
    bindings,
    object::{
        layout::kernel_release,
        process::{interrupted, Comm, Gone, Owner, OwnerState, Process, Relation},
        sync::id::Id,
    },
    records::{self, common, common::ReportName, Str},
};
use core::ops::Range;
use kernel::{alloc::AllocError, prelude::*, sync::Arc};
use memory::{anon_vma, chains, cow, page};
use net::{sharers, skbs, sockets, sockets::Detail, waiters};
use process::lineage;
use text::Text;

/// The version of the format that FORMAT.md describes.
pub(crate) const FORMAT: u64 = 1;

/// The module's version, as modinfo shows it.
pub(crate) fn version() -> &'static [u8] {
    bindings::RAVEL_VERSION.strip_suffix(b"\0").unwrap_or(b"")
}

/// How many bytes of text a chunk has, the last record's end excepted. What was collected in one hold of a
/// lock may be more; it is then written over several.
pub(crate) const CHUNK_TEXT: usize = 65536;

/// Whether a report goes on after a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more.
    More,
    /// That was all.
    Done,
}

/// Why a report cannot be given, or cannot go on: an errno, and a sentence for people.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// What read() or write() answers with.
    pub(crate) errno: Error,
    /// What the `error` record says.
    pub(crate) message: &'static str,
}

impl Fault {
    pub(crate) const EXITED: Self = Self {
        errno: ESRCH,
        message: "the process has exited",
    };
    pub(crate) const NO_PROCESS: Self = Self {
        errno: ESRCH,
        message: "no process has this pid",
    };
    pub(crate) const KERNEL_THREAD: Self = Self {
        errno: EINVAL,
        message: "this is a kernel thread, which has no memory or files of its own",
    };
}

impl From<Gone> for Fault {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Exited => Self::EXITED,
            Gone::KernelThread => Self::KERNEL_THREAD,
        }
    }
}

impl From<AllocError> for Fault {
    fn from(_: AllocError) -> Self {
        ENOMEM.into()
    }
}

impl From<Error> for Fault {
    fn from(errno: Error) -> Self {
        let message = if errno == ENOMEM {
            "the kernel has no memory for this report"
        } else if errno == EINTR {
            "a fatal signal ended the report"
        } else {
            "the report failed"
        };
        Self { errno, message }
    }
}

/// The reports there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// anon_vma chains, and who else is in them.
    AnonVma,
    /// Sockets and their shutdown state.
    Sockets,
    /// Queued sk_buffs and their header offsets.
    Skbs,
    /// Who waits on sockets, and how.
    Waiters,
    /// Private memory: what is shared with whom.
    Cow,
    /// The processes above and below, and what they share.
    Lineage,
    /// Pages, and who maps them. A request for it names addresses.
    Page,
    /// anon_vma chains without their members, and the pages.
    Chains,
    /// Who else holds an open file. A request for it names a descriptor.
    Sharers,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 9] = [
        Self::AnonVma,
        Self::Sockets,
        Self::Skbs,
        Self::Waiters,
        Self::Cow,
        Self::Lineage,
        Self::Page,
        Self::Chains,
        Self::Sharers,
    ];

    /// Those that need no more than a process, and so have a file in its folder.
    pub(crate) const FILES: [Self; 7] = [
        Self::AnonVma,
        Self::Sockets,
        Self::Skbs,
        Self::Waiters,
        Self::Cow,
        Self::Lineage,
        Self::Chains,
    ];

    /// The name of its file, and in a request.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Self::AnonVma => c"anon_vma",
            Self::Sockets => c"sockets",
            Self::Skbs => c"skbs",
            Self::Waiters => c"waiters",
            Self::Cow => c"cow",
            Self::Lineage => c"lineage",
            Self::Page => c"page",
            Self::Chains => c"chains",
            Self::Sharers => c"sharers",
        }
    }

    /// The name in records.
    pub(crate) fn record_name(self) -> ReportName {
        match self {
            Self::AnonVma => ReportName::ANON_VMA,
            Self::Sockets => ReportName::SOCKETS,
            Self::Skbs => ReportName::SKBS,
            Self::Waiters => ReportName::WAITERS,
            Self::Cow => ReportName::COW,
            Self::Lineage => ReportName::LINEAGE,
            Self::Page => ReportName::PAGE,
            Self::Chains => ReportName::CHAINS,
            Self::Sharers => ReportName::SHARERS,
        }
    }

    /// The report of that name.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().to_bytes() == name)
    }
}

/// A report under way, apart from the stack of who reads it.
enum Body {
    AnonVma(KBox<anon_vma::Walk>),
    Sockets(KBox<sockets::Walk>),
    Cow(KBox<cow::Walk>),
    Lineage(KBox<lineage::Walk>),
    Page(KBox<page::Walk>),
    Chains(KBox<chains::Walk>),
    Sharers(KBox<sharers::Walk>),
}

/// Makes a walk in a stack frame that ends before the walk begins, and puts it on the heap.
#[inline(never)]
fn boxed<T>(walk: impl FnOnce() -> Result<T, Fault>) -> Result<KBox<T>, Fault> {
    Ok(KBox::new(walk()?, gfp())?)
}

/// A report on a process, made chunk by chunk.
pub(crate) struct Report {
    kind: Kind,
    process: Arc<Process>,
    /// The addresses asked for, for [`Kind::Page`]; the descriptor, for [`Kind::Sharers`].
    range: Range<usize>,
    body: Option<Body>,
}

impl Report {
    /// A report that begins when its first chunk is asked for.
    pub(crate) fn new(kind: Kind, process: Arc<Process>, range: Range<usize>) -> Self {
        Self {
            kind,
            process,
            range,
            body: None,
        }
    }

    /// Writes the next chunk.
    pub(crate) fn chunk(&mut self, text: &mut Text) -> Result<Step, Fault> {
        if interrupted() {
            return Err(EINTR.into());
        }
        match &mut self.body {
            None => {
                self.body = Some(self.begin(text)?);
                Ok(Step::More)
            }
            Some(Body::AnonVma(walk)) => walk.chunk(&self.process, text),
            Some(Body::Sockets(walk)) => walk.chunk(&self.process, text),
            Some(Body::Cow(walk)) => walk.chunk(&self.process, text),
            Some(Body::Lineage(walk)) => walk.chunk(&self.process, text),
            Some(Body::Page(walk)) => walk.chunk(&self.process, text),
            Some(Body::Chains(walk)) => walk.chunk(&self.process, text),
            Some(Body::Sharers(walk)) => walk.chunk(&self.process, text),
        }
    }

    #[inline(never)]
    fn begin(&self, text: &mut Text) -> Result<Body, Fault> {
        let process = &*self.process;
        let comm = process.comm().ok_or(Fault::EXITED)?;
        let body = match self.kind {
            Kind::AnonVma => Body::AnonVma(boxed(|| anon_vma::Walk::new(process))?),
            Kind::Cow => Body::Cow(boxed(|| cow::Walk::new(process))?),
            Kind::Lineage => Body::Lineage(boxed(|| lineage::Walk::new(process))?),
            Kind::Chains => Body::Chains(boxed(|| chains::Walk::new(process))?),
            Kind::Page => Body::Page(boxed(|| page::Walk::new(process, self.range.clone()))?),
            Kind::Sharers => Body::Sharers(boxed(|| {
                sharers::Walk::new(process, self.range.start as u32)
            })?),
            Kind::Sockets => {
                let waiting = sockets::Waiting::new()?;
                Body::Sockets(boxed(|| {
                    sockets::Walk::new(process, Detail::Waiting(waiting))
                })?)
            }
            Kind::Skbs => {
                let queues = KBox::new(skbs::Queues::new()?, gfp())?;
                Body::Sockets(boxed(|| {
                    sockets::Walk::new(process, Detail::Queues(queues))
                })?)
            }
            Kind::Waiters => {
                let waiters = KBox::new(waiters::Waiters::new()?, gfp())?;
                Body::Sockets(boxed(|| {
                    sockets::Walk::new(process, Detail::Waiters(waiters))
                })?)
            }
        };
        let kernel = kernel_release();
        let record = common::Report {
            name: self.kind.record_name(),
            format: FORMAT.into(),
            pid: process.nr().into(),
            comm: comm.into(),
            kernel: Str::at(0, kernel.len()),
        };
        text.put(&record, &[kernel])?;
        Ok(body)
    }

    /// Writes the record that replaces a report, or its rest.
    pub(crate) fn fault(&self, fault: Fault, text: &mut Text) -> Result {
        text.fault(self.kind.record_name(), self.process.nr(), fault)
    }
}

impl From<Id> for records::Id {
    fn from(id: Id) -> Self {
        Self::new(id.get())
    }
}

impl From<Comm> for records::Comm {
    fn from(comm: Comm) -> Self {
        Self::of(comm.bytes())
    }
}

impl From<Relation> for common::Relation {
    fn from(relation: Relation) -> Self {
        match relation {
            Relation::Itself => Self::ITSELF,
            Relation::Ancestor => Self::ANCESTOR,
            Relation::Descendant => Self::DESCENDANT,
            Relation::Other => Self::OTHER,
            Relation::Unknown => Self::UNKNOWN,
        }
    }
}

impl Owner {
    /// Who it is that has the address space `mm`.
    fn record(&self, mm: Id) -> common::Owner {
        common::Owner {
            pid: self.pid.into(),
            comm: self.comm.into(),
            state: match self.state {
                OwnerState::Live => common::OwnerState::LIVE,
                OwnerState::Forking => common::OwnerState::FORKING,
                OwnerState::Exiting => common::OwnerState::EXITING,
            },
            mm: mm.into(),
            relation: self.relation.into(),
        }
    }
}
