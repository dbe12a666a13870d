// SPDX-License-Identifier: GPL-2.0
//! Report sockets: shutdown, and the states that connections go through, compared with `ss`.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use ravel_records::{Shutdown, SkState, SocketState};

use super::peers::{agreed, check_ends, full_pair, pair, wait_bytes, wait_for};
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Address};
use crate::{check_eq, tests};

tests!("shutdown":
    shutdown_of_tcp_as_ss_sees_it,
    shutdown_of_both_ends_of_tcp,
    shutdown_of_unix_stream_as_ss_sees_it,
    shutdown_of_unix_seqpacket_as_ss_sees_it,
    shutdown_of_unix_datagram_touches_one_end_only,
    shutdown_of_udp,
    shutdown_in_the_child_is_seen_in_the_parent,
    close_of_one_of_two_descriptors_is_no_shutdown,
    close_of_the_last_descriptor_is_seen_by_the_peer,
    states_syn_sent_and_listen,
    states_after_half_close,
    states_closing_and_last_ack,
    half_closed_with_unread_bytes,
    bytes_that_come_after_shut_rd_are_queued,
    bytes_that_come_after_both_halves_are_shut_reset,
);

fn shutdown_of_tcp_as_ss_sees_it() -> Result<()> {
    use Shutdown::{None, Rd, RdWr, Wr};
    use SkState::{CloseWait, Established, FinWait2};
    let (one, two) = pair()?;
    check_ends(
        "-t",
        [&one, &two],
        [(Established, None), (Established, None)],
    )?;
    let cases = [
        (libc::SHUT_RD, [(Established, Rd), (Established, None)]),
        (libc::SHUT_WR, [(FinWait2, Wr), (CloseWait, Rd)]),
        (libc::SHUT_RDWR, [(FinWait2, RdWr), (CloseWait, Rd)]),
    ];
    for (how, want) in cases {
        let (one, two) = pair()?;
        sys::shutdown(&one, how)?;
        check_ends("-t", [&one, &two], want.clone()).with_context(|| format!("how {how}"))?;
        // From the end that accepted, too.
        let (one, two) = pair()?;
        sys::shutdown(&two, how)?;
        check_ends("-t", [&two, &one], want).with_context(|| format!("how {how}, accepted"))?;
    }
    Ok(())
}

fn shutdown_of_both_ends_of_tcp() -> Result<()> {
    let (one, two) = pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::CloseWait)
    })?;
    sys::shutdown(&two, libc::SHUT_WR)?;
    // TIME_WAIT is no socket with a descriptor any more: what the descriptors have is closed.
    for end in [&one, &two] {
        wait_for("the end", || {
            Ok(own_socket(end)?.1.sk_state == SkState::Close)
        })?;
        let (_, detail) = own_socket(end)?;
        check_eq!(detail.shutdown, Shutdown::RdWr, "shutdown");
        check_eq!(
            (detail.err, detail.rx_bytes, detail.tx_bytes),
            (0, 0, 0),
            "err, rx, tx"
        );
    }
    Ok(())
}

fn check_unix_shutdown(kind: i32) -> Result<()> {
    use Shutdown::{None, Rd, RdWr, Wr};
    use SkState::Established;
    let (one, two) = sys::socketpair(kind)?;
    check_ends(
        "-x",
        [&one, &two],
        [(Established, None), (Established, None)],
    )?;
    // unix_shutdown() tells the peer the other half.
    for (how, ours, theirs) in [
        (libc::SHUT_RD, Rd, Wr),
        (libc::SHUT_WR, Wr, Rd),
        (libc::SHUT_RDWR, RdWr, RdWr),
    ] {
        let (one, two) = sys::socketpair(kind)?;
        sys::shutdown(&one, how)?;
        let want = [(Established, ours), (Established, theirs)];
        check_ends("-x", [&one, &two], want).with_context(|| format!("how {how}"))?;
    }
    Ok(())
}

fn shutdown_of_unix_stream_as_ss_sees_it() -> Result<()> {
    check_unix_shutdown(libc::SOCK_STREAM)
}

fn shutdown_of_unix_seqpacket_as_ss_sees_it() -> Result<()> {
    check_unix_shutdown(libc::SOCK_SEQPACKET)
}

fn shutdown_of_unix_datagram_touches_one_end_only() -> Result<()> {
    let cases = [
        (libc::SHUT_RD, Shutdown::Rd),
        (libc::SHUT_WR, Shutdown::Wr),
        (libc::SHUT_RDWR, Shutdown::RdWr),
    ];
    for (how, want) in cases {
        let (one, two) = sys::socketpair(libc::SOCK_DGRAM)?;
        sys::shutdown(&one, how)?;
        check_eq!(agreed(&one, "-x")?.shutdown, want, "the end that was shut");
        check_eq!(
            agreed(&two, "-x")?.shutdown,
            Shutdown::None,
            "the other end"
        );
    }
    Ok(())
}

fn shutdown_of_udp() -> Result<()> {
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    one.connect(two.local_addr()?)?;
    sys::shutdown(&one, libc::SHUT_RD)?;
    check_eq!(agreed(&one, "-u")?.shutdown, Shutdown::Rd, "SHUT_RD");
    sys::shutdown(&one, libc::SHUT_WR)?;
    check_eq!(
        agreed(&one, "-u")?.shutdown,
        Shutdown::RdWr,
        "SHUT_WR after it"
    );
    check_eq!(
        agreed(&two, "-u")?.shutdown,
        Shutdown::None,
        "the other one"
    );
    // Not connected: shutdown() says ENOTCONN and does it all the same.
    let error = sys::shutdown(&two, libc::SHUT_WR)
        .err()
        .context("shutdown() succeeded")?;
    check_eq!(sys::errno(&error), libc::ENOTCONN, "errno");
    check_eq!(agreed(&two, "-u")?.shutdown, Shutdown::Wr, "not connected");
    Ok(())
}

fn shutdown_in_the_child_is_seen_in_the_parent() -> Result<()> {
    let (one, two) = pair()?;
    let theirs = one.try_clone()?;
    Child::spawn(move |_| Ok(sys::shutdown(&theirs, libc::SHUT_WR)?))?.join()?;
    let want = [
        (SkState::FinWait2, Shutdown::Wr),
        (SkState::CloseWait, Shutdown::Rd),
    ];
    check_ends("-t", [&one, &two], want)
}

fn close_of_one_of_two_descriptors_is_no_shutdown() -> Result<()> {
    let (one, two) = pair()?;
    drop(one.try_clone()?);
    let want = [
        (SkState::Established, Shutdown::None),
        (SkState::Established, Shutdown::None),
    ];
    check_ends("-t", [&one, &two], want)
}

fn close_of_the_last_descriptor_is_seen_by_the_peer() -> Result<()> {
    let (one, two) = pair()?;
    drop(one);
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::CloseWait)
    })?;
    check_eq!(
        agreed(&two, "-t")?.shutdown,
        Shutdown::Rd,
        "shutdown of the peer"
    );
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    drop(one);
    // unix_release_sock(): no more writes either.
    check_eq!(
        own_socket(&two)?.1.shutdown,
        Shutdown::RdWr,
        "shutdown of a unix peer"
    );
    Ok(())
}

fn nonblocking_stream() -> Result<OwnedFd> {
    Ok(sys::socket(
        libc::AF_INET,
        libc::SOCK_STREAM | libc::SOCK_NONBLOCK,
        0,
    )?)
}

fn states_syn_sent_and_listen() -> Result<()> {
    let listener = nonblocking_stream()?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 0)?;
    let address = Address::loopback(sys::port_of(&listener)?);
    // A backlog of 0 has room for one; the next one's SYN is dropped.
    let first = nonblocking_stream()?;
    let _ = sys::connect(&first, &address);
    wait_for("the connection", || {
        Ok(own_socket(&listener)?.1.rx_packets == 1)
    })?;
    let second = nonblocking_stream()?;
    let error = sys::connect(&second, &address)
        .err()
        .context("the second connected")?;
    check_eq!(
        sys::errno(&error),
        libc::EINPROGRESS,
        "errno of the second connect()"
    );
    let detail = agreed(&second, "-t")?;
    check_eq!(detail.sk_state, SkState::SynSent, "state of the second");
    check_eq!(detail.socket_state, SocketState::Connecting, "socket_state");
    check_eq!(
        (detail.tx_bytes, detail.inq, detail.outq),
        (0, 0, 0),
        "tx_bytes, inq, outq"
    );
    let detail = agreed(&listener, "-t")?;
    check_eq!(detail.sk_state, SkState::Listen, "state of the listener");
    check_eq!(
        (detail.rx_bytes, detail.rx_packets),
        (0, 1),
        "rx of the listener"
    );
    Ok(())
}

fn states_after_half_close() -> Result<()> {
    let (one, mut two) = pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    let want = [
        (SkState::FinWait2, Shutdown::Wr),
        (SkState::CloseWait, Shutdown::Rd),
    ];
    check_ends("-t", [&one, &two], want)?;
    // The late echo: the half that is open still carries bytes.
    two.write_all(b"late")?;
    wait_for("the bytes", || Ok(own_socket(&one)?.1.rx_bytes == 4))?;
    check_eq!(
        agreed(&one, "-t")?.sk_state,
        SkState::FinWait2,
        "state with bytes to read"
    );
    Ok(())
}

fn states_closing_and_last_ack() -> Result<()> {
    // FIN_WAIT1: the FIN waits behind bytes that the peer has no room for.
    let (one, two, _) = full_pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    let want = [
        (SkState::FinWait1, Shutdown::Wr),
        (SkState::Established, Shutdown::None),
    ];
    check_ends("-t", [&one, &two], want)?;
    // CLOSING: the peer's FIN comes before ours is acknowledged.
    sys::shutdown(&two, libc::SHUT_WR)?;
    let want = [
        (SkState::Closing, Shutdown::RdWr),
        (SkState::FinWait2, Shutdown::Wr),
    ];
    check_ends("-t", [&one, &two], want)?;
    // LAST_ACK: the same, when we had the peer's FIN before we sent ours.
    let (one, two, _) = full_pair()?;
    sys::shutdown(&two, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::CloseWait)
    })?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    let want = [
        (SkState::LastAck, Shutdown::RdWr),
        (SkState::FinWait2, Shutdown::Wr),
    ];
    check_ends("-t", [&one, &two], want)
}

fn half_closed_with_unread_bytes() -> Result<()> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"request")?;
    sys::shutdown(&client, libc::SHUT_WR)?;
    let want = [
        (SkState::FinWait2, Shutdown::Wr),
        (SkState::CloseWait, Shutdown::Rd),
    ];
    check_ends("-t", [&client, &server], want)?;
    check_eq!(agreed(&server, "-t")?.rx_bytes, 7, "rx_bytes of the server");
    server.write_all(b"the late echo")?;
    wait_bytes(&client, 13)?;
    check_eq!(
        agreed(&client, "-t")?.rx_bytes,
        13,
        "rx_bytes of the client"
    );
    let mut text = [0; 13];
    client.read_exact(&mut text)?;
    check_eq!(&text, b"the late echo", "what the client reads");
    Ok(())
}

fn bytes_that_come_after_shut_rd_are_queued() -> Result<()> {
    let (mut one, mut two) = pair()?;
    two.write_all(b"before")?;
    wait_bytes(&one, 6)?;
    sys::shutdown(&one, libc::SHUT_RD)?;
    two.write_all(b", after")?;
    wait_bytes(&one, 13)?;
    let detail = agreed(&one, "-t")?;
    check_eq!(
        (detail.rx_bytes, detail.shutdown),
        (13, Shutdown::Rd),
        "rx_bytes, shutdown"
    );
    check_eq!(detail.sk_state, SkState::Established, "state");
    let mut text = [0; 13];
    one.read_exact(&mut text)?;
    check_eq!(&text, b"before, after", "what can be read");
    Ok(())
}

fn bytes_that_come_after_both_halves_are_shut_reset() -> Result<()> {
    // tcp_rcv_state_process(): data in FIN_WAIT2 with RCV_SHUTDOWN set abort the connection.
    let (one, mut two) = pair()?;
    sys::shutdown(&one, libc::SHUT_RDWR)?;
    let want = [
        (SkState::FinWait2, Shutdown::RdWr),
        (SkState::CloseWait, Shutdown::Rd),
    ];
    check_ends("-t", [&one, &two], want)?;
    two.write_all(b"too late")?;
    // tcp_reset(): EPIPE for the end that was in CLOSE_WAIT, ECONNRESET for the other.
    for (end, errno) in [(&one, libc::ECONNRESET), (&two, libc::EPIPE)] {
        wait_for("the reset", || {
            Ok(own_socket(end)?.1.sk_state == SkState::Close)
        })?;
        let (_, detail) = own_socket(end)?;
        check_eq!(
            (detail.err, detail.shutdown),
            (errno, Shutdown::RdWr),
            "err, shutdown"
        );
        check_eq!(
            sys::get_option(end, libc::SOL_SOCKET, libc::SO_ERROR)?,
            errno,
            "SO_ERROR"
        );
    }
    Ok(())
}
