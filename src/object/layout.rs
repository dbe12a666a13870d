// SPDX-License-Identifier: GPL-2.0

//! Compile-time checks that Rust and the kernel's C compiler place fields alike.
//!
//! bindgen takes layouts from libclang, while Debian's kernels are built by gcc. The assertions are
//! generated from `helpers/layout.c`, which that compiler has translated (see `Kbuild`).

use crate::bindings;
use core::mem::{offset_of, size_of, MaybeUninit};
use kernel::{prelude::*, str::CStrExt};

// The compiler does not count uses in unnamed constants.
#[allow(dead_code)]
const fn size_of_pointee<T>(_: *const T) -> usize {
    size_of::<T>()
}

/// Asserts a field's offset and size.
macro_rules! field {
    ($type:ident, $($path:ident).+, $offset:expr, $size:expr) => {
        const _: () = {
            assert!(offset_of!(bindings::$type, $($path).+) == $offset);
            let object = MaybeUninit::<bindings::$type>::uninit();
            // SAFETY: The place is within `object`, and is not read.
            let field = unsafe { &raw const (*object.as_ptr()).$($path).+ };
            assert!(size_of_pointee(field) == $size);
        };
    };
}

/// Asserts a structure's size.
macro_rules! size {
    ($type:ident, $size:expr) => {
        const _: () = assert!(size_of::<bindings::$type>() == $size);
    };
}

include!("../helpers/generated_layout.rs");

/// Returns the running kernel's release, as `uname -r` prints it.
pub(crate) fn kernel_release() -> &'static [u8] {
    // SAFETY: The initial namespace's name is a string, is never freed, and its release never
    // changes.
    unsafe { CStr::from_char_ptr((&raw const (*bindings::init_utsname()).release).cast()) }
        .to_bytes()
}
