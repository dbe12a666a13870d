// SPDX-License-Identifier: GPL-2.0
//! Report sockets: what TCP knows of a connection, who waits for accept(), and the other end;
//! compared with TCP_INFO, /proc/net/tcp, the ioctls and the options.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use ravel_records::{Fin, Id, Linger, Shutdown, SkState, SocketDetail, Tcp, TcpTimer, Timer};

use super::peers::{full_pair, pair, still, wait_bytes, wait_for};
use crate::report::{detail, own_socket, socket, sockets};
use crate::sys::{self, Address};
use crate::{check, check_eq, ss, tests};

tests!("facts":
    numbers_are_those_of_tcp_info,
    fin_is_told_from_none_to_acked,
    timers_are_those_of_proc,
    fin_timeout_is_that_of_linger2,
    flags_are_those_that_getsockopt_tells,
    listener_names_who_waits,
    unix_listener_names_who_waits,
    long_accept_queue_is_cut,
    handshakes_under_way_are_counted,
    other_end_of_tcp_is_found,
    other_end_of_tcp_that_nobody_has_open,
    other_end_of_unix_sockets,
    names_of_netlink_packet_and_vsock,
);

fn tcp(detail: &SocketDetail) -> Result<&Tcp> {
    detail.tcp.as_ref().context("no TCP in it")
}

/// One end of a connection, as TCP_INFO and the ioctls agree with the report on it.
fn agreed(fd: &impl AsRawFd) -> Result<SocketDetail> {
    for _ in 0..50 {
        let (_, before) = own_socket(fd)?;
        let info = sys::tcp_info(fd)?;
        let (outq, unsent) = (sys::outq(fd)?, sys::outq_unsent(fd)?);
        let (_, detail) = own_socket(fd)?;
        if still(&before) != still(&detail) {
            continue;
        }
        let word =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let silent = [silent_ms(&before)?, silent_ms(&detail)?];
        let tcp = tcp(&detail)?;
        if silent[0] > silent[1] {
            continue;
        }
        let last = u64::from(word(56));
        check!(
            (silent[0]..=silent[1]).contains(&last),
            "silent for {silent:?} ms, for {last} by tcpi_last_ack_recv"
        );
        let (unacked, sacked, lost, retrans) = (word(24), word(28), word(32), word(36));
        check_eq!(
            tcp.in_flight,
            u64::from(unacked - sacked - lost + retrans),
            "in_flight"
        );
        check_eq!(tcp.cwnd, u64::from(word(80)), "cwnd by tcpi_snd_cwnd");
        check_eq!(tcp.window, u64::from(word(228)), "window by tcpi_snd_wnd");
        check_eq!(
            tcp.retransmits,
            u64::from(info[2]),
            "retransmits by TCP_INFO"
        );
        check_eq!(tcp.probes, u64::from(info[3]), "probes by TCP_INFO");
        check_eq!(tcp.backoff, u64::from(info[4]), "backoff by TCP_INFO");
        let (queued, sent) = (tcp.fin == Fin::Queued, tcp.fin == Fin::Sent);
        check_eq!(
            tcp.unsent + u64::from(queued),
            unsent as u64,
            "unsent by SIOCOUTQNSD"
        );
        check_eq!(
            tcp.unacked + u64::from(sent),
            (outq - unsent) as u64,
            "unacked by SIOCOUTQ and SIOCOUTQNSD"
        );
        check_eq!(detail.tx_bytes, tcp.unsent + tcp.unacked, "tx_bytes");
        return Ok(detail);
    }
    bail!("descriptor {} does not stand still", fd.as_raw_fd())
}

/// For how long a connection has heard nothing of its peer.
fn silent_ms(detail: &SocketDetail) -> Result<u64> {
    match tcp(detail)?.silent_ms {
        Timer::Ms(ms) => Ok(ms),
        Timer::Off => bail!("it was never heard of: {detail:?}"),
    }
}

fn numbers_are_those_of_tcp_info() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let fresh = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    for fd in [listener.as_raw_fd(), fresh.as_raw_fd()] {
        let told = tcp(&own_socket(&fd)?.1)?.silent_ms;
        check_eq!(told, Timer::Off, "silence of no connection");
    }
    let (mut one, mut two) = pair()?;
    check_eq!(tcp(&agreed(&one)?)?.unsent, 0, "unsent of a fresh one");
    one.write_all(&[1; 3000])?;
    wait_bytes(&two, 3000)?;
    agreed(&one)?;
    agreed(&two)?;
    two.read_exact(&mut [0; 1000])?;
    two.write_all(b"back")?;
    agreed(&two)?;
    let (one, two, written) = full_pair()?;
    wait_for("a closed window", || {
        let (_, detail) = own_socket(&one)?;
        Ok(tcp(&detail)?.timer == TcpTimer::Probe)
    })?;
    let detail = agreed(&one)?;
    let told = tcp(&detail)?;
    check!(told.unsent > 0, "nothing unsent of {written} bytes");
    let (_, theirs) = own_socket(&two)?;
    check_eq!(
        told.unsent + told.unacked + theirs.rx_bytes,
        written,
        "bytes here and there"
    );
    agreed(&two)?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    let detail = agreed(&one)?;
    check_eq!(tcp(&detail)?.fin, Fin::Queued, "fin behind a closed window");
    check_eq!(
        tcp(&detail)?.unsent + tcp(&detail)?.unacked,
        detail.tx_bytes,
        "bytes without the FIN"
    );
    Ok(())
}

fn fin_is_told_from_none_to_acked() -> Result<()> {
    let ends = |fd: &TcpStream| -> Result<(Fin, bool, SkState)> {
        let (_, detail) = own_socket(fd)?;
        let tcp = tcp(&detail)?;
        Ok((tcp.fin.clone(), tcp.fin_received, detail.sk_state.clone()))
    };
    let (one, two) = pair()?;
    check_eq!(
        ends(&one)?,
        (Fin::None, false, SkState::Established),
        "fresh"
    );
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || Ok(ends(&two)?.1))?;
    wait_for("its acknowledgement", || Ok(ends(&one)?.0 == Fin::Acked))?;
    check_eq!(ends(&one)?, (Fin::Acked, false, SkState::FinWait2), "shut");
    check_eq!(
        ends(&two)?,
        (Fin::None, true, SkState::CloseWait),
        "the peer"
    );
    sys::shutdown(&two, libc::SHUT_WR)?;
    wait_for("the end", || Ok(ends(&two)?.2 == SkState::Close))?;
    check_eq!(ends(&two)?, (Fin::Unknown, true, SkState::Close), "ended");
    let fresh = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let (_, detail) = own_socket(&fresh)?;
    check_eq!(
        tcp(&detail)?.fin,
        Fin::None,
        "fin of a socket never connected"
    );
    // Queued behind what the peer has no room for, then both at once.
    let (one, two, _) = full_pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    check_eq!(
        ends(&one)?,
        (Fin::Queued, false, SkState::FinWait1),
        "queued"
    );
    sys::shutdown(&two, libc::SHUT_WR)?;
    wait_for("the peer's FIN", || Ok(ends(&one)?.1))?;
    check_eq!(
        ends(&one)?,
        (Fin::Queued, true, SkState::Closing),
        "closing"
    );
    Ok(())
}

/// Timer, milliseconds until it fires, retransmits, probes: by /proc/net/tcp.
fn of_proc(inode: u64) -> Result<(u32, u64, u64, u64)> {
    let text = fs::read_to_string("/proc/net/tcp")?;
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(9) != Some(&inode.to_string().as_str()) {
            continue;
        }
        let (timer, when) = words[5].split_once(':').context("no timer")?;
        // In hundredths of a second.
        let ms = u64::from_str_radix(when, 16)? * 10;
        let number = |at: usize, base| u64::from_str_radix(words[at], base);
        return Ok((
            u32::from_str_radix(timer, 16)?,
            ms,
            number(6, 16)?,
            number(8, 10)?,
        ));
    }
    bail!("inode {inode} is not in /proc/net/tcp")
}

fn check_timer(fd: &impl AsRawFd, want: u32) -> Result<Tcp> {
    let close = |ms: u64, timer: Timer| match timer {
        Timer::Ms(told) => ms.abs_diff(told) <= 600,
        Timer::Off => false,
    };
    let mut last = String::new();
    for _ in 0..50 {
        let (socket, detail) = own_socket(fd)?;
        let (code, ms, retransmits, probes) = of_proc(socket.inode)?;
        let tcp = tcp(&detail)?;
        let (timer, its) = match code {
            1 => ("retransmit", tcp.timer_ms),
            4 => ("probe", tcp.timer_ms),
            2 => ("none", tcp.keepalive_ms),
            0 => ("none", tcp.timer_ms),
            _ => ("?", Timer::Off),
        };
        last = format!("{tcp:?}, and /proc has {code} {ms} {retransmits} {probes}");
        let counts = (tcp.retransmits, tcp.probes) == (retransmits, probes);
        let set = if code == 0 {
            its == Timer::Off
        } else {
            close(ms, its)
        };
        let word = tcp.timer.as_str() == timer || code == 1 && tcp.timer != TcpTimer::None;
        if code == want && word && counts && set {
            return Ok(tcp.clone());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("wanted timer {want}: {last}")
}

fn timers_are_those_of_proc() -> Result<()> {
    let (one, _two) = pair()?;
    let quiet = check_timer(&one, 0)?;
    check_eq!(
        (quiet.timer_ms, quiet.keepalive_ms),
        (Timer::Off, Timer::Off),
        "timers"
    );
    sys::set_option(&one, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let kept = check_timer(&one, 2)?;
    let Timer::Ms(ms) = kept.keepalive_ms else {
        bail!("no keepalive: {kept:?}")
    };
    check!(
        (7_100_000..=7_200_000).contains(&ms),
        "keepalive in {ms} ms"
    );
    sys::set_option(&one, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 100)?;
    let Timer::Ms(ms) = check_timer(&one, 2)?.keepalive_ms else {
        bail!("no keepalive")
    };
    check!((90_000..=100_000).contains(&ms), "keepalive in {ms} ms");
    let (one, _two, _) = full_pair()?;
    check_eq!(
        check_timer(&one, 4)?.timer,
        TcpTimer::Probe,
        "timer of a full one"
    );
    // A SYN that nobody answers: the accept queue is full.
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 0)?;
    let address = Address::loopback(sys::port_of(&listener)?);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let _ = sys::connect(&fd, &address);
        kept.push(fd);
        wait_for("the first", || Ok(own_socket(&listener)?.1.rx_packets == 1))?;
    }
    check_eq!(
        check_timer(&kept[1], 1)?.timer,
        TcpTimer::Retransmit,
        "timer of a SYN"
    );
    // A delayed acknowledgement goes after 40 ms or so, if nothing is sent before.
    let (mut one, two) = pair()?;
    let seen = (0..100).any(|_| {
        let _ = one.write_all(b"x");
        own_socket(&two).is_ok_and(|(_, d)| d.tcp.is_some_and(|tcp| tcp.ack_ms != Timer::Off))
    });
    check!(seen, "no acknowledgement was ever delayed");
    Ok(())
}

fn fin_timeout_is_that_of_linger2() -> Result<()> {
    let (one, _two) = pair()?;
    let told = || -> Result<Timer> { Ok(tcp(&own_socket(&one)?.1)?.fin_timeout_ms) };
    let system: u64 = fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout")?
        .trim()
        .parse()?;
    check_eq!(told()?, Timer::Ms(system * 1000), "by sysctl");
    for seconds in [7, 30, 100] {
        sys::set_option(&one, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds)?;
        check_eq!(
            sys::get_option(&one, libc::IPPROTO_TCP, libc::TCP_LINGER2)?,
            seconds,
            "the option"
        );
        check_eq!(told()?, Timer::Ms(seconds as u64 * 1000), "by TCP_LINGER2");
    }
    sys::set_option(&one, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)?;
    check_eq!(told()?, Timer::Off, "by a negative TCP_LINGER2");
    Ok(())
}

fn flags_are_those_that_getsockopt_tells() -> Result<()> {
    let (one, _two) = pair()?;
    let options = [
        ("keepalive", libc::SO_KEEPALIVE),
        ("urginline", libc::SO_OOBINLINE),
    ];
    for bits in 0..4 {
        for (i, (_, option)) in options.iter().enumerate() {
            sys::set_option(&one, libc::SOL_SOCKET, *option, (bits >> i) & 1)?;
        }
        let (_, detail) = own_socket(&one)?;
        for (flag, option) in options {
            let set = sys::get_option(&one, libc::SOL_SOCKET, option)? != 0;
            check_eq!(detail.flags.has(flag), set, "{flag} with {bits:b}");
        }
        check!(
            !detail.flags.has("dead") && !detail.flags.has("done"),
            "flags: {}",
            detail.flags
        );
    }
    sys::set_linger(&one, true, 5)?;
    let (_, detail) = own_socket(&one)?;
    check!(detail.flags.has("linger"), "flags: {}", detail.flags);
    check_eq!(detail.linger, Linger::Seconds(5), "linger");
    for nonblocking in [true, false] {
        one.set_nonblocking(nonblocking)?;
        let set = sys::file_flags(&one)? & libc::O_NONBLOCK != 0;
        check_eq!(
            (own_socket(&one)?.0.nonblock, set),
            (nonblocking, nonblocking),
            "nonblock"
        );
    }
    Ok(())
}

fn listener_names_who_waits() -> Result<()> {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address)?;
        sys::listen(&listener, 5)?;
        let mut clients = Vec::new();
        for bytes in [0, 7, 100, 0] {
            let mut client = TcpStream::connect(listener.local_addr()?)?;
            client.write_all(&vec![1; bytes])?;
            clients.push((client, bytes as u64));
        }
        sys::shutdown(&clients[2].0, libc::SHUT_WR)?;
        wait_for("all of it", || {
            let (socket, _) = own_socket(&listener)?;
            Ok(socket.waiting.len() == 4
                && socket.waiting[1].rx_bytes == 7
                && socket.waiting[2].sk_state == SkState::CloseWait)
        })?;
        let report = sockets(sys::getpid())?;
        let of = socket(&report, &listener)?;
        check_eq!(report.summary.waiting, 4, "waiting in the summary");
        check_eq!(
            (detail(of)?.backlog, detail(of)?.rx_packets),
            (5, 4),
            "backlog, rx_packets"
        );
        let shown = ss::socket("-t", of.inode)?;
        check_eq!(
            (shown.recv_q, shown.send_q),
            (4, 5),
            "by ss: {}",
            shown.line
        );
        for (pos, waiting) in of.waiting.clone().iter().enumerate() {
            let (client, bytes) = &clients[pos];
            let remote = client.local_addr()?.to_string();
            check_eq!(waiting.remote.to_string(), remote, "remote of number {pos}");
            check_eq!(
                (waiting.pos, waiting.rx_bytes),
                (pos as u64, *bytes),
                "pos, rx_bytes"
            );
            let (state, shutdown) = match pos {
                2 => (SkState::CloseWait, Shutdown::Rd),
                _ => (SkState::Established, Shutdown::None),
            };
            check_eq!(
                (&waiting.sk_state, &waiting.shutdown),
                (&state, &shutdown),
                "state"
            );
            // accept() takes the first, and gives the very socket.
            let (accepted, from) = listener.accept()?;
            check_eq!(from.to_string(), remote, "who was accepted");
            check_eq!(
                own_socket(&accepted)?.0.id,
                waiting.id,
                "id of number {pos}"
            );
        }
        check!(
            own_socket(&listener)?.0.waiting.is_empty(),
            "somebody still waits"
        );
    }
    Ok(())
}

fn unix_listener(backlog: i32) -> Result<(OwnedFd, Address)> {
    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let name = format!("\0ravel-test waits {}", sys::getpid());
    sys::bind(&listener, &Address::unix(name.as_bytes()))?;
    sys::listen(&listener, backlog)?;
    Ok((listener, Address::unix(name.as_bytes())))
}

fn unix_listener_names_who_waits() -> Result<()> {
    let (listener, address) = unix_listener(9)?;
    let mut clients = Vec::new();
    for bytes in [0usize, 30, 2] {
        let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sys::connect(&client, &address)?;
        if bytes > 0 {
            sys::send(&client, &vec![1; bytes], 0)?;
        }
        clients.push((own_socket(&client)?.0.inode, bytes as u64, client));
    }
    let (of, told) = own_socket(&listener)?;
    check_eq!(
        (told.backlog, told.rx_packets),
        (9, 3),
        "backlog, rx_packets"
    );
    let found: Vec<_> = of
        .waiting
        .iter()
        .map(|w| (w.peer_inode, w.rx_bytes))
        .collect();
    let want: Vec<_> = clients
        .iter()
        .map(|(inode, bytes, _)| (*inode, *bytes))
        .collect();
    check_eq!(found, want, "who waits, with how many bytes");
    let accepted = sys::accept(&listener)?;
    check_eq!(
        own_socket(&accepted)?.0.id,
        of.waiting[0].id,
        "id of the first"
    );
    // One that is gone still waits.
    drop(clients.remove(1));
    let (of, _) = own_socket(&listener)?;
    let found: Vec<_> = of
        .waiting
        .iter()
        .map(|w| (w.peer_inode, w.rx_bytes))
        .collect();
    check_eq!(
        found,
        [(0, 30), (want[2].0, 2)],
        "who waits, one being gone"
    );
    check_eq!(
        of.waiting[0].shutdown,
        Shutdown::RdWr,
        "shutdown of what the one left"
    );
    Ok(())
}

fn long_accept_queue_is_cut() -> Result<()> {
    let (listener, address) = unix_listener(200)?;
    let mut clients = Vec::new();
    for _ in 0..200 {
        let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sys::connect(&client, &address)?;
        clients.push(client);
    }
    let report = sockets(sys::getpid())?;
    let of = socket(&report, &listener)?;
    check_eq!(of.waiting.len(), 128, "waiting records");
    check_eq!(
        (report.summary.waiting, report.summary.cut),
        (200, 72),
        "waiting, cut"
    );
    Ok(())
}

fn handshakes_under_way_are_counted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // A connection is a request until its first bytes come.
    sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 30)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(listener.local_addr()?)?);
    }
    let (_, detail) = own_socket(&listener)?;
    check_eq!(
        (tcp(&detail)?.requests, detail.rx_packets),
        (3, 0),
        "requests, rx_packets"
    );
    clients[1].write_all(b"x")?;
    wait_for("the connection", || {
        Ok(own_socket(&listener)?.1.rx_packets == 1)
    })?;
    check_eq!(tcp(&own_socket(&listener)?.1)?.requests, 2, "requests");
    Ok(())
}

fn other_end_of_tcp_is_found() -> Result<()> {
    let mapped = TcpListener::bind("[::]:0")?;
    let port = mapped.local_addr()?.port();
    let client = TcpStream::connect(("127.0.0.1", port))?;
    let pairs = [
        pair()?,
        {
            let listener = TcpListener::bind("[::1]:0")?;
            let one = TcpStream::connect(listener.local_addr()?)?;
            (one, listener.accept()?.0)
        },
        (client, mapped.accept()?.0),
    ];
    for (mut one, two) in pairs {
        one.write_all(b"12345")?;
        wait_bytes(&two, 5)?;
        sys::shutdown(&two, libc::SHUT_RD)?;
        let (ours, theirs) = (own_socket(&one)?, own_socket(&two)?);
        for (end, other) in [(&ours, &theirs), (&theirs, &ours)] {
            check_eq!(end.1.peer, other.0.id, "peer");
            let peer = end.1.other.as_ref().context("no peer")?;
            check_eq!(peer.peer_inode, other.0.inode, "peer_inode");
            check_eq!(peer.peer_state, other.1.sk_state, "peer_state");
            check_eq!(peer.peer_shutdown, other.1.shutdown, "peer_shutdown");
            check_eq!(peer.peer_rx_bytes, other.1.rx_bytes, "peer_rx_bytes");
            check_eq!(peer.peer_rx_packets, other.1.rx_packets, "peer_rx_packets");
        }
    }
    let alone = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    check_eq!(
        own_socket(&alone)?.1.peer,
        Id::NONE,
        "peer of an unconnected one"
    );
    Ok(())
}

fn other_end_of_tcp_that_nobody_has_open() -> Result<()> {
    let (one, two) = pair()?;
    drop(two);
    // tcp_time_wait(): once its FIN is acknowledged, which can take a while, FIN_WAIT2 without a descriptor
    // is kept as a TIME_WAIT socket.
    wait_for("the FIN and its ACK", || {
        let (_, detail) = own_socket(&one)?;
        let peer = detail.other.as_ref().map(|peer| &peer.peer_state);
        Ok(detail.sk_state == SkState::CloseWait && peer != Some(&SkState::FinWait1))
    })?;
    let (_, detail) = own_socket(&one)?;
    let peer = detail.other.as_ref().context("no peer")?;
    check_eq!(
        (&peer.peer_state, peer.peer_inode),
        (&SkState::TimeWait, 0),
        "what is left of it"
    );
    let (one, two) = pair()?;
    sys::set_linger(&two, true, 0)?;
    drop(two);
    wait_for("the reset", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(own_socket(&one)?.1.peer, Id::NONE, "peer after a reset");
    // Before accept() nobody has it open either.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (_, detail) = own_socket(&client)?;
    let peer = detail.other.as_ref().context("no peer")?;
    check_eq!(
        (&peer.peer_state, peer.peer_inode),
        (&SkState::Established, 0),
        "not accepted"
    );
    check_eq!(
        detail.peer,
        own_socket(&listener)?.0.waiting[0].id,
        "the waiting one"
    );
    Ok(())
}

fn other_end_of_unix_sockets() -> Result<()> {
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM] {
        let (one, two) = sys::socketpair(kind)?;
        sys::send(&one, b"1234567", 0)?;
        sys::send(&one, b"89", 0)?;
        let (ours, theirs) = (own_socket(&one)?, own_socket(&two)?);
        check_eq!(
            (ours.1.peer, theirs.1.peer),
            (theirs.0.id, ours.0.id),
            "peers"
        );
        let peer = ours.1.other.as_ref().context("no peer")?;
        check_eq!(
            (peer.peer_inode, peer.peer_rx_packets),
            (theirs.0.inode, 2),
            "inode, packets"
        );
        if kind == libc::SOCK_STREAM {
            check_eq!(peer.peer_rx_bytes, 9, "peer_rx_bytes");
        }
        check_eq!(peer.peer_shutdown, Shutdown::None, "peer_shutdown");
        let inode = ours.0.inode;
        drop(one);
        let (_, detail) = own_socket(&two)?;
        // A stream or seqpacket socket keeps the one that is gone, and so does a datagram socket until
        // it sends something.
        let peer = detail.other.as_ref().context("no peer")?;
        check!(
            inode != 0 && peer.peer_inode == 0,
            "{peer:?} of one that is gone"
        );
        check_eq!(
            peer.peer_shutdown,
            Shutdown::RdWr,
            "peer_shutdown of one that is gone"
        );
    }
    let alone = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    check_eq!(
        own_socket(&alone)?.1.peer,
        Id::NONE,
        "peer of an unconnected one"
    );
    Ok(())
}

fn names_of_netlink_packet_and_vsock() -> Result<()> {
    let names = |fd: &OwnedFd| -> Result<(String, String)> {
        let (_, detail) = own_socket(fd)?;
        Ok((detail.local.to_string(), detail.remote.to_string()))
    };
    let pair = |local: &str, remote: &str| (local.to_owned(), remote.to_owned());
    let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    check_eq!(names(&fd)?, pair("", ""), "netlink, fresh");
    sys::bind(&fd, &Address::netlink(4_000_000_001))?;
    check_eq!(names(&fd)?, pair("4000000001", ""), "netlink, bound");
    sys::connect(&fd, &Address::netlink(77))?;
    check_eq!(names(&fd)?, pair("4000000001", "77"), "netlink, connected");
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    check_eq!(names(&fd)?, pair("", ""), "packet, fresh");
    sys::bind(&fd, &Address::packet(0x0806, 1))?;
    check_eq!(names(&fd)?, pair("0x0806:1", ""), "packet, bound");
    let fd = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    check_eq!(names(&fd)?, pair("", ""), "vsock, fresh");
    sys::bind(&fd, &Address::vsock(50_001))?;
    check_eq!(names(&fd)?, pair("*:50001", ""), "vsock, bound");
    Ok(())
}
