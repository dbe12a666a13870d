// SPDX-License-Identifier: GPL-2.0
//! Report sockets: what waits in their queues, compared with `ss`, the ioctls and what was written.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use anyhow::Result;
use ravel_records::{QueueName, SkState, SocketDetail};

use super::peers::{agreed, agreed_listener, full_pair, pair, wait_bytes, wait_for};
use super::sockets::check_ioctls;
use crate::report::{own_queues, own_socket, queue};
use crate::sys::{self, Address};
use crate::{check, check_eq, tests};

tests!("queued":
    unread_bytes_of_tcp,
    unread_bytes_of_tcp_read_in_part,
    fin_is_no_byte,
    unsent_bytes_of_tcp,
    listener_counts_connections_not_accepted,
    unread_datagrams_of_udp,
    unread_bytes_of_unix_sockets,
    unix_listener_counts_connections_not_accepted,
);

fn unread_bytes_of_tcp() -> Result<()> {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address)?;
        let mut one = TcpStream::connect(listener.local_addr()?)?;
        let (mut two, _) = listener.accept()?;
        let mut total = 0;
        for size in [1, 5, 1000, 4096] {
            one.write_all(&vec![1; size])?;
            total += size as u64;
            wait_bytes(&two, total)?;
            let detail = agreed(&two, "-t")?;
            check_eq!(
                (detail.rx_bytes, detail.inq),
                (total, total as i64),
                "rx_bytes, inq"
            );
            check!(detail.rx_packets >= 1, "no packets hold {total} bytes");
            let queues = own_queues(&two)?;
            let packets = queue(&queues, &QueueName::Receive)?.packets;
            check_eq!(
                detail.rx_packets,
                packets,
                "rx_packets and the queue of `skbs`"
            );
        }
        wait_for("the acknowledgement", || {
            Ok(own_socket(&one)?.1.tx_bytes == 0)
        })?;
        let detail = agreed(&one, "-t")?;
        check_eq!(
            (detail.tx_packets, detail.outq),
            (0, 0),
            "tx_packets, outq of the sender"
        );
        let mut all = vec![0; total as usize];
        two.read_exact(&mut all)?;
        let detail = agreed(&two, "-t")?;
        check_eq!(
            (detail.rx_bytes, detail.rx_packets),
            (0, 0),
            "rx once all is read"
        );
    }
    Ok(())
}

fn unread_bytes_of_tcp_read_in_part() -> Result<()> {
    let (mut one, mut two) = pair()?;
    one.write_all(&[1; 1000])?;
    wait_bytes(&two, 1000)?;
    two.read_exact(&mut [0; 300])?;
    let detail = agreed(&two, "-t")?;
    check_eq!((detail.rx_bytes, detail.inq), (700, 700), "rx_bytes, inq");
    check_eq!(
        detail.rx_packets,
        1,
        "rx_packets: the sk_buff stays until all of it is read"
    );
    check_eq!(two.peek(&mut [0; 2000])?, 700, "bytes by MSG_PEEK");
    Ok(())
}

fn fin_is_no_byte() -> Result<()> {
    let (mut one, two) = pair()?;
    one.write_all(b"12345")?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::CloseWait)
    })?;
    let detail = agreed(&two, "-t")?;
    check_eq!((detail.rx_bytes, detail.inq), (5, 5), "rx_bytes, inq");
    let (one, two) = pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::CloseWait)
    })?;
    let detail = agreed(&two, "-t")?;
    check_eq!(
        (detail.rx_bytes, detail.inq),
        (0, 0),
        "rx_bytes, inq without any byte"
    );
    Ok(())
}

fn unsent_bytes_of_tcp() -> Result<()> {
    let (one, two, written) = full_pair()?;
    // A zero window is probed now and then, and a byte or more may move then.
    let bytes = |detail: &SocketDetail| (detail.tx_bytes, detail.rx_bytes, detail.outq);
    let (mut sender, mut receiver) = (agreed(&one, "-t")?, agreed(&two, "-t")?);
    while bytes(&own_socket(&one)?.1) != bytes(&sender)
        || bytes(&own_socket(&two)?.1) != bytes(&receiver)
    {
        (sender, receiver) = (agreed(&one, "-t")?, agreed(&two, "-t")?);
    }
    check!(sender.tx_bytes > 0, "all of {written} bytes went");
    check_eq!(sender.tx_bytes as i64, sender.outq, "tx_bytes and outq");
    check_eq!(
        sender.tx_bytes + receiver.rx_bytes,
        written,
        "bytes that wait at both ends"
    );
    let queues = own_queues(&one)?;
    // tcpi_unacked counts packets; one sk_buff may hold several.
    let info = sys::tcp_info(&one)?;
    let unacked = u32::from_ne_bytes([info[24], info[25], info[26], info[27]]);
    let packets = queue(&queues, &QueueName::Write)?.packets + u64::from(unacked);
    let there = queues
        .socket
        .detail
        .as_ref()
        .map(|detail| detail.tx_packets);
    check_eq!(
        there,
        Some(packets),
        "tx_packets, by `skbs` and by TCP_INFO"
    );
    // A FIN behind them is counted by SIOCOUTQ, and is no byte.
    sys::shutdown(&one, libc::SHUT_WR)?;
    let after = agreed(&one, "-t")?;
    check_eq!(after.outq, after.tx_bytes as i64 + 1, "outq after SHUT_WR");
    Ok(())
}

fn listener_counts_connections_not_accepted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut clients = Vec::new();
    for count in 0..5 {
        let detail = agreed_listener(&listener, "-t")?;
        check_eq!((detail.rx_bytes, detail.rx_packets), (0, count), "rx");
        check_eq!((detail.inq, detail.outq), (-1, -1), "inq, outq");
        check_eq!(detail.sk_state, SkState::Listen, "state");
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.write_all(b"early bytes")?;
        clients.push(client);
    }
    for count in (0..5).rev() {
        let (server, _) = listener.accept()?;
        check_eq!(
            agreed_listener(&listener, "-t")?.rx_packets,
            count,
            "rx_packets after accept()"
        );
        wait_bytes(&server, 11)?;
    }
    Ok(())
}

fn unread_datagrams_of_udp() -> Result<()> {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (one, two) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        for size in [10, 20, 0, 30] {
            one.send_to(&vec![1; size], two.local_addr()?)?;
        }
        wait_for("the datagrams", || Ok(own_socket(&two)?.1.rx_packets == 4))?;
        let (_, detail) = own_socket(&two)?;
        check_eq!(
            (detail.rx_bytes, detail.inq),
            (60, 10),
            "rx_bytes of all, inq of the first"
        );
        check_ioctls(&two, &detail)?;
        for (left, bytes, first) in [(3, 50, 20), (2, 30, 0), (1, 30, 30), (0, 0, 0)] {
            two.recv(&mut [0; 100])?;
            let (_, detail) = own_socket(&two)?;
            check_eq!(
                (detail.rx_packets, detail.rx_bytes),
                (left, bytes),
                "rx after a recv()"
            );
            check_eq!(detail.inq, first, "inq after a recv()");
            check_ioctls(&two, &detail)?;
        }
        let (_, detail) = own_socket(&one)?;
        check_eq!(
            (detail.tx_bytes, detail.tx_packets),
            (0, 0),
            "tx of the sender"
        );
        check_eq!(
            (detail.outq, detail.wmem),
            (0, 0),
            "outq, wmem of the sender"
        );
    }
    Ok(())
}

fn unread_bytes_of_unix_sockets() -> Result<()> {
    for (kind, inq) in [
        (libc::SOCK_STREAM, 600),
        (libc::SOCK_SEQPACKET, 600),
        (libc::SOCK_DGRAM, 100),
    ] {
        let (one, two) = sys::socketpair(kind)?;
        for size in [100, 200, 300] {
            check_eq!(sys::send(&one, &vec![1; size], 0)?, size, "bytes sent");
        }
        let receiver = agreed(&two, "-x")?;
        check_eq!(
            (receiver.rx_bytes, receiver.inq),
            (600, inq),
            "rx_bytes, inq of type {kind}"
        );
        let queues = own_queues(&two)?;
        let packets = queue(&queues, &QueueName::Receive)?.packets;
        check_eq!(
            receiver.rx_packets,
            packets,
            "rx_packets and the queue of `skbs`"
        );
        let sender = agreed(&one, "-x")?;
        check_eq!(
            (sender.tx_bytes, sender.tx_packets),
            (0, 0),
            "tx of the sender"
        );
        check!(sender.wmem > 600, "wmem of the sender: {}", sender.wmem);
        check_eq!(sender.outq, sender.wmem, "outq and wmem of the sender");
        sys::recv(&two, 30, 0)?;
        // A stream keeps the rest of what was read in part; the others lose it.
        let (bytes, inq) = match kind {
            libc::SOCK_STREAM => (570, 570),
            libc::SOCK_SEQPACKET => (500, 500),
            _ => (500, 200),
        };
        let receiver = agreed(&two, "-x")?;
        check_eq!(
            (receiver.rx_bytes, receiver.inq),
            (bytes, inq),
            "after 30 bytes of type {kind}"
        );
        sys::recv(&two, 1000, 0)?;
        sys::recv(&two, 1000, libc::MSG_DONTWAIT).ok();
        let (receiver, sender) = (agreed(&two, "-x")?, agreed(&one, "-x")?);
        check_eq!(
            (receiver.rx_bytes, receiver.rx_packets),
            (0, 0),
            "rx of type {kind}, all read"
        );
        check_eq!(
            (sender.wmem, sender.outq),
            (0, 0),
            "wmem, outq of the sender, all read"
        );
    }
    Ok(())
}

fn unix_listener_counts_connections_not_accepted() -> Result<()> {
    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let name = format!("\0ravel-test-listener-{}", sys::getpid());
    sys::bind(&listener, &Address::unix(name.as_bytes()))?;
    sys::listen(&listener, 5)?;
    let mut clients = Vec::new();
    for count in 0..3 {
        let detail = agreed_listener(&listener, "-x")?;
        check_eq!((detail.rx_bytes, detail.rx_packets), (0, count), "rx");
        check_eq!(detail.sk_state, SkState::Listen, "state");
        check_eq!(detail.inq, -1, "inq");
        let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sys::connect(&client, &Address::unix(name.as_bytes()))?;
        sys::send(&client, b"early", 0)?;
        clients.push(client);
    }
    let server = sys::accept(&listener)?;
    check_eq!(
        agreed_listener(&listener, "-x")?.rx_packets,
        2,
        "rx_packets after accept()"
    );
    check_eq!(
        agreed(&server, "-x")?.rx_bytes,
        5,
        "rx_bytes of the accepted one"
    );
    Ok(())
}
