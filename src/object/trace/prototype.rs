// SPDX-License-Identifier: GPL-2.0

//! Checks at compile time that a probe has the type of its tracepoint, as
//! `check_trace_callback_type_*()` does in C.
//!
//! The kernel declares, for each tracepoint, a function that calls its probes, and that has the
//! same arguments.

// The compiler does not count uses in unnamed constants.
#![allow(dead_code)]

use kernel::ffi::{c_int, c_void};

pub(super) const fn same2<A>(
    _: unsafe extern "C" fn(*mut c_void, A) -> c_int,
    _: unsafe extern "C" fn(*mut c_void, A),
) {
}

pub(super) const fn same3<A, B>(
    _: unsafe extern "C" fn(*mut c_void, A, B) -> c_int,
    _: unsafe extern "C" fn(*mut c_void, A, B),
) {
}

pub(super) const fn same4<A, B, C>(
    _: unsafe extern "C" fn(*mut c_void, A, B, C) -> c_int,
    _: unsafe extern "C" fn(*mut c_void, A, B, C),
) {
}

pub(super) const fn same5<A, B, C, D>(
    _: unsafe extern "C" fn(*mut c_void, A, B, C, D) -> c_int,
    _: unsafe extern "C" fn(*mut c_void, A, B, C, D),
) {
}
