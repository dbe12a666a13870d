// SPDX-License-Identifier: GPL-2.0

//! The kernel's interval trees, in which reverse maps keep VMAs by the offsets that they cover.
//!
//! C header: [`include/linux/interval_tree_generic.h`](srctree/include/linux/interval_tree_generic.h), whose
//! functions for these trees are not exported.

use crate::bindings::rb_node;
use core::ptr;

/// Where the interval of a node ends, and the last end in its subtree, both inclusive.
pub(super) struct Ends {
    pub(super) own: usize,
    pub(super) subtree: usize,
}

/// The leftmost node whose interval ends at `start` or above; null if there is none.
///
/// # Safety
///
/// `root` is null or that of a tree that does not change meanwhile, and for whose nodes `ends` can be asked.
pub(super) unsafe fn first_reaching(
    root: *const rb_node,
    start: usize,
    ends: impl Fn(*const rb_node) -> Ends,
) -> *const rb_node {
    let reaches = |at: *const rb_node| !at.is_null() && ends(at).subtree >= start;
    if !reaches(root) {
        return ptr::null();
    }
    let mut at = root;
    loop {
        // A node of this subtree ends there.
        // SAFETY: `at` is in the tree, by the caller.
        let (left, right) = unsafe { ((*at).rb_left, (*at).rb_right) };
        if reaches(left) {
            at = left;
        } else if ends(at).own >= start {
            return at;
        } else {
            at = right;
        }
    }
}
