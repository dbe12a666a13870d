// SPDX-License-Identifier: GPL-2.0

//! anon_vmas: which VMAs, in which processes, may map the same anonymous pages.
//!
//! Follows `mm/rmap.c`. All that ravel knows of `struct anon_vma` stands here; what leaves are
//! groups and their members, words that outlive the struct.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::bindings;
use crate::object::{
    compat::anon_pgoff,
    memory::address_space::{AddressSpace, LinkedVma, MemberVma},
    process::{self, Born},
    sync::hold::{Hold, Lock},
    sync::id::Id,
    sync::interval::{Intersecting, IntervalNode},
};
use core::{
    marker::PhantomData,
    mem::size_of,
    ops::Range,
    ptr::{self, NonNull},
};
use kernel::{
    container_of,
    error::to_result,
    mm::virt::VmaRef,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{Acquire, Atomic},
    types::NotThreadSafe,
};

/// Bytes of one `struct anon_vma`.
pub(crate) const ANON_VMA_BYTES: usize = size_of::<bindings::anon_vma>();

/// Bytes of one `struct anon_vma_chain`.
pub(crate) const AVC_BYTES: usize = size_of::<bindings::anon_vma_chain>();

/// The lock of a tree of anon_vmas, held for reading, reached through a VMA.
///
/// With it held, each chain and tree under this root stands still: which VMAs are linked, and their
/// bounds. No memory may be allocated meanwhile: reclaim takes the same lock.
///
/// # Invariants
///
/// `root` is the root of the VMA's anon_vma, and its `rwsem` is held for reading by this thread.
/// The VMA is linked, so that all anon_vmas in its chain, and so all their parents, are alive.
pub(crate) struct RootGuard<'v> {
    vma: &'v VmaRef,
    own: NonNull<bindings::anon_vma>,
    root: NonNull<bindings::anon_vma>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'v> RootGuard<'v> {
    /// Waits for the lock; `EINTR` if a fatal signal comes first. None if the VMA has no anon_vma.
    pub(crate) fn lock(vma: &'v VmaRef) -> Result<Option<Self>> {
        let own = NonNull::new(anon_vma_of(vma));
        let Some(own) = own else { return Ok(None) };
        // SAFETY: A `VmaRef` means that mmap_lock or the VMA's lock is held: the VMA keeps its
        // anon_vma until unlink_anon_vmas(), which comes after it was detached under both held for
        // writing, and that keeps its root. `root` is written before the anon_vma is published.
        let root = unsafe { (*own.as_ptr()).root };
        // SAFETY: As above.
        to_result(unsafe { bindings::down_read_killable(&raw mut (*root).rwsem) })?;
        // INVARIANT: Taken. __anon_vma_prepare() publishes `vma->anon_vma` and links the VMA under
        // this lock held for writing, so by now the VMA is linked, too.
        Ok(NonNull::new(root).map(|root| Self {
            vma,
            own,
            root,
            _hold: Lock::AnonVma.begin(),
            _nts: NotThreadSafe,
        }))
    }

    /// The anon_vma of the VMA's chain that `token` names. A page that the VMA maps has its
    /// anon_vma there.
    pub(crate) fn find(&self, token: Token) -> Option<AnonVma<'_>> {
        self.anon_vmas().find(|anon_vma| anon_vma.token() == token)
    }

    /// The VMA's own anon_vma, where its new pages go.
    pub(crate) fn own(&self) -> AnonVma<'_> {
        // INVARIANT: It is in the chain of a VMA that is linked.
        AnonVma {
            ptr: self.own,
            _guard: PhantomData,
        }
    }

    /// Whether the VMA's own anon_vma was certainly made for it, so that each page in it was first
    /// written or copied here.
    ///
    /// fork() gives the child an anon_vma of the parent's chain that no VMA has as its own any
    /// more, if there is one with one child at most (maybe_reuse_anon_vma()), and with it the pages
    /// that an ancestor wrote. It leaves no trace. That cannot be the parent's own one, which a VMA
    /// has, nor the root: if the parent's own one is another, some anon_vma on the way to it counts
    /// as a child of the root, next to the root itself. So where the chain is the root and one
    /// more, there was none to take.
    pub(crate) fn own_is_new(&self) -> bool {
        self.anon_vmas().nth(2).is_none()
    }

    /// The anon_vmas in the VMA's chain: its own, and its ancestors'. Their order means nothing:
    /// each fork turns it around.
    pub(crate) fn anon_vmas(&self) -> Chain<'_> {
        // SAFETY: The VMA is valid, by the `VmaRef`.
        let head = unsafe { &raw const (*self.vma.as_ptr()).anon_vma_chain };
        // INVARIANT: The list is that of the VMA. It cannot change: that would take mmap_lock for
        // writing, or (from empty to one entry) the root's lock for writing.
        Chain {
            head,
            // SAFETY: The list is initialized with the VMA.
            next: unsafe { (*head).next },
            _guard: PhantomData,
        }
    }
}

impl Drop for RootGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant, and the root is alive because of the
        // VMA.
        unsafe { bindings::up_read(&raw mut (*self.root.as_ptr()).rwsem) };
    }
}

/// Which anon_vma it was, to know it again after its lock was dropped. It says nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(usize);

impl Token {
    /// The anon_vma at an address, as a page names it.
    pub(in crate::object) fn of(address: usize) -> Self {
        Self(address)
    }

    /// A number that differs in its lowest bits from that of most others.
    pub(crate) fn hash(self) -> usize {
        (self.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32
    }
}

/// Whether a VMA has an anon_vma, and so a chain. It may get one at any time.
pub(crate) fn is_chained(vma: &VmaRef) -> bool {
    !anon_vma_of(vma).is_null()
}

/// `vma->anon_vma`. __anon_vma_prepare() sets it with mmap_lock held for reading and publishes it
/// by smp_store_release(); whatever else changes it holds mmap_lock and the VMA's lock for writing.
fn anon_vma_of(vma: &VmaRef) -> *mut bindings::anon_vma {
    // SAFETY: The VMA is valid, by the `VmaRef`; the field is aligned, and is accessed by atomic
    // operations only while it can change.
    unsafe {
        let field = &raw mut (*vma.as_ptr()).anon_vma;
        Atomic::from_ptr(field).load(Acquire).cast()
    }
}

/// A walk over the anon_vmas in a VMA's chain.
///
/// # Invariants
///
/// `head` is the list of a VMA whose chain cannot change for `'g`, and `next` in it.
pub(crate) struct Chain<'g> {
    head: *const bindings::list_head,
    next: *const bindings::list_head,
    _guard: PhantomData<&'g RootGuard<'g>>,
}

impl<'g> Iterator for Chain<'g> {
    type Item = AnonVma<'g>;

    fn next(&mut self) -> Option<AnonVma<'g>> {
        if ptr::eq(self.next, self.head) {
            return None;
        }
        // SAFETY: By the invariant, `next` is the `same_vma` of an anon_vma_chain that is not
        // freed.
        let (next, anon_vma) = unsafe {
            let avc = container_of!(self.next, bindings::anon_vma_chain, same_vma);
            ((*self.next).next, (*avc).anon_vma)
        };
        self.next = next;
        // INVARIANT: The anon_vma is in the chain of a VMA that is linked, by `RootGuard`'s
        // invariant.
        NonNull::new(anon_vma).map(|ptr| AnonVma {
            ptr,
            _guard: PhantomData,
        })
    }
}

/// An anon_vma.
///
/// # Invariants
///
/// It is alive, and its root locked for reading, for `'g`.
pub(crate) struct AnonVma<'g> {
    ptr: NonNull<bindings::anon_vma>,
    _guard: PhantomData<&'g RootGuard<'g>>,
}

/// What an anon_vma says of itself.
#[derive(Clone, Copy)]
pub(crate) struct AnonVmaInfo {
    /// The first anon_vma of the tree.
    pub(crate) root: Id,
    /// Its parent: itself if it is the root.
    pub(crate) parent: Id,
    /// Steps along `parent` to the root.
    pub(crate) depth: u32,
    /// `num_children`: the root counts itself.
    pub(crate) children: usize,
    /// `num_active_vmas`: VMAs whose own anon_vma it is.
    pub(crate) active_vmas: usize,
    /// `refcount`.
    pub(crate) refcount: i32,
}

impl<'g> AnonVma<'g> {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.ptr.as_ptr())
    }

    /// To know it again.
    pub(crate) fn token(&self) -> Token {
        Token(self.ptr.addr().get())
    }

    /// What it says of itself.
    pub(crate) fn info(&self) -> AnonVmaInfo {
        let this = self.ptr.as_ptr();
        // SAFETY: It is alive by the type's invariant. The counts change under the root's lock held
        // for writing; `refcount` at any time, and is read once.
        unsafe {
            AnonVmaInfo {
                root: Id::of((*this).root),
                parent: Id::of((*this).parent),
                depth: self.depth(),
                children: (*this).num_children,
                active_vmas: (*this).num_active_vmas,
                refcount: ptr::read_volatile((&raw const (*this).refcount).cast::<i32>()),
            }
        }
    }

    /// Every VMA in the tree of an anon_vma is also in its parent's: fork() links it to the whole
    /// chain of the VMA that it copies before it adds its own, and unlink_anon_vmas() removes it
    /// from all of them in one hold of the lock. So while an anon_vma has a VMA in its tree, none
    /// of its ancestors is freed.
    fn depth(&self) -> u32 {
        let mut depth = 0;
        let mut at = self.ptr.as_ptr();
        loop {
            // SAFETY: `at` is alive: it is this anon_vma or an ancestor of it, and see above.
            let parent = unsafe { (*at).parent };
            if ptr::eq(parent, at) {
                return depth;
            }
            depth = depth.saturating_add(1);
            at = parent;
        }
    }

    /// The VMAs in its tree, by the key.
    pub(crate) fn members(&self) -> Members<'g> {
        // SAFETY: It is alive by the type's invariant. The root's lock guards the tree.
        let first = unsafe { (*self.ptr.as_ptr()).rb_root.rb_leftmost };
        // INVARIANT: The tree does not change while the lock is held.
        Members {
            next: first,
            _guard: PhantomData,
        }
    }

    /// The VMAs in its tree whose key is `key` or greater, by the key.
    pub(crate) fn members_from(&self, key: usize) -> Members<'g> {
        // SAFETY: As in `members`.
        let mut at = unsafe { (*self.ptr.as_ptr()).rb_root.rb_root.rb_node }.cast_const();
        let mut first = ptr::null();
        while !at.is_null() {
            // SAFETY: `at` is in the tree. Among equal keys, the one inserted first is leftmost
            // (INTERVAL_TREE_DEFINE() goes right on equal).
            unsafe {
                let avc = container_of!(at, bindings::anon_vma_chain, rb);
                if anon_pgoff((*avc).vma) >= key {
                    first = at;
                    at = (*at).rb_left;
                } else {
                    at = (*at).rb_right;
                }
            }
        }
        // INVARIANT: The tree does not change while the lock is held.
        Members {
            next: first,
            _guard: PhantomData,
        }
    }

    /// The VMAs in its tree that cover some of the offsets from `first` to `last`, by the key.
    pub(crate) fn covering(
        &self,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = LinkedVma<'g>> {
        // SAFETY: It is alive by the type's invariant. The root's lock, held for `'g`, guards the
        // tree.
        let nodes = unsafe {
            let root = &raw const (*self.ptr.as_ptr()).rb_root;
            Intersecting::<'g, bindings::anon_vma_chain>::new(root, first, last)
        };
        // SAFETY: The link is in the tree, whose lock is held for `'g`.
        nodes.map(|avc| unsafe { linked(avc) })
    }

    /// Offsets that a VMA in its tree covers and that one before it covers for the same address
    /// space, at the same addresses.
    ///
    /// While a VMA is split, its new half is linked before the whole one is cut; and while VMAs are
    /// merged, the one that grew covers those that are not yet unlinked (`__split_vma()`,
    /// `vma_complete()`). Either ends under the root's lock held for writing, and mmap_lock is held
    /// for writing until then. So it does not end while this guard is held, and where mmap_lock is
    /// not held for writing there is none.
    pub(in crate::object) fn doubled(&self, linked: LinkedVma<'_>) -> Option<Range<usize>> {
        if !linked.is_write_locked() {
            return None;
        }
        let vma = linked.values();
        let base = |vma: &MemberVma| vma.start.wrapping_sub(vma.key.wrapping_mul(PAGE_SIZE));
        let end = |vma: &MemberVma| vma.last_key().wrapping_add(1);
        self.covering(vma.key, vma.last_key())
            .take_while(|other| !ptr::eq(other.as_ptr(), linked.as_ptr()))
            .filter(|other| ptr::eq(other.mm(), linked.mm()))
            .map(|other| other.values())
            .filter(|other| base(other) == base(&vma))
            .map(|other| other.key.max(vma.key)..end(&other).min(end(&vma)))
            .reduce(|one, more| one.start.min(more.start)..one.end.max(more.end))
    }

    /// Whether, of the VMAs that `space` has and that are in its tree, `vma` is the first; and how
    /// many VMAs it took to find out.
    ///
    /// `space` is `vma`'s, whose lock is held. Others of its VMAs may be split, merged and unmapped
    /// between two calls, so that another VMA is the first then.
    pub(crate) fn is_first(&self, vma: &VmaRef, space: &AddressSpace) -> (bool, usize) {
        for (visits, member) in self.members().enumerate() {
            if member.is_in(space) && member.linked.is_attached() {
                return (member.is(vma), visits.saturating_add(1));
            }
        }
        (false, 0)
    }
}

/// A walk over the VMAs in an anon_vma's tree.
///
/// # Invariants
///
/// `next` is null or the `rb` of an anon_vma_chain in a tree that cannot change for `'g`.
pub(crate) struct Members<'g> {
    next: *const bindings::rb_node,
    _guard: PhantomData<&'g RootGuard<'g>>,
}

impl<'g> Iterator for Members<'g> {
    type Item = Member<'g>;

    fn next(&mut self) -> Option<Member<'g>> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: By the invariant.
        unsafe {
            let avc = container_of!(self.next, bindings::anon_vma_chain, rb);
            self.next = bindings::rb_next(self.next);
            Some(Member {
                avc,
                linked: linked(avc),
            })
        }
    }
}

// SAFETY: As `__anon_rmap_tree` in mm/interval_tree.c.
unsafe impl IntervalNode for bindings::anon_vma_chain {
    unsafe fn from_rb(rb: *const bindings::rb_node) -> *const Self {
        // SAFETY: `rb` is within a link, by the trait's requirements.
        unsafe { container_of!(rb, Self, rb) }
    }

    unsafe fn rb(node: *const Self) -> *const bindings::rb_node {
        // SAFETY: The link is valid, by the trait's requirements.
        unsafe { &raw const (*node).rb }
    }

    unsafe fn start(node: *const Self) -> usize {
        // SAFETY: The tree's lock is held, by the trait's requirements: its links keep their VMAs
        // and those their keys.
        unsafe { anon_pgoff((*node).vma) }
    }

    unsafe fn last(node: *const Self) -> usize {
        // SAFETY: As in `start`; the bounds of the VMA do not change either.
        unsafe { linked(node) }.values().last_key()
    }

    unsafe fn subtree_last(node: *const Self) -> usize {
        // SAFETY: The tree's lock is held, by the trait's requirements.
        unsafe { (*node).rb_subtree_last }
    }
}

/// # Safety
///
/// The link is in a tree, and the root's lock held for `'g`.
unsafe fn linked<'g>(avc: *const bindings::anon_vma_chain) -> LinkedVma<'g> {
    // SAFETY: By the caller.
    unsafe {
        let vma = (*avc).vma;
        LinkedVma::new(vma, anon_pgoff(vma))
    }
}

/// A VMA in an anon_vma's tree.
pub(crate) struct Member<'g> {
    avc: *const bindings::anon_vma_chain,
    /// The VMA.
    pub(crate) linked: LinkedVma<'g>,
}

impl Member<'_> {
    fn is(&self, vma: &VmaRef) -> bool {
        ptr::eq(self.linked.as_ptr(), vma.as_ptr())
    }

    fn is_in(&self, space: &AddressSpace) -> bool {
        space.is(self.linked.mm())
    }

    /// To know it again. The address of its link alone would not do: it is soon used again, by the
    /// next fork, and so is that of its address space. None while fork() makes it: it cannot be
    /// told apart from another that it makes.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let mm = self.linked.mm();
        // SAFETY: The address space is not freed while the VMA is linked.
        let born = match unsafe { process::owner_born(mm) } {
            Born::At(born) => Some(born),
            Born::Gone => None,
            Born::Not => return None,
        };
        Some(Mark {
            link: self.avc.addr(),
            mm: mm.addr(),
            born,
        })
    }

    /// Whether it is the one that was marked. Its owner may have exited since.
    pub(crate) fn is_marked(&self, mark: &Mark) -> bool {
        self.avc.addr() == mark.link
            && self.mark().is_some_and(|now| {
                now.mm == mark.mm && (now.born == mark.born || now.born.is_none())
            })
    }
}

/// Which member it was, after the lock was dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    link: usize,
    mm: usize,
    /// When its owner was born; none if that has exited.
    born: Option<u64>,
}
