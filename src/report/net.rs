// SPDX-License-Identifier: GPL-2.0

//! Reports about sockets.

#![deny(unsafe_code)]

pub(crate) mod sharers;
pub(crate) mod skbs;
pub(crate) mod sockets;
pub(crate) mod waiters;
