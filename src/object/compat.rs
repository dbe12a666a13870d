// SPDX-License-Identifier: GPL-2.0

//! Differences between the supported kernels.
//!
//! `helpers/features.list` describes them. Kbuild makes a `cfg` of each feature that the kernel has.

use crate::bindings;

/// Returns a VMA's page offset for anonymous pages, by which it is sorted into the trees of
/// anon_vmas.
///
/// # Safety
///
/// The VMA is valid, and its key does not change: it is linked in a tree whose lock is held, or a
/// `VmaRef`.
#[cfg(ravel_has_anon_pgoff)]
pub(super) unsafe fn anon_pgoff(vma: *const bindings::vm_area_struct) -> usize {
    // SAFETY: By this function's requirements.
    let (high, low) = unsafe { ((*vma).__vm_anon_pgoff_hi, (*vma).__vm_anon_pgoff_lo) };
    (high as usize) << 32 | low as usize
}

/// Returns a VMA's page offset, by which it is sorted into the trees of anon_vmas.
///
/// # Safety
///
/// As above.
#[cfg(not(ravel_has_anon_pgoff))]
pub(super) unsafe fn anon_pgoff(vma: *const bindings::vm_area_struct) -> usize {
    // SAFETY: By this function's requirements.
    unsafe { (*vma).vm_pgoff }
}

/// `VM_MAYSHARE`. `kernel::mm::virt::flags::MAYSHARE` has another flag's value in some kernels.
pub(crate) const MAYSHARE: bindings::vm_flags_t = bindings::RAVEL_VM_MAYSHARE;

/// Returns `THIS_MODULE`. The kernel crate's own is in different places in different kernels.
pub(super) const fn this_module() -> *mut bindings::module {
    &raw mut bindings::__this_module
}

#[cfg(ravel_has_all_errnos)]
pub(crate) use kernel::error::code::{ENODATA, ENOTSOCK, EOPNOTSUPP, ESTALE};

#[cfg(not(ravel_has_all_errnos))]
pub(crate) use errno::{ENODATA, ENOTSOCK, EOPNOTSUPP, ESTALE};

/// What a timer's function returns to stop the timer.
#[cfg(ravel_has_hrtimer_newtype)]
pub(super) const HRTIMER_NORESTART: bindings::hrtimer_restart =
    bindings::hrtimer_restart::HRTIMER_NORESTART;
#[cfg(not(ravel_has_hrtimer_newtype))]
pub(super) use bindings::hrtimer_restart_HRTIMER_NORESTART as HRTIMER_NORESTART;

/// Error codes without a constant in the kernel crate.
#[cfg(not(ravel_has_all_errnos))]
mod errno {
    use crate::bindings;
    use core::mem::transmute;
    use kernel::error::Error;

    const fn error(errno: u32) -> Error {
        assert!(errno != 0 && errno <= bindings::MAX_ERRNO);
        // SAFETY: The only field of `Error` is a `NonZero<i32>`, and nothing else fits into its
        // size, which is that of an `i32`. Its invariant, the range, was checked above.
        unsafe { transmute::<i32, Error>(-(errno as i32)) }
    }

    pub(crate) const ENODATA: Error = error(bindings::ENODATA);
    pub(crate) const ENOTSOCK: Error = error(bindings::ENOTSOCK);
    pub(crate) const EOPNOTSUPP: Error = error(bindings::EOPNOTSUPP);
    pub(crate) const ESTALE: Error = error(bindings::ESTALE);
}
