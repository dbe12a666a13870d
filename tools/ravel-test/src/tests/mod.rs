// SPDX-License-Identifier: GPL-2.0
//! All tests, by subject, in the order in which they run.

use crate::harness::Test;

mod anon;
mod badinput;
mod binary;
mod binary_events;
mod bounds;
mod chains;
mod chunks;
mod churn;
mod claims;
mod cli;
mod closings;
mod concurrency;
mod cost;
mod cow;
mod decode;
mod events;
mod events_cli;
mod events_failed;
mod events_held;
mod events_leases;
mod events_lost;
mod events_poll;
mod events_streams;
mod facts;
mod family;
mod faults;
mod faults_streams;
mod fire;
mod forward;
mod fuzz;
mod fuzz_streams;
mod graph;
mod identity;
mod lifecycle;
mod lineage;
mod names;
mod netevents;
mod netfilters;
mod packets;
mod packets_begin;
mod packets_copies;
mod packets_extensions;
mod packets_parts;
mod packets_probes;
mod page;
mod peers;
mod polite;
mod privilege;
mod proof;
mod queued;
mod reading;
mod scan;
mod selftests;
mod sharers;
mod shutdown;
mod skb_headers;
mod skb_queues;
mod skb_tunnels;
mod skbs;
mod socket_kinds;
mod socket_moments;
mod sockets;
mod spool;
mod storm;
mod stuck;
mod verdict;
mod waiters;
mod watch_cli;
mod who;
mod wire;
mod work;
mod work_ended;
mod work_prefetch;
mod work_prefetch_ended;
mod work_safe;

/// Every subject's tests.
pub const ALL: &[&[Test]] = &[
    anon::TESTS,
    family::TESTS,
    identity::TESTS,
    badinput::TESTS,
    reading::TESTS,
    binary::TESTS,
    binary_events::TESTS,
    chunks::TESTS,
    page::TESTS,
    page::FILES,
    page::KINDS,
    page::SHAPES,
    page::MOVING,
    cow::TESTS,
    scan::TESTS,
    lineage::TESTS,
    lineage::SHAPES,
    chains::TESTS,
    cost::TESTS,
    graph::TESTS,
    sockets::TESTS,
    socket_kinds::TESTS,
    socket_kinds::FAULTS,
    socket_moments::TESTS,
    names::TESTS,
    shutdown::TESTS,
    queued::TESTS,
    facts::TESTS,
    sharers::TESTS,
    verdict::TESTS,
    claims::TESTS,
    waiters::TESTS,
    waiters::wild::TESTS,
    watch_cli::TESTS,
    who::TESTS,
    who::ADDRESSES,
    who::NAMES,
    who::HIDDEN,
    who::ELSEWHERE,
    stuck::TESTS,
    stuck::ELSEWHERE,
    stuck::WATCH,
    stuck::IDENTITY,
    stuck::FULL,
    stuck::ONE,
    skbs::TESTS,
    skb_queues::TESTS,
    skb_headers::TESTS,
    skb_tunnels::TESTS,
    decode::TESTS,
    events::TESTS,
    events_lost::TESTS,
    events_streams::TESTS,
    events_held::TESTS,
    events_leases::TESTS,
    events_failed::TESTS,
    events_poll::TESTS,
    events_cli::TESTS,
    netevents::TESTS,
    netfilters::TESTS,
    packets::TESTS,
    packets_begin::TESTS,
    packets_copies::TESTS,
    packets_extensions::TESTS,
    packets_parts::TESTS,
    packets_probes::TESTS,
    closings::TESTS,
    spool::TESTS,
    work::TESTS,
    work_ended::TESTS,
    work_prefetch::TESTS,
    work_prefetch_ended::TESTS,
    work_safe::TESTS,
    forward::TESTS,
    proof::TESTS,
    cli::TESTS,
    concurrency::TESTS,
    lifecycle::TESTS,
    churn::TESTS,
    bounds::TESTS,
    bounds::CROWD,
    bounds::FAMILIES,
    bounds::MILLION,
    polite::TESTS,
    privilege::TESTS,
    fuzz::TESTS,
    fuzz_streams::TESTS,
    fire::TESTS,
    storm::TESTS,
    faults_streams::TESTS,
    faults::TESTS,
    selftests::TESTS,
    selftests::net::TESTS,
    selftests::packetdrill::TESTS,
];
