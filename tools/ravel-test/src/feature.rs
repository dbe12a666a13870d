// SPDX-License-Identifier: GPL-2.0
//! What not every supported kernel has, by what the running kernel shows of itself.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Something of the kernel's that a test needs.
#[derive(Clone, Copy)]
pub enum Feature {
    /// Transparent huge pages.
    HugePages,
}

impl Feature {
    /// Returns whether the kernel has it.
    pub fn is_there(self) -> bool {
        match self {
            Self::HugePages => Path::new("/sys/kernel/mm/transparent_hugepage").exists(),
        }
    }

    /// Returns its name, as the reason why a test is skipped.
    pub fn name(self) -> &'static str {
        match self {
            Self::HugePages => "transparent huge pages",
        }
    }
}

/// Returns whether anonymous pages of a private file mapping have a page offset of their own. The
/// kernel's type information has its field then. A kernel without type information is one that
/// `qemu/debug-kernel` has built from a source that has the field.
pub fn has_anon_offsets() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    const FIELD: &[u8] = b"\0__vm_anon_pgoff_lo\0";
    *FOUND.get_or_init(|| {
        fs::read("/sys/kernel/btf/vmlinux").map_or(true, |types| {
            types.windows(FIELD.len()).any(|at| at == FIELD)
        })
    })
}

/// Returns the page offset that the kernel gives to the first anonymous page of a private file
/// mapping that was first written at `address`, and whose offset in the file is `pgoff`.
pub fn anon_offset(address: u64, pgoff: u64) -> u64 {
    if has_anon_offsets() {
        address >> 12
    } else {
        pgoff
    }
}
