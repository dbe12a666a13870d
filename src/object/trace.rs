// SPDX-License-Identifier: GPL-2.0

//! Probes on tracepoints and functions, and the per-CPU rings that they write events to.
//!
//! Depends on [`net`](super::net) and [`process`](super::process) for filters, and on
//! [`sync`](super::sync).

pub(crate) mod event;
pub(crate) mod functions;
mod merge;
pub(crate) mod names;
mod net_probes;
mod packet_probes;
mod prototype;
pub(crate) mod ring;
pub(crate) mod sink;
pub(crate) mod source;
pub(in crate::object) mod task;
pub(crate) mod waker;
