// SPDX-License-Identifier: GPL-2.0

//! Names for kernel objects that give their addresses away to nobody.
//!
//! C header: [`include/linux/siphash.h`](srctree/include/linux/siphash.h)

use crate::bindings;
use core::mem::size_of_val;
use kernel::sync::SetOnce;

static KEY: SetOnce<bindings::siphash_key_t> = SetOnce::new();

/// An object's id: SipHash of its address with a key that is drawn when the module is loaded.
///
/// The hash is computed where it is printed: most ids are only compared, and many objects are
/// passed over.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Id(usize);

impl Id {
    /// The id of an object by its address; null has the id 0.
    pub(in crate::object) fn of<T>(object: *const T) -> Self {
        Self(object.addr())
    }

    /// The number to print.
    pub(crate) fn get(self) -> u64 {
        match KEY.as_ref() {
            Some(key) if self.0 != 0 => {
                // SAFETY: `key` is a valid key, and was written before `KEY` was set.
                unsafe { bindings::siphash_1u64(self.0 as u64, key) }
            }
            _ => 0,
        }
    }
}

/// Draws the key. Comes before the first id.
pub(crate) fn init() {
    let mut key = bindings::siphash_key_t { key: [0; 2] };
    // SAFETY: `key` is valid for writing as many bytes.
    unsafe { bindings::get_random_bytes((&raw mut key).cast(), size_of_val(&key)) };
    KEY.populate(key);
}
