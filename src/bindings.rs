// SPDX-License-Identifier: GPL-2.0

//! The C that ravel reaches: what bindgen made of `helpers/bindings.h`, over `kernel::bindings`.

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

pub(crate) use kernel::bindings::*;
use kernel::ffi;

include!("helpers/generated.rs");
