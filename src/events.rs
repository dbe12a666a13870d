// SPDX-License-Identifier: GPL-2.0

//! Streams of events, leased to readers. `events/EVENTS.md` says what they promise.
//!
//! A probe writes an event into its CPU's ring, without a lock (`object/trace/ring.rs`). Whoever
//! next asks anything of the stream moves what lies in the rings, in the order of time, to the
//! stream's [`store`], where each entry has a sequence number and is ready, reserved, delayed or
//! failed. Text is made of it when it is read.

#![deny(unsafe_code)]

mod files;
mod record;
mod request;
mod store;
mod stream;

pub(crate) use files::Files;
