// SPDX-License-Identifier: GPL-2.0
//! Report skbs: every queue that a socket has, each brought about and compared with what went in.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::{Context, Result, anyhow};
use ravel_records::decode::Decoded;
use ravel_records::{Clock, Queue, QueueName, Skb};

use super::peers::{wait_bytes, wait_for};
use super::skbs::check_sane;
use super::wire::{Peer, Wire, in_a_namespace};
use crate::report::{own_queues, own_socket, queue, skbs};
use crate::sys::{self, Address, PAGE};
use crate::{check, check_eq, tests};

tests!("skb_queues":
    segments_with_a_hole_before_them,
    what_was_sent_and_not_acknowledged,
    backlog_of_a_busy_socket,
    refusal_in_the_error_queue,
    connections_that_nobody_has_accepted,
    descriptors_in_flight,
    corked_datagram,
    netlink_answers,
    mptcp_and_sctp,
);

/// A queue of ours that is sane.
fn own(fd: &impl AsRawFd, name: QueueName) -> Result<Queue> {
    let queue = queue(&own_queues(fd)?, &name)?.clone();
    queue.skbs.iter().try_for_each(check_sane)?;
    Ok(queue)
}

fn wait_queue(fd: &impl AsRawFd, name: QueueName, packets: u64) -> Result<Queue> {
    wait_for(&format!("packet {packets} of {name}"), || {
        Ok(own(fd, name.clone())?.packets == packets)
    })?;
    own(fd, name)
}

fn seqs(queue: &Queue) -> Vec<(u32, u32)> {
    let seq = |skb: &Skb| (skb.seq.unwrap_or(0), skb.end_seq.unwrap_or(0));
    queue.skbs.iter().map(seq).collect()
}

fn segments_with_a_hole_before_them() -> Result<()> {
    in_a_namespace(|| {
        let wire = Wire::new()?;
        let (peer, two) = wire.connect()?;
        let mut sent = BTreeMap::new();
        for (at, len) in [(300, 10), (100, 50), (200, 30)] {
            let packet = peer.send(at, &vec![7; len as usize])?;
            sent.insert((Peer::FIRST + at, Peer::FIRST + at + len), packet);
        }
        let ofo = wait_queue(&two, QueueName::Ofo, 3)?;
        check_eq!(
            seqs(&ofo),
            sent.keys().copied().collect::<Vec<_>>(),
            "sequence numbers, in their order"
        );
        for (skb, packet) in ofo.skbs.iter().zip(sent.values()) {
            check_eq!(skb.ack_seq, Some(peer.theirs), "ack_seq");
            let flags = skb.tcp_flags.as_ref().context("no flags")?;
            check_eq!(flags.to_string(), "psh,ack", "tcp_flags");
            // An IP header and a TCP header without options.
            let header = skb.headers.first().context("no header")?;
            check_eq!(header.bytes.0, packet[..40], "headers, as they were sent");
            check_eq!(Some(header.offset as u16), skb.network.get(), "their place");
        }
        check_eq!(own(&two, QueueName::Receive)?.packets, 0, "receive");
        check_eq!(own_socket(&two)?.1.rx_bytes, 0, "rx_bytes");
        // The hole is filled: what is contiguous can be read.
        peer.send(0, &[7; 100])?;
        wait_bytes(&two, 150)?;
        check_eq!(
            seqs(&own(&two, QueueName::Ofo)?),
            sent.keys().skip(1).copied().collect::<Vec<_>>(),
            "what still waits for others"
        );
        peer.send(150, &[7; 150])?;
        wait_bytes(&two, 310)?;
        check_eq!(own(&two, QueueName::Ofo)?.packets, 0, "ofo in the end");
        Ok(())
    })
}

fn what_was_sent_and_not_acknowledged() -> Result<()> {
    in_a_namespace(|| {
        let wire = Wire::new()?;
        let (peer, mut two) = wire.connect()?;
        let before = sys::monotonic_ns()?;
        two.write_all(b"never acknowledged")?;
        let queue = own(&two, QueueName::Rtx)?;
        let after = sys::monotonic_ns()?;
        check_eq!(
            seqs(&queue),
            [(peer.theirs, peer.theirs + 18)],
            "sequence numbers"
        );
        let skb = &queue.skbs[0];
        check_eq!(skb.clock, Some(Clock::Monotonic), "clock");
        let sent = skb.tstamp.context("no tstamp")?;
        check!(
            (before..after).contains(&sent),
            "sent at {sent}, not in {before}..{after}"
        );
        let age = skb.age_ns.context("no age")?;
        check!(
            age >= 0 && age as u64 <= after - before,
            "{age} ns old, after {}",
            after - before
        );
        check!(
            skb.headers.is_empty(),
            "headers where none were written: {skb:?}"
        );
        // Once it is lost, the record says what TCP did about it, and when.
        wait_for("a retransmission", || {
            let queue = own(&two, QueueName::Rtx)?;
            let skb = queue.skbs.first().context("no sk_buff")?;
            let later = skb.tstamp > Some(sent);
            let sacked = skb.sacked.as_ref().context("no `sacked`")?;
            check!(
                !later || sacked.has("ever_retransmitted"),
                "sent again, and not told: {skb:?}"
            );
            Ok(later)
        })?;
        Ok(())
    })
}

fn backlog_of_a_busy_socket() -> Result<()> {
    in_a_namespace(|| {
        let wire = Wire::new()?;
        let (peer, two) = wire.connect()?;
        // The sender owns the socket while it waits for a page.
        let page = sys::map_anon(PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        let fault = sys::userfault(page, PAGE, sys::Fault::Missing)?;
        thread::scope(|scope| -> Result<()> {
            let sender = scope.spawn(|| sys::send_address(&two, page, 100));
            let checked = (|| -> Result<()> {
                check!(
                    sys::poll(&fault, libc::POLLIN, 10_000)?,
                    "no page is asked for"
                );
                let first = peer.send(0, &[1; 60])?;
                // Without data, two would become one.
                let second = peer.send(500, &[2; 40])?;
                wait_for("the backlog", || {
                    let of = own_queues(&two)?;
                    Ok(of
                        .queue(&QueueName::Backlog)
                        .is_some_and(|q| q.packets == 2))
                })?;
                let of = own_queues(&two)?;
                check!(
                    of.socket.busy && of.socket.detail.is_none(),
                    "not busy: {of:?}"
                );
                let names: Vec<_> = of.queues.iter().map(|queue| queue.name.as_str()).collect();
                check_eq!(names, ["backlog", "error"], "queues that can be read");
                let backlog = queue(&of, &QueueName::Backlog)?;
                let at = |place: u32| Peer::FIRST + place;
                check_eq!(
                    seqs(backlog),
                    [(at(0), at(60)), (at(500), at(540))],
                    "sequence numbers, in the order of coming"
                );
                for (skb, packet) in backlog.skbs.iter().zip([&first, &second]) {
                    check_sane(skb)?;
                    // tcp_v4_rcv(): the data still begin at the TCP header.
                    check_eq!(skb.len as usize, packet.len() - 20, "len");
                    check_eq!(Some(skb.data as u16), skb.transport.get(), "data");
                    let header = skb.headers.first().context("no header")?;
                    check_eq!(header.bytes.0, packet[..40], "headers");
                }
                Ok(())
            })();
            sys::zero_page(&fault, page, PAGE)?;
            sender
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            checked
        })?;
        wait_bytes(&two, 60)?;
        check_eq!(
            own(&two, QueueName::Backlog)?.packets,
            0,
            "backlog in the end"
        );
        check_eq!(own(&two, QueueName::Ofo)?.packets, 1, "ofo in the end");
        Ok(())
    })
}

fn refusal_in_the_error_queue() -> Result<()> {
    in_a_namespace(|| {
        let one = UdpSocket::bind("127.0.0.1:0")?;
        sys::set_option(&one, libc::SOL_IP, libc::IP_RECVERR, 1)?;
        let closed = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        one.send_to(&[1; 33], closed)?;
        let errors = wait_queue(&one, QueueName::Error, 1)?;
        let again = own(&one, QueueName::Error)?;
        check_eq!(again.skbs, errors.skbs, "the queue, read twice");
        let skb = &errors.skbs[0];
        let message = sys::recv_message(&one, libc::MSG_ERRQUEUE)?;
        let ee = message
            .control(libc::SOL_IP, libc::IP_RECVERR)
            .context("no error by recvmsg()")?;
        let word = |at| u32::from_ne_bytes([ee[at], ee[at + 1], ee[at + 2], ee[at + 3]]);
        check_eq!(skb.ee_errno, Some(word(0)), "errno");
        check_eq!(skb.ee_errno, Some(libc::ECONNREFUSED as u32), "errno");
        check_eq!(
            [skb.ee_origin, skb.ee_type, skb.ee_code],
            [4, 5, 6].map(|at| Some(u32::from(ee[at]))),
            "origin, type, code"
        );
        check_eq!(
            (skb.ee_info, skb.ee_data),
            (Some(word(8)), Some(word(12))),
            "info, data"
        );
        check_eq!(
            skb.len,
            message.bytes.len() as u64,
            "bytes of what was refused"
        );
        // ip_icmp_error() moves the transport header's place behind what ICMP tells, to the payload.
        let disagreements = Decoded::of(skb).disagreements;
        check!(
            disagreements.len() == 1 && disagreements[0].starts_with("transport is "),
            "what does not agree: {disagreements:?}"
        );
        check_eq!(
            own(&one, QueueName::Error)?.packets,
            0,
            "packets once it is read"
        );
        Ok(())
    })
}

fn connections_that_nobody_has_accepted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut clients = Vec::new();
    for size in [5usize, 0, 700] {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.write_all(&vec![3; size])?;
        clients.push(client);
    }
    wait_for("their bytes", || {
        let report = crate::report::sockets(sys::getpid())?;
        let listener = report
            .socket(listener.as_raw_fd() as u32)
            .context("no record")?;
        let bytes = |w: &ravel_records::Waiting| w.rx_bytes;
        Ok(listener.waiting.iter().map(bytes).sum::<u64>() == 705)
    })?;
    let report = crate::report::sockets(sys::getpid())?;
    let waiting = &report
        .socket(listener.as_raw_fd() as u32)
        .context("no record")?
        .waiting;
    let of = own_queues(&listener)?;
    let children: Vec<_> = of.queues.iter().filter(|q| q.child.is_some()).collect();
    let found: Vec<_> = children
        .iter()
        .map(|q| (q.child, q.name.clone(), q.skbs.iter().map(|s| s.len).sum()))
        .collect();
    let want: Vec<_> = waiting
        .iter()
        .filter(|waiting| waiting.rx_bytes > 0)
        .map(|waiting| (Some(waiting.id), QueueName::Receive, waiting.rx_bytes))
        .collect();
    check_eq!(
        found,
        want,
        "queues of those that wait, as `sockets` tells them"
    );
    for queue in children {
        queue.skbs.iter().try_for_each(check_sane)?;
    }
    let ids: Vec<_> = of
        .queues
        .iter()
        .flat_map(|q| &q.skbs)
        .map(|s| s.id)
        .collect();
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let (server, _) = listener.accept()?;
        let queue = own(&server, QueueName::Receive)?;
        accepted.extend(queue.skbs.iter().map(|skb| skb.id));
    }
    check_eq!(accepted, ids, "the same sk_buffs after accept()");

    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let name = format!("\0ravel-test-children-{}", sys::getpid());
    sys::bind(&listener, &Address::unix(name.as_bytes()))?;
    sys::listen(&listener, 5)?;
    let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(&client, &Address::unix(name.as_bytes()))?;
    sys::send(&client, b"early", 0)?;
    let of = own_queues(&listener)?;
    let children: Vec<_> = of.queues.iter().filter(|q| q.child.is_some()).collect();
    check_eq!(children.len(), 1, "queues of unix connections");
    check_eq!(
        children[0].skbs.iter().map(|s| s.len).collect::<Vec<_>>(),
        [5],
        "bytes that wait in a unix connection"
    );
    Ok(())
}

fn descriptors_in_flight() -> Result<()> {
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::send(&one, &[1; 10], 0)?;
    sys::send_descriptor(&one, &one)?;
    sys::send(&one, &[1; 20], 0)?;
    let state = |skb: &Skb| (skb.len, skb.consumed, skb.fds);
    let states = || -> Result<Vec<_>> {
        Ok(own(&two, QueueName::Receive)?
            .skbs
            .iter()
            .map(state)
            .collect())
    };
    let want = [
        (10, Some(0), Some(0)),
        (1, Some(0), Some(1)),
        (20, Some(0), Some(0)),
    ];
    check_eq!(states()?, want, "len, consumed, fds");
    check_eq!(sys::recv(&two, 4, 0)?.len(), 4, "bytes read");
    check_eq!(
        states()?[0],
        (10, Some(4), Some(0)),
        "the first, read in part"
    );
    sys::recv(&two, 6, 0)?;
    check_eq!(states()?, want[1..], "when the first is read");
    sys::recv(&two, 1, 0)?;
    check_eq!(states()?, want[2..], "when the descriptor is taken");
    Ok(())
}

fn corked_datagram() -> Result<()> {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (one, two) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        one.connect(two.local_addr()?)?;
        sys::send(&one, &[1; 100], libc::MSG_MORE)?;
        sys::send(&one, &[2; 50], libc::MSG_MORE)?;
        let write = own(&one, QueueName::Write)?;
        check_eq!(write.packets, 1, "packets that are held back");
        // Headers are written when it is sent: until then there is nothing of them.
        check!(
            write.skbs[0].headers.is_empty(),
            "headers of {:?}",
            write.skbs[0]
        );
        check!(write.skbs[0].len >= 150, "len of {:?}", write.skbs[0]);
        check_eq!(
            own(&two, QueueName::Receive)?.packets,
            0,
            "packets that came"
        );
        sys::send(&one, &[3; 7], 0)?;
        check_eq!(
            own(&one, QueueName::Write)?.packets,
            0,
            "packets once it is sent"
        );
        let receive = wait_queue(&two, QueueName::Receive, 1)?;
        check_eq!(receive.skbs[0].len, 157, "len of what came");
    }
    Ok(())
}

fn netlink_answers() -> Result<()> {
    let route = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    sys::bind(&route, &Address::netlink(0))?;
    // RTM_GETLINK of the loopback device: struct nlmsghdr, then struct ifinfomsg.
    let mut request = Vec::new();
    for word in [32u32, 18 | (1 << 16), 7, 0, 0, 1, 0, 0] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    sys::send(&route, &request, 0)?;
    let receive = wait_queue(&route, QueueName::Receive, 1)?;
    let skb = &receive.skbs[0];
    check!(
        skb.headers.is_empty(),
        "headers of a netlink message: {skb:?}"
    );
    check_eq!(
        (skb.data_len, skb.tail - skb.data),
        (0, skb.len),
        "all is linear"
    );
    let answer = sys::recv_message(&route, 0)?;
    check_eq!(skb.len, answer.bytes.len() as u64, "bytes, by recvmsg()");
    check_eq!(
        answer.bytes[8..12],
        7u32.to_ne_bytes(),
        "which answer it is"
    );
    check_eq!(
        own(&route, QueueName::Receive)?.packets,
        0,
        "packets once it is read"
    );
    Ok(())
}

/// Protocols that guard their receive queue by the socket.
fn mptcp_and_sctp() -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    for (protocol, modules) in [(IPPROTO_MPTCP, None), (libc::IPPROTO_SCTP, Some("sctp"))] {
        if let Some(module) = modules {
            super::wire::driver(module)?;
        }
        let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, protocol)?;
        sys::bind(&listener, &Address::loopback(0))?;
        sys::listen(&listener, 5)?;
        let one = sys::socket(libc::AF_INET, libc::SOCK_STREAM, protocol)?;
        sys::connect(&one, &Address::loopback(sys::port_of(&listener)?))?;
        let two = sys::accept(&listener)?;
        for size in [100usize, 30, 7] {
            check_eq!(sys::send(&one, &vec![1; size], 0)?, size, "bytes sent");
        }
        let bytes = || -> Result<u64> {
            let queue = own(&two, QueueName::Receive)?;
            Ok(queue.skbs.iter().map(|skb| skb.len).sum())
        };
        wait_for("the bytes", || Ok(bytes()? == 137))
            .with_context(|| format!("protocol {protocol} has {:?} bytes", bytes()))?;
        let receive = own(&two, QueueName::Receive)?;
        check_eq!(
            own_socket(&two)?.1.rx_packets,
            receive.packets,
            "rx_packets of `sockets`"
        );
        let report = skbs(sys::getpid())?;
        check_eq!(report.summary.busy, 0, "busy");
        let mut all = Vec::new();
        while all.len() < 137 {
            all.extend(sys::recv(&two, 200, 0)?);
        }
        check_eq!(bytes()?, 0, "bytes once all is read");
    }
    Ok(())
}
