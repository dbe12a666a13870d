// SPDX-License-Identifier: GPL-2.0
//! Reports of processes that are as large as processes get, and what they cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ravel_records::{CowReport, Family, PageReport, QueueName};

use super::peers::wait_for;
use crate::harness::say;
use crate::measure::{Holds, kernel_bytes};
use crate::module::{self, Answer, BUFFER, REPORTS, open_query, report_text, write_errno};
use crate::process::{Area, Child};
use crate::report::{chain, numbers, parse_anon, parse_skbs, parse_sockets, queue};
use crate::sys::{self, Address, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

mod crowd;
mod families;
mod million;
pub use crowd::TESTS as CROWD;
pub use families::TESTS as FAMILIES;
pub use million::TESTS as MILLION;

tests!("bounds":
    process_with_65000_vmas [180 s],
    process_with_100000_avcs [180 s],
    process_with_4000_empty_page_tables [120 s],
    process_with_20000_sockets [180 s],
    process_with_100000_sk_buffs [240 s],
    names_of_4095_strange_bytes [120 s],
    open_reports_are_no_more_memory_than_told [120 s],
    signal_ends_a_long_report_at_once [180 s],
);

/// Kernel memory that one report under way may take, in bytes.
const MOST_MEMORY: i64 = 1 << 20;

/// No lock is held for longer, even by an emulated CPU that others share.
fn longest_hold() -> Duration {
    tier::patience(1)
}

/// Judges what reports cost: how long locks were held, and the kernel memory of one report under way.
fn affordable(report: &str, holds: &Holds, memory: i64) -> Result<()> {
    check!(
        holds.longest() < longest_hold(),
        "{report}: a lock is held for long: {holds}"
    );
    check!(
        tier::is_debug() || memory < MOST_MEMORY,
        "{report}: {memory} bytes of kernel memory for one report under way"
    );
    Ok(())
}

/// Kernel memory of a report that is under way, at most, over some places in it. The debug kernel has
/// more of everything, so there it is no figure to judge.
fn memory(report: &str, pid: Pid, len: usize) -> Result<i64> {
    const READERS: i64 = 4;
    let mut most = 0;
    let places = [0, len / 50, len / 10, len / 2];
    for place in &places[..tier::scale(4, 2)] {
        let before = kernel_bytes()?;
        let mut open = Vec::new();
        for _ in 0..READERS {
            let mut file = open_query()?;
            let request = format!("{report} {pid}");
            check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
            file.read_exact(&mut vec![0; *place + 1])?;
            open.push(file);
        }
        most = most.max((kernel_bytes()? - before) / READERS);
    }
    Ok(most)
}

/// Reads a report of a process that does nothing, and tells what it costs.
fn weigh(report: &str, pid: Pid) -> Result<Vec<u8>> {
    // Memory that is kept between reports is there before it is counted.
    report_text(report, pid)?;
    Holds::forget()?;
    let start = Instant::now();
    let text = report_text(report, pid)?;
    let time = start.elapsed();
    let holds = Holds::now()?;
    let memory = memory(report, pid, text.len())?;
    let lines = text.iter().filter(|b| **b == b'\n').count();
    say(format_args!(
        "{report}: {lines} records, {} KiB, in {time:.2?}; longest holds: {holds}; kernel memory of one such \
         report under way: {} KiB",
        text.len() >> 10,
        memory >> 10,
    ));
    affordable(report, &holds, memory)?;
    Ok(text)
}

/// Mappings that a process has, by the kernel's own count.
fn maps(pid: Pid) -> Result<u64> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    // The same for all, and in no process' address space.
    let own = lines.filter(|line| !line.ends_with(b"[vsyscall]"));
    Ok(own.count() as u64)
}

/// Makes every other page read-only: one VMA for each page.
fn split(area: Area) -> Result<()> {
    for addr in (area.start..area.end()).skip(PAGE).step_by(2 * PAGE) {
        sys::protect(addr as usize, PAGE, libc::PROT_READ)?;
    }
    Ok(())
}

/// A child with an area in as many VMAs as pages; with one anon_vma, unless it was never written to.
fn many_vmas(pages: usize, written: bool) -> Result<(Child, Area)> {
    let area = Area::map(pages)?;
    let mut child = Child::spawn(move |link| {
        if written {
            sys::poke(area.start as usize, 1);
        }
        split(area)?;
        link.send("split")?;
        link.wait().map(drop)
    })?;
    check_eq!(child.link.wait()?, "split", "what the child says");
    Ok((child, area))
}

fn process_with_65000_vmas() -> Result<()> {
    // The limit, vm.max_map_count, is 65530.
    let vmas = tier::scale(65_000, 20_000);
    let (child, area) = many_vmas(vmas, true)?;
    let report = parse_anon(&weigh("anon_vma", child.pid)?)?;
    check_eq!(
        report.summary.vmas,
        maps(child.pid)?,
        "VMAs, by /proc/PID/maps"
    );
    let ours: Vec<_> = report
        .vmas
        .iter()
        .filter(|vma| (area.start..area.end()).contains(&vma.start.0))
        .collect();
    check_eq!(ours.len(), vmas, "VMAs of the area");
    say(format_args!("{vmas} VMAs in one process"));
    let own = ours[0].anon_vma;
    for (i, vma) in ours.iter().enumerate() {
        let page = area.pages(i as u64, 1);
        check_eq!((vma.start.0, vma.end.0), (page.start, page.end()), "bounds");
        check_eq!(
            (vma.chain, vma.anon_vma),
            (1, own),
            "chain, anon_vma of {vma:?}"
        );
    }
    let group = &report.anon_vmas[&own];
    let all = vmas as u64;
    check_eq!(
        numbers(group),
        (0, 1, all, 1, all),
        "numbers of the anon_vma"
    );
    let starts: BTreeSet<u64> = group.member.iter().map(|member| member.start.0).collect();
    check_eq!(starts.len(), vmas, "members that differ");
    check_eq!(
        (report.summary.moved, report.summary.cut),
        (0, 0),
        "moved, cut"
    );
    // Those that have no chain are passed by, and counted.
    let (child, _) = many_vmas(vmas, false)?;
    let report = parse_anon(&weigh("anon_vma", child.pid)?)?;
    check_eq!(
        report.summary.vmas,
        maps(child.pid)?,
        "VMAs, by /proc/PID/maps"
    );
    Ok(())
}

/// A child that forks the next generation, and so on; the last one splits the area. Its pid is what
/// the link tells.
fn generation(left: usize, area: Area) -> Result<Child> {
    Child::spawn(move |link| {
        if left == 0 {
            split(area)?;
            link.send(&sys::getpid().to_string())?;
        } else {
            let mut next = generation(left - 1, area)?;
            link.send(&next.link.wait()?)?;
            next.link.wait()?;
        }
        link.wait().map(drop)
    })
}

fn process_with_100000_avcs() -> Result<()> {
    const DEPTH: usize = 49;
    const WIDTH: usize = 30;
    let pieces = tier::scale(2000, 400);
    let area = Area::map(pieces)?;
    sys::poke(area.start as usize, 1);
    let mut beside = Vec::new();
    for _ in 0..WIDTH {
        beside.push(Child::idle()?);
    }
    let mut first = generation(DEPTH - 1, area)?;
    let leaf: Pid = first.link.wait()?.parse()?;
    let report = parse_anon(&weigh("anon_vma", leaf)?)?;
    let ours: Vec<_> = report
        .vmas
        .iter()
        .filter(|vma| (area.start..area.end()).contains(&vma.start.0))
        .collect();
    check_eq!(ours.len(), pieces, "VMAs of the area");
    let avcs: usize = ours.iter().map(|vma| vma.avcs.len()).sum();
    check_eq!(avcs, pieces * (DEPTH + 1), "AVCs of the area");
    say(format_args!(
        "{avcs} AVCs in one process, in chains of {}",
        DEPTH + 1
    ));
    for piece in 0..pieces as u64 {
        let chain = chain(&report, area.pages(piece, 1))?;
        check_eq!(chain.len(), DEPTH + 1, "chain of piece {piece}");
        if piece > 0 && piece + 1 < pieces as u64 {
            continue;
        }
        for (depth, group) in chain.iter().enumerate() {
            // One VMA in each generation from its own on, and the last one's many.
            let mut members = DEPTH - depth + pieces;
            let (mut children, mut refs, mut active) = (1, 1, 1);
            if depth == 0 {
                members += WIDTH;
                // Itself, the next generation, and those beside it.
                children = 2 + WIDTH;
                refs = 1 + DEPTH + WIDTH;
            } else if depth == DEPTH {
                (children, active) = (0, pieces);
            }
            let want = (depth as u64, children as u64, active as u64, refs as i64);
            let want = (want.0, want.1, want.2, want.3, members as u64);
            check_eq!(
                numbers(group),
                want,
                "numbers of the anon_vma at depth {depth}"
            );
            check_eq!(group.member.len(), members, "members at depth {depth}");
        }
    }
    check_eq!(
        (report.summary.moved, report.summary.cut),
        (0, 0),
        "moved, cut"
    );
    Ok(())
}

/// Tables in which nothing is left are walked all the same.
fn process_with_4000_empty_page_tables() -> Result<()> {
    const TABLE: usize = 512 * PAGE;
    const TABLES: usize = 4000;
    let len = TABLES * TABLE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let start = sys::map(0, len, libc::PROT_READ | libc::PROT_WRITE, flags, None, 0)?;
    sys::advise(start, len, libc::MADV_NOHUGEPAGE)?;
    let child = Child::spawn(move |link| {
        for page in (start..start + len).step_by(TABLE) {
            sys::poke(page, 1);
            // Of a single page, so that its table stays.
            sys::advise(page, PAGE, libc::MADV_DONTNEED)?;
        }
        sys::poke(start + len - PAGE, 1);
        link.send("empty")?;
        link.wait().map(drop)
    });
    sys::unmap(start, len)?;
    let mut child = child?;
    check_eq!(child.link.wait()?, "empty", "what the child says");
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid))?;
    let tables = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    let tables: usize = tables
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("VmPTE")?;
    check!(tables >= TABLES * 4, "only {tables} KiB of page tables");
    let report = CowReport::parse(&weigh("cow", child.pid)?)?;
    let ours: Vec<_> = report
        .vmas
        .iter()
        .filter(|vma| (start..start + len).contains(&(vma.start.0 as usize)))
        .collect();
    check_eq!(ours.len(), 1, "VMAs of the area");
    check_eq!(ours[0].pages.anon, 1, "pages in it");
    let request = format!("page {} {start:#x} {:#x}", child.pid, start + len);
    let (errno, answer) = module::query(request.as_bytes())?;
    check_eq!(errno, 0, "errno of {request:?}");
    let report = PageReport::parse(&answer.whole()?)?;
    let pages = (len / PAGE) as u64;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (1, pages - 1),
        "pages, empty ones"
    );
    Ok(())
}

fn process_with_20000_sockets() -> Result<()> {
    const SOCKETS: usize = 20_000;
    let mut child = Child::spawn(|link| {
        sys::allow_descriptors(SOCKETS as u64 + 100)?;
        let mut open = Vec::new();
        while open.len() < SOCKETS {
            open.push(sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?);
            open.push(sys::socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?);
            let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
            open.extend([one, two]);
        }
        link.send("open")?;
        link.wait().map(drop)
    })?;
    check_eq!(child.link.wait()?, "open", "what the child says");
    let fds = fs::read_dir(format!("/proc/{}/fd", child.pid))?.count() as u64;
    let report = parse_sockets(&weigh("sockets", child.pid)?)?;
    check_eq!(
        (report.summary.fds, report.summary.sockets),
        (fds, SOCKETS as u64),
        "descriptors, sockets"
    );
    check_eq!(
        (report.summary.busy, report.summary.cut),
        (0, 0),
        "busy, cut"
    );
    let mut families = BTreeMap::new();
    for socket in &report.sockets {
        *families.entry(socket.family.to_string()).or_insert(0) += 1;
    }
    let quarter = SOCKETS / 4;
    let want = [Family::Inet, Family::Inet6, Family::Unix].map(|f| f.to_string());
    let want: BTreeMap<_, _> = want
        .into_iter()
        .zip([quarter, quarter, 2 * quarter])
        .collect();
    check_eq!(families, want, "sockets of each family");
    let ids: BTreeSet<_> = report.sockets.iter().map(|socket| socket.id).collect();
    check_eq!(ids.len(), SOCKETS, "ids that differ");
    check!(
        report.sockets.is_sorted_by(|a, b| a.fd < b.fd),
        "descriptors are out of order"
    );
    let report = parse_skbs(&weigh("skbs", child.pid)?)?;
    check_eq!(
        (
            report.summary.sockets,
            report.summary.skbs,
            report.summary.cut
        ),
        (SOCKETS as u64, 0, 0),
        "sockets, skbs, cut"
    );
    Ok(())
}

/// A UDP socket that is connected to itself, and holds so many datagrams.
fn full_udp(packets: usize) -> Result<std::os::fd::OwnedFd> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 512 << 20)?;
    sys::bind(&fd, &Address::loopback(0))?;
    sys::connect(&fd, &Address::loopback(sys::port_of(&fd)?))?;
    for i in 0..packets {
        sys::send(&fd, &[0; 8][..i % 8 + 1], 0)?;
    }
    Ok(fd)
}

fn process_with_100000_sk_buffs() -> Result<()> {
    // What is shown of a queue, and looked at for its bytes.
    const SHOWN: usize = 1024;
    const WALKED: usize = 16384;
    const OTHERS: usize = 40;
    let (long, short) = (tier::scale(60_000, 30_000), tier::scale(1000, 250));
    // In pages, for all UDP sockets together.
    fs::write("/proc/sys/net/ipv4/udp_mem", "400000 500000 600000")?;
    let mut child = Child::spawn(move |link| {
        let mut open = vec![full_udp(long)?];
        for _ in 0..OTHERS {
            open.push(full_udp(short)?);
        }
        let fds: Vec<_> = open.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        link.send(&fds.join(" "))?;
        link.wait().map(drop)
    })?;
    let fds = child.link.wait()?;
    let fds: Vec<u32> = fds.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let count = |report: &ravel_records::SocketsReport, fd| -> Result<u64> {
        let socket = report.socket(fd).context("no socket")?;
        Ok(socket.detail.as_ref().context("busy")?.rx_packets)
    };
    wait_for("the last datagram", || {
        let report = parse_sockets(&report_text("sockets", child.pid)?)?;
        Ok(count(&report, fds[0])? == long as u64 && count(&report, fds[OTHERS])? == short as u64)
    })?;

    let report = parse_sockets(&weigh("sockets", child.pid)?)?;
    let bytes = |packets: usize| (0..packets as u64).map(|i| i % 8 + 1).sum::<u64>();
    for (i, fd) in fds.iter().enumerate() {
        let packets = if i == 0 { long } else { short };
        check_eq!(
            count(&report, *fd)?,
            packets as u64,
            "rx_packets of socket {i}"
        );
        let detail = report.socket(*fd).and_then(|s| s.detail.as_ref());
        check_eq!(
            detail.context("busy")?.rx_bytes,
            bytes(packets.min(WALKED)),
            "rx_bytes of socket {i}"
        );
    }
    check_eq!(
        report.summary.cut,
        (long - WALKED) as u64,
        "cut of `sockets`"
    );

    let report = parse_skbs(&weigh("skbs", child.pid)?)?;
    for (i, fd) in fds.iter().enumerate() {
        let packets = if i == 0 { long } else { short };
        let of = report.socket(*fd).context("no socket")?;
        let queue = queue(of, &QueueName::Receive)?;
        check_eq!(
            (queue.packets, queue.shown, queue.skbs.len()),
            (
                packets as u64,
                packets.min(SHOWN) as u64,
                packets.min(SHOWN)
            ),
            "packets, shown, skb records of socket {i}"
        );
        for (pos, skb) in queue.skbs.iter().enumerate() {
            check_eq!(
                (skb.pos, skb.len),
                (pos as u64, (pos % 8 + 1) as u64),
                "pos, len"
            );
        }
    }
    let shown = long.min(SHOWN) + OTHERS * short.min(SHOWN);
    check_eq!(report.summary.skbs, shown as u64, "skbs of the summary");
    check_eq!(
        report.summary.cut,
        (long + OTHERS * short - shown) as u64,
        "cut of `skbs`: all that is not shown"
    );
    say(format_args!(
        "{} sk_buffs in one process",
        long + OTHERS * short
    ));
    Ok(())
}

fn names_of_4095_strange_bytes() -> Result<()> {
    const MAPPINGS: usize = 400;
    let mut child = Child::spawn(|link| {
        // The longest path there is, of bytes that take four each in a report.
        sys::unshare(libc::CLONE_NEWNS)?;
        std::env::set_current_dir("/tmp")?;
        let step = "\u{1}".repeat(251);
        let mut len = "/tmp/".len();
        while len + step.len() + 1 < 4000 {
            fs::create_dir_all(&step)?;
            std::env::set_current_dir(&step)?;
            len += step.len() + 1;
        }
        let name = "\u{2}".repeat(4094 - len);
        let name = &name[..name.len().min(255)];
        fs::write(name, vec![0; PAGE])?;
        let file = fs::File::open(name)?;
        for _ in 0..MAPPINGS {
            let area = Area::map(1)?;
            let at = area.start as usize;
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            sys::map(at, PAGE, prot, flags, Some(&file), 0)?;
            area.touch();
        }
        link.send(&(len + name.len()).to_string())?;
        link.wait().map(drop)
    })?;
    let len: usize = child.link.wait()?.parse()?;
    check!(len > 4000, "a path of only {len} bytes");
    let report = parse_anon(&weigh("anon_vma", child.pid)?)?;
    let long = report
        .vmas
        .iter()
        .filter(|vma| vma.name.as_bytes().len() == len);
    check_eq!(long.count(), MAPPINGS, "VMAs with that name");
    Ok(())
}

fn open_reports_are_no_more_memory_than_told() -> Result<()> {
    const OPEN: i64 = 64;
    let (child, _) = many_vmas(10_000, true)?;
    for report in REPORTS {
        report_text(report, child.pid)?;
        let before = kernel_bytes()?;
        let mut open = Vec::new();
        for _ in 0..OPEN {
            let mut file = open_query()?;
            let request = format!("{report} {}", child.pid);
            check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
            file.read_exact(&mut [0; 50])?;
            open.push(file);
        }
        let used = kernel_bytes()? - before;
        drop(open);
        let left = kernel_bytes()? - before;
        say(format_args!(
            "{report}: {OPEN} under way take {} KiB; {} KiB once they are closed",
            used >> 10,
            left >> 10
        ));
        check!(
            tier::is_debug() || used < OPEN * MOST_MEMORY && left < MOST_MEMORY,
            "{used} bytes for {OPEN} reports under way, {left} when they are closed"
        );
    }
    Ok(())
}

fn signal_ends_a_long_report_at_once() -> Result<()> {
    const ROUNDS: u32 = 15;
    let vmas = tier::scale(65_000, 20_000);
    let mut slowest = Duration::ZERO;
    // Of the second, which has no chains, the summary is nearly all: one read() walks through it.
    for written in [true, false] {
        let (target, _) = many_vmas(vmas, written)?;
        let pid = target.pid;
        let start = Instant::now();
        report_text("anon_vma", pid)?;
        let whole = start.elapsed();
        for round in 0..ROUNDS {
            for signal in [libc::SIGKILL, libc::SIGINT] {
                let mut reader = Child::spawn(move |link| {
                    let mut file = open_query()?;
                    let request = format!("anon_vma {pid}");
                    loop {
                        check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
                        link.send("begun")?;
                        let answer = Answer::read(&mut file, 16 * BUFFER);
                        check_eq!(answer.errno, 0, "a report without a signal");
                    }
                })?;
                check_eq!(reader.link.wait()?, "begun", "what the reader says");
                std::thread::sleep(whole * round / ROUNDS);
                let start = Instant::now();
                let end = reader.end_by(signal)?;
                let time = start.elapsed();
                check_eq!(end, Err(signal), "how the reader ended");
                check!(
                    time < tier::patience(2),
                    "signal {signal} ended the reader after {time:?}"
                );
                check_eq!(module::references()?, 0, "references after its death");
                slowest = slowest.max(time);
            }
        }
        say(format_args!(
            "a report that takes {whole:.2?} ends at most {slowest:.2?} after a fatal signal"
        ));
    }
    Ok(())
}
