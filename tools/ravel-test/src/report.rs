// SPDX-License-Identifier: GPL-2.0
//! Reports of the module, parsed, and what tests look for in them.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use ravel_records::{
    AnonVma, AnonVmaReport, ChainsReport, CowReport, Id, LineageReport, Member, PageReport, Queue,
    QueueName, Relation, SkbsReport, Socket, SocketDetail, SocketQueues, SocketsReport, Tree, Vma,
};

use crate::check_eq;
use crate::module::{query, report_text};
use crate::process::Area;
use crate::sys::{self, Pid};

/// The report `anon_vma` of a process, by `query`.
pub fn anon(pid: Pid) -> Result<AnonVmaReport> {
    parse_anon(&report_text("anon_vma", pid)?)
}

/// The report `sockets` of a process, by `query`.
pub fn sockets(pid: Pid) -> Result<SocketsReport> {
    parse_sockets(&report_text("sockets", pid)?)
}

/// The report `skbs` of a process, by `query`.
pub fn skbs(pid: Pid) -> Result<SkbsReport> {
    parse_skbs(&report_text("skbs", pid)?)
}

/// The report `cow` of a process, by `query`.
pub fn cow(pid: Pid) -> Result<CowReport> {
    parse_cow(&report_text("cow", pid)?)
}

/// The report `lineage` of a process, by `query`.
pub fn lineage(pid: Pid) -> Result<LineageReport> {
    parse_lineage(&report_text("lineage", pid)?)
}

/// The same, joined with `anon_vma` and `cow`.
pub fn tree(pid: Pid) -> Result<Tree> {
    Ok(Tree::new(lineage(pid)?, &anon(pid)?, &cow(pid)?))
}

/// The report `chains` of a process, by `query`.
pub fn chains(pid: Pid) -> Result<ChainsReport> {
    parse_chains(&report_text("chains", pid)?)
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_chains(text: &[u8]) -> Result<ChainsReport> {
    ChainsReport::parse(text).map_err(|e| with_text(e, text))
}

/// The report `page` of some addresses of a process, by `query`.
pub fn page(pid: Pid, start: u64, end: u64) -> Result<PageReport> {
    let request = format!("page {pid} {start:#x} {end:#x}\n");
    let (errno, answer) = query(request.as_bytes())?;
    check_eq!(errno, 0, "the write of {request:?}, that gives {answer:?}");
    parse_page(&answer.whole()?)
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_page(text: &[u8]) -> Result<PageReport> {
    PageReport::parse(text).map_err(|e| with_text(e, text))
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_lineage(text: &[u8]) -> Result<LineageReport> {
    LineageReport::parse(text).map_err(|e| with_text(e, text))
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_cow(text: &[u8]) -> Result<CowReport> {
    CowReport::parse(text).map_err(|e| with_text(e, text))
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_anon(text: &[u8]) -> Result<AnonVmaReport> {
    AnonVmaReport::parse(text).map_err(|e| with_text(e, text))
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_sockets(text: &[u8]) -> Result<SocketsReport> {
    SocketsReport::parse(text).map_err(|e| with_text(e, text))
}

/// Parses a report, and puts its text behind the error where that fails.
pub fn parse_skbs(text: &[u8]) -> Result<SkbsReport> {
    SkbsReport::parse(text).map_err(|e| with_text(e, text))
}

fn with_text(error: ravel_records::Error, text: &[u8]) -> anyhow::Error {
    let shown = &text[..text.len().min(20_000)];
    anyhow!("{error}\n{}", String::from_utf8_lossy(shown))
}

/// The `vma` record of exactly that area.
pub fn vma(report: &AnonVmaReport, area: Area) -> Result<&Vma> {
    let vma = report
        .vma_at(area.start)
        .with_context(|| format!("no record of {area:x?}"))?;
    check_eq!(
        (vma.start.0, vma.end.0),
        (area.start, area.end()),
        "bounds of {area:x?}"
    );
    Ok(vma)
}

/// The chain of an area from the root to its own anon_vma; all of it must be in the report.
pub fn chain(report: &AnonVmaReport, area: Area) -> Result<Vec<&AnonVma>> {
    let vma = vma(report, area)?;
    let chain = report.chain(vma);
    check_eq!(
        chain.len() as u64,
        vma.chain,
        "anon_vma records of {area:x?}'s chain"
    );
    check_eq!(vma.avcs.len() as u64, vma.chain, "avc records of {area:x?}");
    let own: Vec<Id> = vma
        .avcs
        .iter()
        .filter(|a| a.own)
        .map(|a| a.anon_vma)
        .collect();
    check_eq!(
        own,
        [vma.anon_vma],
        "avc records of {area:x?} that say own=1"
    );
    Ok(chain)
}

/// What a test compares of an anon_vma: depth, children, active_vmas, refcount, members.
pub fn numbers(group: &AnonVma) -> (u64, u64, u64, i64, u64) {
    (
        group.depth,
        group.children,
        group.active_vmas,
        group.refcount,
        group.members,
    )
}

/// pid and relation of an anon_vma's members, sorted by pid. All must be live.
pub fn members(group: &AnonVma) -> Result<Vec<(Pid, Relation)>> {
    let mut members = Vec::new();
    for member in &group.member {
        check_eq!(
            member.state,
            ravel_records::MemberState::Live,
            "state of {member:?}"
        );
        members.push((member.pid as Pid, member.relation.clone()));
    }
    members.sort();
    Ok(members)
}

/// Checks an anon_vma's members: these processes, each with that relation, and exactly that area,
/// whose page offset is that of its address.
pub fn check_members(group: &AnonVma, area: Area, want: &[(Pid, Relation)]) -> Result<()> {
    check_members_at(group, area, area.start >> 12, want)
}

/// The same of an area with another page offset.
pub fn check_members_at(
    group: &AnonVma,
    area: Area,
    offset: u64,
    want: &[(Pid, Relation)],
) -> Result<()> {
    let mut want = want.to_vec();
    want.sort();
    check_eq!(
        members(group)?,
        want,
        "members of anon_vma {} at depth {}",
        group.id,
        group.depth
    );
    for member in &group.member {
        check_eq!(
            bounds(member),
            (area.start, area.end()),
            "bounds of {member:?}"
        );
        check_eq!(member.anon_pgoff.0, offset, "anon_pgoff of {member:?}");
    }
    Ok(())
}

/// Bounds of a member.
pub fn bounds(member: &Member) -> (u64, u64) {
    (member.start.0, member.end.0)
}

/// The record of a descriptor of ours.
pub fn socket<'r>(report: &'r SocketsReport, fd: &impl AsRawFd) -> Result<&'r Socket> {
    let fd = fd.as_raw_fd();
    report
        .socket(fd as u32)
        .with_context(|| format!("no record of descriptor {fd}: {report:#?}"))
}

/// What was read under the socket's lock.
pub fn detail(socket: &Socket) -> Result<&SocketDetail> {
    socket
        .detail
        .as_ref()
        .with_context(|| format!("it was busy: {socket:?}"))
}

/// The socket of one of our own descriptors, read anew.
pub fn own_socket(fd: &impl AsRawFd) -> Result<(Socket, SocketDetail)> {
    let report = sockets(sys::getpid())?;
    let socket = socket(&report, fd)?;
    Ok((socket.clone(), detail(socket)?.clone()))
}

/// The queues of one of our own descriptors, read anew.
pub fn own_queues(fd: &impl AsRawFd) -> Result<SocketQueues> {
    let report = skbs(sys::getpid())?;
    let fd = fd.as_raw_fd();
    report
        .socket(fd as u32)
        .cloned()
        .with_context(|| format!("no record of descriptor {fd}"))
}

/// One of the queues.
pub fn queue<'q>(of: &'q SocketQueues, name: &QueueName) -> Result<&'q Queue> {
    of.queue(name)
        .with_context(|| format!("no queue {name}: {of:#?}"))
}
