// SPDX-License-Identifier: GPL-2.0

//! The bytes of records.

use crate::records::Record;
use core::{mem::size_of, ptr, slice};

/// Returns the bytes of a record's structure.
pub(crate) fn bytes_of<R: Record>(record: &R) -> &[u8] {
    const { assert!(align_of::<R>() == 1) };
    // SAFETY: Only `record!` implements `Record`: for structures with `repr(C)`, whose fields are
    // arrays of bytes and structures of these. Their alignment is 1, so there is no padding: every
    // byte is initialized. The slice borrows the record.
    unsafe { slice::from_raw_parts(ptr::from_ref(record).cast(), size_of::<R>()) }
}
