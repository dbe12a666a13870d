// SPDX-License-Identifier: GPL-2.0

//! Reports about memory.

#![deny(unsafe_code)]

pub(crate) mod anon_vma;
pub(crate) mod chains;
pub(crate) mod cow;
pub(crate) mod page;
pub(crate) mod walk;
