// SPDX-License-Identifier: GPL-2.0

//! Reports about processes.

#![deny(unsafe_code)]

pub(crate) mod lineage;
