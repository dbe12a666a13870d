// SPDX-License-Identifier: GPL-2.0

//! Primitives shared by all subjects: lock hold times, object ids, interval trees.

pub(crate) mod hold;
pub(crate) mod id;
pub(in crate::object) mod interval;

/// Reads a place once that others may write concurrently, as READ_ONCE() does in C.
///
/// # Safety
///
/// To be used in an `unsafe` block: the place is valid for reading, and a value of its type
/// whatever was written.
macro_rules! read_once {
    ($place:expr) => {
        ::core::ptr::read_volatile(&raw const $place)
    };
}
pub(crate) use read_once;
