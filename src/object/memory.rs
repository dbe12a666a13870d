// SPDX-License-Identifier: GPL-2.0

//! Address spaces, their VMAs, the reverse maps of anonymous memory and of files, and page tables.
//!
//! Depends on [`process`](super::process) for who owns an address space, and on
//! [`sync`](super::sync).

pub(crate) mod address_space;
pub(crate) mod anon_vma;
mod entry;
pub(crate) mod file_map;
pub(crate) mod page;
mod page_table;
