// SPDX-License-Identifier: GPL-2.0

//! Open files, sockets, their queues of sk_buffs, and the tasks that wait on them.
//!
//! Depends on [`process`](super::process) for whose descriptor a file is, and on
//! [`sync`](super::sync).

pub(crate) mod accept;
pub(crate) mod af_packet;
pub(in crate::object) mod descriptors;
pub(crate) mod encap;
pub(crate) mod file;
pub(crate) mod filter;
pub(in crate::object) mod flow;
pub(crate) mod inet;
mod mptcp;
pub(crate) mod netlink;
pub(crate) mod owner;
pub(in crate::object) mod packet_ref;
pub(crate) mod release;
pub(crate) mod sharers;
pub(crate) mod skb;
pub(in crate::object) mod sock;
pub(crate) mod socket;
pub(crate) mod state;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod unix;
pub(crate) mod vsock;
pub(crate) mod waiters;
