// SPDX-License-Identifier: GPL-2.0
//! All tests, by subject, in the order in which they run.

use crate::harness::Test;

mod anon;
mod badinput;
mod churn;
mod concurrency;
mod family;
mod identity;
mod lifecycle;
mod peers;
mod queued;
mod reading;
mod shutdown;
mod skbs;
mod sockets;

/// Every subject's tests.
pub const ALL: &[&[Test]] = &[
    anon::TESTS,
    family::TESTS,
    identity::TESTS,
    badinput::TESTS,
    reading::TESTS,
    sockets::TESTS,
    shutdown::TESTS,
    queued::TESTS,
    skbs::TESTS,
    concurrency::TESTS,
    lifecycle::TESTS,
    churn::TESTS,
];
