// SPDX-License-Identifier: GPL-2.0

//! Lists of sk_buffs (`struct sk_buff_head`).

use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};

/// A walk over a list.
///
/// # Invariants
///
/// The lock that guards the list is held for `'g`. `next` is in the list, or its head.
pub(in crate::object) struct List<'g> {
    head: *const bindings::sk_buff_head,
    next: *mut bindings::sk_buff,
    _guard: PhantomData<&'g ()>,
}

impl List<'_> {
    /// Begins a walk.
    ///
    /// # Safety
    ///
    /// The lock that guards the list is held for `'g`.
    pub(in crate::object) unsafe fn new(head: *const bindings::sk_buff_head) -> Self {
        // SAFETY: The lock is held, by the caller.
        let next = unsafe { (*head).__bindgen_anon_1.__bindgen_anon_1.next };
        // INVARIANT: By the caller.
        Self {
            head,
            next,
            _guard: PhantomData,
        }
    }
}

impl Iterator for List<'_> {
    type Item = NonNull<bindings::sk_buff>;

    fn next(&mut self) -> Option<Self::Item> {
        let skb = self.next;
        if skb.cast_const().cast() == self.head {
            return None;
        }
        // SAFETY: `skb` is in the list, and the lock is held, by the type's invariant.
        self.next = unsafe { (*skb).__bindgen_anon_1.__bindgen_anon_1.next };
        NonNull::new(skb)
    }
}
