// SPDX-License-Identifier: GPL-2.0

//! The kernel's interval trees, in which reverse maps keep VMAs by the offsets that they cover.
//!
//! C header:
//! [`include/linux/interval_tree_generic.h`](srctree/include/linux/interval_tree_generic.h). What
//! it generates for the trees of `mm/interval_tree.c` is not exported; this follows it function by
//! function.

use crate::bindings::{rb_node, rb_root_cached};
use core::{marker::PhantomData, ptr};

/// A node of an interval tree. Both ends of its interval are inclusive.
///
/// # Safety
///
/// `from_rb` and `rb` are inverse to each other, and the others are what the tree was made with:
/// `ITSTART`, `ITLAST` and `ITSUBTREE` of `INTERVAL_TREE_DEFINE()`.
pub(in crate::object) unsafe trait IntervalNode: Sized {
    /// Returns the node that contains `rb`.
    ///
    /// # Safety
    ///
    /// `rb` is within a node in a tree.
    unsafe fn from_rb(rb: *const rb_node) -> *const Self;

    /// Returns the node's place in the red-black tree.
    ///
    /// # Safety
    ///
    /// `node` is valid.
    unsafe fn rb(node: *const Self) -> *const rb_node;

    /// Returns where its interval starts.
    ///
    /// # Safety
    ///
    /// `node` is in a tree whose lock is held.
    unsafe fn start(node: *const Self) -> usize;

    /// Returns where its interval ends.
    ///
    /// # Safety
    ///
    /// `node` is in a tree whose lock is held.
    unsafe fn last(node: *const Self) -> usize;

    /// Returns the last end of all intervals in its subtree.
    ///
    /// # Safety
    ///
    /// `node` is in a tree whose lock is held.
    unsafe fn subtree_last(node: *const Self) -> usize;
}

/// A walk over the nodes of a tree whose intervals intersect another, by where they start. It
/// visits a number of nodes that grows with the number it returns, and with the logarithm of the
/// size of the tree.
///
/// # Invariants
///
/// `next` is null or a node of a tree that does not change for `'t`, because its lock is held.
pub(in crate::object) struct Intersecting<'t, N: IntervalNode> {
    next: *const N,
    start: usize,
    last: usize,
    _tree: PhantomData<&'t N>,
}

impl<N: IntervalNode> Intersecting<'_, N> {
    /// Begins a walk.
    ///
    /// # Safety
    ///
    /// `root` is that of a tree of `N`. It does not change for as long as the result lives, because
    /// its lock is held.
    pub(in crate::object) unsafe fn new(
        root: *const rb_root_cached,
        start: usize,
        last: usize,
    ) -> Self {
        // INVARIANT: By this function's requirements.
        Self {
            // SAFETY: As above.
            next: unsafe { iter_first(root, start, last) },
            start,
            last,
            _tree: PhantomData,
        }
    }
}

impl<N: IntervalNode> Iterator for Intersecting<'_, N> {
    type Item = *const N;

    fn next(&mut self) -> Option<*const N> {
        let node = self.next;
        if node.is_null() {
            return None;
        }
        // SAFETY: The node is in a tree whose lock is held, by the type's invariant.
        self.next = unsafe { iter_next(node, self.start, self.last) };
        Some(node)
    }
}

/// `ITPREFIX_subtree_search()`: the leftmost node of a subtree that intersects, or null.
///
/// # Safety
///
/// `node` is in a tree whose lock is held; a node of its subtree ends at `start` or later.
unsafe fn subtree_search<N: IntervalNode>(
    mut node: *const N,
    start: usize,
    last: usize,
) -> *const N {
    loop {
        // SAFETY: `node` is in a tree whose lock is held, and so are its children.
        unsafe {
            let rb = N::rb(node);
            let left = (*rb).rb_left;
            if !left.is_null() {
                let left = N::from_rb(left);
                if start <= N::subtree_last(left) {
                    // If the leftmost node that ends there starts too late, so do all to its right.
                    node = left;
                    continue;
                }
            }
            if N::start(node) > last {
                return ptr::null();
            }
            if start <= N::last(node) {
                return node;
            }
            let right = (*rb).rb_right;
            if right.is_null() {
                return ptr::null();
            }
            node = N::from_rb(right);
        }
    }
}

/// `ITPREFIX_iter_first()`: the first node that intersects, or null.
///
/// # Safety
///
/// `root` is that of a tree of `N` whose lock is held.
unsafe fn iter_first<N: IntervalNode>(
    root: *const rb_root_cached,
    start: usize,
    last: usize,
) -> *const N {
    // SAFETY: The tree's lock is held, by this function's requirements: its root and its leftmost
    // node are nodes.
    unsafe {
        let rb = (*root).rb_root.rb_node;
        if rb.is_null() {
            return ptr::null();
        }
        let node = N::from_rb(rb);
        if N::subtree_last(node) < start || N::start(N::from_rb((*root).rb_leftmost)) > last {
            return ptr::null();
        }
        subtree_search(node, start, last)
    }
}

/// `ITPREFIX_iter_next()`: the next node after `node` that intersects, or null.
///
/// # Safety
///
/// `node` is in a tree of `N` whose lock is held.
unsafe fn iter_next<N: IntervalNode>(mut node: *const N, start: usize, last: usize) -> *const N {
    // SAFETY: The tree's lock is held, by this function's requirements: the children and parents of
    // a node are nodes.
    unsafe {
        let mut right = (*N::rb(node)).rb_right.cast_const();
        loop {
            if !right.is_null() {
                let right = N::from_rb(right);
                if start <= N::subtree_last(right) {
                    return subtree_search(right, start, last);
                }
            }
            // Up, until it comes from a left child.
            loop {
                let from = N::rb(node);
                let parent = rb_parent(from);
                if parent.is_null() {
                    return ptr::null();
                }
                node = N::from_rb(parent);
                right = (*parent).rb_right.cast_const();
                if !ptr::eq(from, right) {
                    break;
                }
            }
            if last < N::start(node) {
                return ptr::null();
            }
            if start <= N::last(node) {
                return node;
            }
        }
    }
}

/// `rb_parent()`: the parent without the colour in its lowest bits.
///
/// # Safety
///
/// `rb` is in a tree whose lock is held.
unsafe fn rb_parent(rb: *const rb_node) -> *const rb_node {
    // SAFETY: The tree's lock is held, by this function's requirements.
    let word = unsafe { (*rb).__rb_parent_color };
    ptr::with_exposed_provenance(word & !3)
}
