// SPDX-License-Identifier: GPL-2.0
//! Report sockets: descriptors, kinds, names, options and errors.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Context, Result, bail};
use ravel_records::{Linger, Shutdown, SkState, SocketState};

use super::peers::{pair, wait_for};
use crate::process::{Child, Stage};
use crate::report::{detail, own_socket, skbs, socket, sockets};
use crate::sys::{self, Address, PAGE, Pid};
use crate::{check, check_eq, tests};

tests!("sockets":
    descriptors_are_those_of_proc_in_order,
    inode_and_netns_are_those_of_the_system,
    kinds_are_those_that_getsockopt_tells,
    mptcp_and_sctp_have_no_queue_lengths,
    duplicates_and_forks_count_as_file_refs,
    descriptor_on_its_way_counts_as_a_file_ref,
    sockets_of_another_process,
    other_network_namespace,
    linger_set_and_unset,
    pending_reset_is_shown_and_stays_pending,
    pending_refusal_is_shown_and_stays_pending,
    udp_refusal_is_shown_and_stays_pending,
    socket_states_of_a_life,
    busy_socket_is_told_as_busy,
    thousand_descriptors,
);

/// inode of each of a process' descriptors that is a socket, and how many descriptors there are.
fn of_proc(pid: Pid) -> Result<(BTreeMap<u32, u64>, u64)> {
    let (mut sockets, mut count) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        count += 1;
        let target = fs::read_link(entry.path())?;
        let target = target.to_string_lossy();
        if let Some(rest) = target.strip_prefix("socket:[") {
            let fd = entry.file_name().to_string_lossy().parse()?;
            sockets.insert(fd, rest.trim_end_matches(']').parse()?);
        }
    }
    Ok((sockets, count))
}

fn check_descriptors(pid: Pid) -> Result<usize> {
    let (want, count) = of_proc(pid)?;
    let want: Vec<(u32, u64)> = want.into_iter().collect();
    let report = sockets(pid)?;
    let found: Vec<_> = report.sockets.iter().map(|s| (s.fd, s.inode)).collect();
    check_eq!(found, want, "descriptor and inode of each socket");
    check_eq!(report.summary.fds, count, "fds in the summary");
    let report = skbs(pid)?;
    let found: Vec<_> = report
        .sockets
        .iter()
        .map(|s| (s.socket.fd, s.socket.inode))
        .collect();
    check_eq!(found, want, "descriptor and inode of each socket in `skbs`");
    check_eq!(report.summary.fds, count, "fds in the summary of `skbs`");
    Ok(want.len())
}

fn descriptors_are_those_of_proc_in_order() -> Result<()> {
    let mut kept: Vec<Box<dyn AsRawFd>> = Vec::new();
    for i in 0..10 {
        kept.push(Box::new(fs::File::open("/dev/null")?));
        kept.push(Box::new(UdpSocket::bind("127.0.0.1:0")?));
        let (one, two) = sys::socketpair(libc::SOCK_DGRAM)?;
        kept.push(Box::new(two));
        if i % 3 == 0 {
            kept.push(Box::new(sys::memfd("not a socket")?));
        }
        drop(one);
    }
    // A puppet, so that no descriptor is opened by looking.
    let puppet = Stage::new(1)?.start()?;
    check_eq!(check_descriptors(puppet.pid)?, 20, "sockets");
    drop(kept);
    check_eq!(
        check_descriptors(puppet.pid)?,
        20,
        "sockets that the puppet alone has"
    );
    let bare = Stage::new(1)?.start()?;
    check_eq!(
        check_descriptors(bare.pid)?,
        0,
        "sockets of a process that has none"
    );
    Ok(())
}

fn inode_and_netns_are_those_of_the_system() -> Result<()> {
    let (one, two) = pair()?;
    for fd in [one.as_raw_fd(), two.as_raw_fd()] {
        let (socket, _) = own_socket(&fd)?;
        let meta = fs::metadata(format!("/proc/self/fd/{fd}"))?;
        check_eq!(socket.inode, meta.ino(), "inode");
        check_eq!(
            socket.netns,
            fs::metadata("/proc/self/ns/net")?.st_ino(),
            "netns"
        );
    }
    let ids = [own_socket(&one)?.0.id, own_socket(&two)?.0.id];
    check!(ids[0] != ids[1], "both have the id {}", ids[0]);
    Ok(())
}

fn kinds_are_those_that_getsockopt_tells() -> Result<()> {
    use libc::{AF_ALG, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
    use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
    let kinds: &[(i32, i32, i32, [&str; 3])] = &[
        (AF_INET, SOCK_STREAM, 0, ["inet", "stream", "tcp"]),
        (AF_INET6, SOCK_STREAM, 0, ["inet6", "stream", "tcp"]),
        (AF_INET, SOCK_DGRAM, 0, ["inet", "dgram", "udp"]),
        (AF_INET6, SOCK_DGRAM, 0, ["inet6", "dgram", "udp"]),
        (
            AF_INET,
            SOCK_RAW,
            libc::IPPROTO_ICMP,
            ["inet", "raw", "icmp"],
        ),
        (
            AF_INET6,
            SOCK_RAW,
            libc::IPPROTO_ICMPV6,
            ["inet6", "raw", "icmpv6"],
        ),
        (AF_INET, SOCK_RAW, libc::IPPROTO_RAW, ["inet", "raw", "raw"]),
        (AF_INET, SOCK_RAW, 89, ["inet", "raw", "89"]),
        (AF_UNIX, SOCK_STREAM, 0, ["unix", "stream", "0"]),
        (AF_UNIX, SOCK_DGRAM, 0, ["unix", "dgram", "0"]),
        (AF_UNIX, SOCK_SEQPACKET, 0, ["unix", "seqpacket", "0"]),
        (
            AF_NETLINK,
            SOCK_RAW,
            libc::NETLINK_ROUTE,
            ["netlink", "raw", "0"],
        ),
        (
            AF_NETLINK,
            SOCK_DGRAM,
            libc::NETLINK_KOBJECT_UEVENT,
            ["netlink", "dgram", "15"],
        ),
        (AF_PACKET, SOCK_RAW, 0, ["packet", "raw", "0"]),
        (AF_PACKET, SOCK_DGRAM, 0, ["packet", "dgram", "0"]),
        (AF_VSOCK, SOCK_STREAM, 0, ["vsock", "stream", "0"]),
        (AF_ALG, SOCK_SEQPACKET, 0, ["alg", "seqpacket", "0"]),
        (libc::AF_XDP, SOCK_RAW, 0, ["xdp", "raw", "0"]),
        // Ping sockets.
        (
            AF_INET,
            SOCK_DGRAM,
            libc::IPPROTO_ICMP,
            ["inet", "dgram", "icmp"],
        ),
        (
            AF_INET6,
            SOCK_DGRAM,
            libc::IPPROTO_ICMPV6,
            ["inet6", "dgram", "icmpv6"],
        ),
    ];
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    for (family, kind, protocol, want) in kinds {
        let fd = sys::socket(*family, *kind, *protocol).with_context(|| format!("{want:?}"))?;
        let (socket, detail) = own_socket(&fd)?;
        let found = [
            socket.family.to_string(),
            socket.r#type.to_string(),
            socket.protocol.to_string(),
        ];
        check_eq!(found, want.map(String::from), "family, type, protocol");
        let option = |name| sys::get_option(&fd, libc::SOL_SOCKET, name);
        check_eq!(option(libc::SO_DOMAIN)?, *family, "SO_DOMAIN of {want:?}");
        check_eq!(option(libc::SO_TYPE)?, *kind, "SO_TYPE of {want:?}");
        let number = option(libc::SO_PROTOCOL)?;
        if !["inet", "inet6"].contains(&want[0]) {
            check_eq!(number.to_string(), want[2], "SO_PROTOCOL of {want:?}");
        }
        check_eq!(socket.file_refs, 1, "file_refs of {want:?}");
        check_eq!(detail.shutdown, Shutdown::None, "shutdown of {want:?}");
        check_eq!(
            (detail.rx_bytes, detail.rx_packets),
            (0, 0),
            "rx of {want:?}"
        );
        check_eq!(
            (detail.tx_bytes, detail.tx_packets),
            (0, 0),
            "tx of {want:?}"
        );
        check_eq!((detail.err, detail.soft_err), (0, 0), "errors of {want:?}");
        check_eq!(detail.linger, Linger::Off, "linger of {want:?}");
        check_ioctls(&fd, &detail).with_context(|| format!("{want:?}"))?;
        let queues = crate::report::own_queues(&fd)?.queues;
        let packets: u64 = queues.iter().map(|q| q.packets).sum();
        check_eq!(packets, 0, "packets in the queues of {want:?}");
    }
    Ok(())
}

fn mptcp_and_sctp_have_no_queue_lengths() -> Result<()> {
    let kinds = [
        (
            libc::AF_INET,
            libc::SOCK_STREAM,
            libc::IPPROTO_MPTCP,
            "mptcp",
        ),
        (
            libc::AF_INET6,
            libc::SOCK_STREAM,
            libc::IPPROTO_MPTCP,
            "mptcp",
        ),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP, "sctp"),
        (
            libc::AF_INET6,
            libc::SOCK_SEQPACKET,
            libc::IPPROTO_SCTP,
            "sctp",
        ),
    ];
    for (family, kind, protocol, name) in kinds {
        let fd = sys::socket(family, kind, protocol)?;
        let (socket, detail) = own_socket(&fd)?;
        check_eq!(socket.protocol.to_string(), name, "protocol");
        check_eq!(detail.sk_state, SkState::Close, "sk_state of {name}");
        check_eq!(
            (detail.rx_bytes, detail.tx_bytes),
            (0, 0),
            "rx_bytes, tx_bytes of {name}"
        );
        check!(detail.tcp.is_none(), "TCP's numbers of {name}: {detail:?}");
        // Their ioctls work, but nobody outside net/mptcp and net/sctp can ask the same.
        check_eq!((detail.inq, detail.outq), (-1, -1), "inq, outq of {name}");
    }
    Ok(())
}

/// Compares inq and outq, read before, with what the ioctls say now.
pub fn check_ioctls(fd: &impl AsRawFd, detail: &ravel_records::SocketDetail) -> Result<()> {
    check_eq!(
        detail.inq,
        sys::inq(fd).map_or(-1, i64::from),
        "inq by ioctl SIOCINQ"
    );
    check_eq!(
        detail.outq,
        sys::outq(fd).map_or(-1, i64::from),
        "outq by ioctl SIOCOUTQ"
    );
    Ok(())
}

fn duplicates_and_forks_count_as_file_refs() -> Result<()> {
    let (one, _two) = pair()?;
    check_eq!(own_socket(&one)?.0.file_refs, 1, "file_refs at first");
    let copy = one.try_clone()?;
    let report = sockets(sys::getpid())?;
    let (a, b) = (socket(&report, &one)?, socket(&report, &copy)?);
    check_eq!((a.file_refs, b.file_refs), (2, 2), "file_refs after dup");
    check_eq!(a.id, b.id, "id of both descriptors");
    check_eq!(a.inode, b.inode, "inode of both descriptors");
    let mut child = Child::idle()?;
    check_eq!(
        own_socket(&one)?.0.file_refs,
        4,
        "file_refs after dup and fork"
    );
    drop(copy);
    check_eq!(
        own_socket(&one)?.0.file_refs,
        3,
        "file_refs after closing ours of the two"
    );
    let report = sockets(child.pid)?;
    check_eq!(
        socket(&report, &one)?.file_refs,
        3,
        "file_refs in the child's report"
    );
    check_eq!(socket(&report, &one)?.id, a.id, "id in the child's report");
    child.kill()?;
    check_eq!(
        own_socket(&one)?.0.file_refs,
        1,
        "file_refs after the child's end"
    );
    Ok(())
}

fn descriptor_on_its_way_counts_as_a_file_ref() -> Result<()> {
    let (to, from) = sys::socketpair(libc::SOCK_STREAM)?;
    let (sent, _peer) = pair()?;
    sys::send_descriptor(&to, &sent)?;
    check_eq!(
        own_socket(&sent)?.0.file_refs,
        2,
        "file_refs while it waits in a queue"
    );
    sys::recv(&from, 1, 0)?;
    check_eq!(
        own_socket(&sent)?.0.file_refs,
        1,
        "file_refs once it was read and dropped"
    );
    Ok(())
}

fn sockets_of_another_process() -> Result<()> {
    let mut child = Child::spawn(|link| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd()))?.ino();
        link.send(&format!(
            "{} {} {inode}",
            socket.as_raw_fd(),
            socket.local_addr()?
        ))?;
        link.recv().map(drop)
    })?;
    let said = child.link.recv()?;
    let words: Vec<&str> = said.split(' ').collect();
    let report = sockets(child.pid)?;
    check_eq!(report.header.pid as Pid, child.pid, "pid in the header");
    let [record] = report.sockets.as_slice() else {
        bail!("not one socket: {report:?}")
    };
    check_eq!(record.fd.to_string(), words[0], "fd");
    check_eq!(detail(record)?.local.to_string(), words[1], "local");
    check_eq!(record.inode.to_string(), words[2], "inode");
    let ours = sockets(sys::getpid())?;
    check!(
        ours.sockets.iter().all(|s| s.inode != record.inode),
        "it is in our report"
    );
    Ok(())
}

fn other_network_namespace() -> Result<()> {
    let here = fs::metadata("/proc/self/ns/net")?.st_ino();
    let before = UdpSocket::bind("127.0.0.1:0")?;
    let fd = before.as_raw_fd();
    let mut child = Child::spawn(move |link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let (one, _two) = pair()?;
        let there = fs::metadata("/proc/self/ns/net")?.st_ino();
        link.send(&format!("{} {there}", one.as_raw_fd()))?;
        link.recv().map(drop)
    })?;
    let said = child.link.recv()?;
    let (new_fd, there) = said.split_once(' ').context("too few words")?;
    let there: u64 = there.parse()?;
    check!(there != here, "unshare made no new namespace");
    let report = sockets(child.pid)?;
    check_eq!(
        socket(&report, &fd)?.netns,
        here,
        "netns of the socket made before"
    );
    let new: i32 = new_fd.parse()?;
    check_eq!(
        socket(&report, &new)?.netns,
        there,
        "netns of the socket made after"
    );
    check_eq!(
        detail(socket(&report, &new)?)?.sk_state,
        SkState::Established,
        "its state"
    );
    Ok(())
}

fn linger_set_and_unset() -> Result<()> {
    let (one, _two) = pair()?;
    for (on, seconds, want) in [
        (true, 7, Linger::Seconds(7)),
        (true, 0, Linger::Seconds(0)),
        (true, 3600, Linger::Seconds(3600)),
        (false, 9, Linger::Off),
    ] {
        sys::set_linger(&one, on, seconds)?;
        check_eq!(
            own_socket(&one)?.1.linger,
            want,
            "linger after on={on}, {seconds} s"
        );
    }
    Ok(())
}

/// Checks that a socket has a pending error, that looking does not take it, and that SO_ERROR does.
fn check_pending(fd: &impl AsRawFd, errno: i32) -> Result<()> {
    for round in 0..3 {
        let (_, detail) = own_socket(fd)?;
        check_eq!(
            (detail.err, detail.soft_err),
            (errno, 0),
            "errors, looked at {round} times"
        );
        skbs(sys::getpid())?;
    }
    check_eq!(
        sys::get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR)?,
        errno,
        "SO_ERROR"
    );
    check_eq!(own_socket(fd)?.1.err, 0, "err once SO_ERROR has taken it");
    Ok(())
}

fn pending_reset_is_shown_and_stays_pending() -> Result<()> {
    let (one, two) = pair()?;
    sys::set_linger(&two, true, 0)?;
    drop(two);
    wait_for("the reset", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(own_socket(&one)?.1.shutdown, Shutdown::RdWr, "shutdown");
    check_pending(&one, libc::ECONNRESET)?;
    // The same, and what read() says.
    let (mut one, two) = pair()?;
    sys::set_linger(&two, true, 0)?;
    drop(two);
    wait_for("the reset", || {
        Ok(own_socket(&one)?.1.err == libc::ECONNRESET)
    })?;
    let error = one
        .read(&mut [0; 10])
        .err()
        .context("read() gave something")?;
    check_eq!(
        error.kind(),
        io::ErrorKind::ConnectionReset,
        "error of read()"
    );
    Ok(())
}

fn pending_refusal_is_shown_and_stays_pending() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let error = sys::connect(&fd, &Address::loopback(port))
        .err()
        .context("it connected")?;
    check_eq!(sys::errno(&error), libc::EINPROGRESS, "errno of connect()");
    wait_for("the refusal", || Ok(own_socket(&fd)?.1.err != 0))?;
    check_eq!(own_socket(&fd)?.1.sk_state, SkState::Close, "sk_state");
    check_pending(&fd, libc::ECONNREFUSED)
}

fn udp_refusal_is_shown_and_stays_pending() -> Result<()> {
    let nobody = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(nobody)?;
    socket.send(b"to nobody")?;
    wait_for("the ICMP message", || Ok(own_socket(&socket)?.1.err != 0))?;
    check_pending(&socket, libc::ECONNREFUSED)
}

fn socket_states_of_a_life() -> Result<()> {
    let state = |fd: &OwnedFd| -> Result<(SocketState, SkState)> {
        let (_, detail) = own_socket(fd)?;
        Ok((detail.socket_state, detail.sk_state))
    };
    let stream = || sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    let listener = stream()?;
    check_eq!(
        state(&listener)?,
        (SocketState::Unconnected, SkState::Close),
        "fresh"
    );
    sys::bind(&listener, &Address::loopback(0))?;
    check_eq!(
        state(&listener)?,
        (SocketState::Unconnected, SkState::Close),
        "bound"
    );
    sys::listen(&listener, 0)?;
    check_eq!(
        state(&listener)?,
        (SocketState::Unconnected, SkState::Listen),
        "listening"
    );
    let port = sys::port_of(&listener)?;
    let client = stream()?;
    // connect() that does not wait: the handshake is done all the same, on loopback.
    let _ = sys::connect(&client, &Address::loopback(port));
    wait_for("the handshake", || {
        Ok(state(&client)?.1 == SkState::Established)
    })?;
    check_eq!(
        state(&client)?.0,
        SocketState::Connecting,
        "connected, and not yet told so"
    );
    sys::connect(&client, &Address::loopback(port))?;
    check_eq!(
        state(&client)?,
        (SocketState::Connected, SkState::Established),
        "connected"
    );
    let server = sys::accept(&listener)?;
    check_eq!(
        state(&server)?,
        (SocketState::Connected, SkState::Established),
        "accepted"
    );
    let udp = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    check_eq!(
        state(&udp)?,
        (SocketState::Unconnected, SkState::Close),
        "UDP"
    );
    sys::connect(&udp, &Address::loopback(port))?;
    // sock->state is not used by UDP.
    check_eq!(state(&udp)?.1, SkState::Established, "connected UDP");
    Ok(())
}

fn busy_socket_is_told_as_busy() -> Result<()> {
    let (one, two) = pair()?;
    // sendmsg() holds the socket's lock while it copies; the page that it copies from is ours to
    // withhold.
    let page = sys::map_anon(PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    let fault = sys::userfault(page, PAGE, sys::Fault::Missing)?;
    let sent = thread::scope(|scope| -> Result<usize> {
        let sender = scope.spawn(|| sys::send_address(&one, page, 100));
        let checked = (|| -> Result<()> {
            check!(
                sys::poll(&fault, libc::POLLIN, 10_000)?,
                "the sender does not come to the page"
            );
            let report = sockets(sys::getpid())?;
            let record = socket(&report, &one)?;
            check!(
                record.busy && record.detail.is_none(),
                "not told as busy: {record:?}"
            );
            // The sender's own system call has one: fdget() of a process with several threads.
            check_eq!(record.file_refs, 2, "file_refs of the busy one");
            check_eq!(report.summary.busy, 1, "busy in the summary");
            let other = detail(socket(&report, &two)?)?;
            check_eq!(other.sk_state, SkState::Established, "state of its peer");
            let report = skbs(sys::getpid())?;
            check_eq!(report.summary.busy, 1, "busy in the summary of `skbs`");
            let of = report
                .socket(one.as_raw_fd() as u32)
                .context("not in `skbs`")?;
            check!(
                of.socket.busy && of.queues.iter().all(|queue| queue.packets == 0),
                "not told as busy: {of:?}"
            );
            Ok(())
        })();
        sys::zero_page(&fault, page, PAGE)?;
        let sent = sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        checked?;
        Ok(sent)
    })?;
    check_eq!(sent, 100, "bytes sent in the end");
    let (record, detail) = own_socket(&one)?;
    check!(!record.busy, "busy although nobody holds it");
    check_eq!(detail.shutdown, Shutdown::None, "shutdown");
    Ok(())
}

fn thousand_descriptors() -> Result<()> {
    sys::allow_descriptors(5000)?;
    let mut kept = Vec::new();
    for _ in 0..500 {
        kept.push(sys::socketpair(libc::SOCK_STREAM)?);
    }
    let puppet = Stage::new(1)?.start()?;
    check_eq!(check_descriptors(puppet.pid)?, 1000, "sockets");
    Ok(())
}
