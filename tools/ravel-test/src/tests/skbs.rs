// SPDX-License-Identifier: GPL-2.0
//! Report skbs: sizes, order and header offsets of packets that the test itself sent.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::{Offset, Queue, QueueName, Shutdown, Skb, Socket, SocketQueues};

use super::peers::{self, full_pair, pair, wait_bytes, wait_for};
use crate::process::Child;
use crate::report::{own_queues, own_socket, queue, skbs};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("skbs":
    udp_over_ipv4_offsets,
    udp_over_ipv6_offsets,
    large_udp_datagram_lies_in_fragments,
    udp_datagrams_stand_in_their_order,
    udp_reader_queue_has_what_recv_took_over,
    udp_queue_of_2000_shows_1024,
    reassembled_datagram_has_a_frag_list_or_frags,
    tcp_receive_queue_is_contiguous,
    tcp_over_ipv6_offsets,
    tcp_skb_read_in_part_keeps_its_length,
    tcp_fin_takes_a_sequence_number,
    tcp_write_and_rtx_queues_add_up,
    unix_stream_has_no_headers,
    unix_datagrams_have_no_headers,
    unix_skb_read_in_part_keeps_its_length,
    packet_socket_sees_the_mac_header_in_front,
    raw_socket_sees_the_ip_header_in_front,
    listeners_queue_is_not_told_as_packets,
    ids_are_of_the_packets,
    queues_agree_with_sockets_report,
);

/// What holds for every sk_buff.
pub(super) fn check_sane(skb: &Skb) -> Result<()> {
    check!(
        skb.data <= skb.tail && skb.tail <= skb.end,
        "data <= tail <= end: {skb:?}"
    );
    check_eq!(
        skb.tail - skb.data,
        skb.len - skb.data_len,
        "linear bytes of {skb:?}"
    );
    // skb_set_tcp_pure_ack() marks those that hold nobody's memory up.
    check!(
        skb.truesize >= skb.len || skb.truesize == 2,
        "truesize < len: {skb:?}"
    );
    check!(
        skb.data_len == 0 || skb.frags > 0 || skb.frag_list,
        "no place for data: {skb:?}"
    );
    check!(
        skb.data_len > 0 || skb.frags == 0,
        "fragments without data: {skb:?}"
    );
    for (name, offset) in skb.offsets() {
        let want = offset.raw != u16::MAX && (offset.raw != 0 || name == "mac");
        check_eq!(offset.set, want, "mark of {name} {offset} in {skb:?}");
        check!(
            !offset.set || skb.holds(offset),
            "{name} {offset} in {skb:?}"
        );
    }
    let paged: u64 = skb.pages.iter().map(|frag| frag.size).sum();
    let listed: u64 = skb.parts.iter().map(|part| part.len).sum();
    check_eq!(skb.data_len, paged + listed, "pieces of {skb:?}");
    check_eq!(skb.frags, skb.pages.len() as u64, "frags of {skb:?}");
    check_eq!(skb.frag_list, !skb.parts.is_empty(), "parts of {skb:?}");
    check!(
        skb.users >= 1 && skb.dataref >= 1,
        "without a reference: {skb:?}"
    );
    for header in &skb.headers {
        // Payload is nobody's business: what is behind `data` is a header only where a layer has not yet taken
        // it off.
        check!(
            !header.bytes.0.is_empty() && header.bytes.0.len() <= 256,
            "headers of {skb:?}"
        );
    }
    check!(!skb.id.is_none(), "id of {skb:?}");
    Ok(())
}

/// A queue of ours, whose records are checked for what holds for all.
fn own_queue(fd: &impl AsRawFd, name: QueueName) -> Result<Queue> {
    let of = own_queues(fd)?;
    let queue = queue(&of, &name)?.clone();
    for (pos, skb) in queue.skbs.iter().enumerate() {
        check_eq!(skb.pos, pos as u64, "pos in {name}");
        check_eq!(skb.fd as i32, fd.as_raw_fd(), "fd");
        check_sane(skb)?;
    }
    check_eq!(queue.shown, queue.skbs.len() as u64, "shown in {name}");
    Ok(queue)
}

/// An offset that is set.
fn set(offset: Offset) -> Result<u64> {
    Ok(offset
        .get()
        .with_context(|| format!("{offset} is not set"))?
        .into())
}

/// Checks that mac, network and transport lie behind each other as they do in an Ethernet frame
/// with an IP header of that length, and gives where the transport header is.
fn check_frame(skb: &Skb, ip_header: u64, protocol: u16) -> Result<u64> {
    let (mac, network, transport) = (set(skb.mac)?, set(skb.network)?, set(skb.transport)?);
    check_eq!(network - mac, 14, "network - mac of {skb:?}");
    check_eq!(
        transport - network,
        ip_header,
        "transport - network of {skb:?}"
    );
    check_eq!(skb.protocol.0, protocol, "protocol of {skb:?}");
    Ok(transport)
}

fn udp_pair(address: &str) -> Result<(UdpSocket, UdpSocket)> {
    let (one, two) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
    one.connect(two.local_addr()?)?;
    Ok((one, two))
}

fn wait_packets(fd: &impl AsRawFd, count: u64) -> Result<()> {
    wait_for(&format!("packet {count}"), || {
        Ok(own_socket(fd)?.1.rx_packets == count)
    })
}

fn lens(queue: &Queue) -> Vec<u64> {
    queue.skbs.iter().map(|skb| skb.len).collect()
}

fn check_udp(address: &str, ip_header: u64, protocol: u16) -> Result<()> {
    let (one, two) = udp_pair(address)?;
    let sizes = [1, 100, 0, 1472, 9000];
    for size in sizes {
        one.send(&vec![1; size])?;
    }
    wait_packets(&two, sizes.len() as u64)?;
    let queue = own_queue(&two, QueueName::Receive)?;
    check_eq!(lens(&queue), sizes.map(|size| size as u64), "lengths");
    for skb in &queue.skbs {
        // udp_csum_pull_header(): data is behind the 8 bytes of the UDP header.
        let transport = check_frame(skb, ip_header, protocol)?;
        check_eq!(skb.data, transport + 8, "data of {skb:?}");
        check_eq!(
            (skb.data_len, skb.frags, skb.frag_list),
            (0, 0, false),
            "all is linear"
        );
        check_eq!(skb.tail, skb.data + skb.len, "tail of {skb:?}");
        check!(skb.truesize > skb.end, "truesize of {skb:?}");
        check!(!skb.cloned, "cloned, and nobody else looks: {skb:?}");
        // All headers, and nothing of what was sent.
        let headers: Vec<_> = skb.headers.iter().collect();
        check_eq!(headers.len(), 1, "header records of {skb:?}");
        let (at, bytes) = (headers[0].offset, &headers[0].bytes.0);
        check_eq!(at, u64::from(skb.mac.raw), "where the headers begin");
        check_eq!(at + bytes.len() as u64, skb.data, "where they end");
        let port = one.local_addr()?.port().to_be_bytes();
        check_eq!(bytes[bytes.len() - 8..][..2], port, "the sender's port");
        check_eq!(
            (skb.seq, skb.end_seq),
            (None, None),
            "sequence numbers of {skb:?}"
        );
    }
    Ok(())
}

fn udp_over_ipv4_offsets() -> Result<()> {
    check_udp("127.0.0.1:0", 20, 0x0800)
}

fn udp_over_ipv6_offsets() -> Result<()> {
    check_udp("[::1]:0", 40, 0x86dd)
}

fn large_udp_datagram_lies_in_fragments() -> Result<()> {
    // __ip_append_data(): beyond SKB_MAX_ALLOC the head takes the headers only.
    for (address, ip_header, protocol) in [("127.0.0.1:0", 20, 0x0800), ("[::1]:0", 40, 0x86dd)] {
        let (one, two) = udp_pair(address)?;
        one.send(&[1; 30_000])?;
        wait_packets(&two, 1)?;
        let queue = own_queue(&two, QueueName::Receive)?;
        let skb = &queue.skbs[0];
        check_eq!((skb.len, skb.data_len), (30_000, 30_000), "len, data_len");
        let transport = check_frame(skb, ip_header, protocol)?;
        check_eq!(
            (skb.data, skb.tail),
            (transport + 8, transport + 8),
            "data, tail"
        );
        check!(skb.frags >= 1, "frags of {skb:?}");
    }
    Ok(())
}

fn udp_datagrams_stand_in_their_order() -> Result<()> {
    let (one, two) = udp_pair("127.0.0.1:0")?;
    let sizes: Vec<u64> = (0..100).map(|i| (i * 37) % 101).collect();
    for size in &sizes {
        one.send(&vec![1; *size as usize])?;
    }
    wait_packets(&two, 100)?;
    let queue = own_queue(&two, QueueName::Receive)?;
    check_eq!(lens(&queue), sizes, "lengths, in order");
    let ids: BTreeSet<_> = queue.skbs.iter().map(|skb| skb.id).collect();
    check_eq!(ids.len(), 100, "ids");
    Ok(())
}

fn udp_reader_queue_has_what_recv_took_over() -> Result<()> {
    // __skb_recv_udp(): a reader takes the whole receive queue over, and hands out one.
    let (one, two) = udp_pair("127.0.0.1:0")?;
    for size in [10, 20, 30] {
        one.send(&vec![1; size])?;
    }
    wait_packets(&two, 3)?;
    let receive = own_queue(&two, QueueName::Receive)?;
    check_eq!(lens(&receive), [10, 20, 30], "receive, before recv()");
    check_eq!(
        own_queue(&two, QueueName::Reader)?.packets,
        0,
        "reader, before recv()"
    );
    check_eq!(two.recv(&mut [0; 100])?, 10, "bytes of recv()");
    check_eq!(
        lens(&own_queue(&two, QueueName::Reader)?),
        [20, 30],
        "reader, after recv()"
    );
    check_eq!(
        own_queue(&two, QueueName::Receive)?.packets,
        0,
        "receive, after recv()"
    );
    for size in [40, 50] {
        one.send(&vec![1; size])?;
    }
    wait_packets(&two, 4)?;
    let reader = own_queue(&two, QueueName::Reader)?;
    check_eq!(lens(&reader), [20, 30], "reader, after two more");
    let ids = |queue: &Queue| queue.skbs.iter().map(|skb| skb.id).collect::<Vec<_>>();
    check_eq!(ids(&reader), ids(&receive)[1..], "ids of those taken over");
    check_eq!(
        lens(&own_queue(&two, QueueName::Receive)?),
        [40, 50],
        "receive, after two more"
    );
    for size in [20, 30, 40, 50] {
        check_eq!(two.recv(&mut [0; 100])?, size, "bytes of recv()");
    }
    Ok(())
}

fn udp_queue_of_2000_shows_1024() -> Result<()> {
    let (one, two) = udp_pair("127.0.0.1:0")?;
    sys::set_option(&two, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    for i in 0..2000 {
        one.send(&vec![1; i % 50])?;
    }
    wait_packets(&two, 2000)?;
    let report = skbs(sys::getpid())?;
    let of = report.socket(two.as_raw_fd() as u32).context("no record")?;
    let receive = queue(of, &QueueName::Receive)?;
    check_eq!(
        (receive.packets, receive.shown),
        (2000, 1024),
        "packets, shown"
    );
    let want: Vec<u64> = (0..1024).map(|i| i % 50).collect();
    check_eq!(lens(receive), want, "lengths of the first 1024");
    check_eq!(report.summary.cut, 976, "cut in the summary");
    check_eq!(report.summary.skbs, 1024, "skbs in the summary");
    let bytes: u64 = (0..2000).map(|i| i % 50).sum();
    check_eq!(
        own_socket(&two)?.1.rx_bytes,
        bytes,
        "rx_bytes counts them all"
    );
    Ok(())
}

fn reassembled_datagram_has_a_frag_list_or_frags() -> Result<()> {
    let mut child = Child::spawn(|link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        sys::set_loopback_mtu(1500)?;
        let (one, two) = udp_pair("127.0.0.1:0")?;
        one.send(&[1; 4000])?;
        wait_packets(&two, 1)?;
        let queue = own_queue(&two, QueueName::Receive)?;
        let skb = &queue.skbs[0];
        check_eq!(skb.len, 4000, "len: one datagram of three IP packets");
        // The first of 1500 bytes holds 1472; the others hang on it or were merged into it.
        check_eq!(skb.len - skb.data_len, 1472, "linear bytes of {skb:?}");
        let transport = check_frame(skb, 20, 0x0800)?;
        check_eq!(skb.data, transport + 8, "data of {skb:?}");
        link.send("done")
    })?;
    check_eq!(child.link.recv()?, "done", "what the child says");
    child.join()
}

/// Sequence numbers of a TCP queue's records.
fn seqs(queue: &Queue) -> Result<Vec<(u32, u32)>> {
    let seq = |skb: &Skb| Some((skb.seq?, skb.end_seq?));
    queue
        .skbs
        .iter()
        .map(|skb| seq(skb).context("a TCP skb without seq"))
        .collect()
}

/// Checks that each begins where the one before ends, and gives the sum of all lengths.
fn check_contiguous(queue: &Queue) -> Result<u64> {
    let seqs = seqs(queue)?;
    for (pair, pos) in seqs.windows(2).zip(1..) {
        check_eq!(pair[1].0, pair[0].1, "seq of position {pos}");
    }
    for ((seq, end), skb) in seqs.iter().zip(&queue.skbs) {
        check_eq!(
            u64::from(end.wrapping_sub(*seq)),
            skb.len,
            "end_seq - seq of {skb:?}"
        );
    }
    Ok(lens(queue).iter().sum())
}

fn check_tcp(address: &str, ip_header: u64, protocol: u16) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (mut two, _) = listener.accept()?;
    one.set_nodelay(true)?;
    let mut total = 0;
    for size in [1, 2000, 30, 10_000] {
        one.write_all(&vec![1; size])?;
        total += size as u64;
        wait_bytes(&two, total)?;
        let queue = own_queue(&two, QueueName::Receive)?;
        check_eq!(check_contiguous(&queue)?, total, "bytes in the queue");
        check_eq!(sys::inq(&two)? as u64, total, "SIOCINQ");
        for skb in &queue.skbs {
            // tcp_rcv: data is behind the TCP header, of 20 bytes and those of timestamps.
            let transport = check_frame(skb, ip_header, protocol)?;
            check_eq!(skb.data, transport + 32, "data of {skb:?}");
        }
    }
    let first = seqs(&own_queue(&two, QueueName::Receive)?)?[0].0;
    two.read_exact(&mut vec![0; total as usize])?;
    check_eq!(
        own_queue(&two, QueueName::Receive)?.packets,
        0,
        "packets once all is read"
    );
    one.write_all(b"more")?;
    wait_bytes(&two, 4)?;
    let next = seqs(&own_queue(&two, QueueName::Receive)?)?[0];
    check_eq!(
        next.0.wrapping_sub(first),
        total as u32,
        "sequence numbers since the first byte"
    );
    for name in [QueueName::Write, QueueName::Rtx] {
        check_eq!(
            own_queue(&two, name)?.packets,
            0,
            "packets of an end that sent nothing"
        );
    }
    Ok(())
}

fn tcp_receive_queue_is_contiguous() -> Result<()> {
    check_tcp("127.0.0.1:0", 20, 0x0800)
}

fn tcp_over_ipv6_offsets() -> Result<()> {
    check_tcp("[::1]:0", 40, 0x86dd)
}

fn tcp_skb_read_in_part_keeps_its_length() -> Result<()> {
    let (mut one, mut two) = pair()?;
    one.write_all(&[1; 1000])?;
    wait_bytes(&two, 1000)?;
    let before = own_queue(&two, QueueName::Receive)?;
    two.read_exact(&mut [0; 400])?;
    let after = own_queue(&two, QueueName::Receive)?;
    check_eq!(
        after.skbs,
        before.skbs,
        "sk_buffs after 400 of 1000 bytes were read"
    );
    check_eq!(sys::inq(&two)?, 600, "SIOCINQ");
    Ok(())
}

fn tcp_fin_takes_a_sequence_number() -> Result<()> {
    let (mut one, two) = pair()?;
    one.write_all(b"12345")?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.shutdown == Shutdown::Rd)
    })?;
    let queue = own_queue(&two, QueueName::Receive)?;
    check_eq!(lens(&queue).iter().sum::<u64>(), 5, "bytes");
    let seqs = seqs(&queue)?;
    let (first, last) = (seqs[0].0, seqs[seqs.len() - 1].1);
    check_eq!(
        last.wrapping_sub(first),
        6,
        "sequence numbers: five bytes and the FIN"
    );
    Ok(())
}

fn tcp_write_and_rtx_queues_add_up() -> Result<()> {
    let (one, two, written) = full_pair()?;
    let mut compared = 0;
    // A zero window is probed now and then; what was read while bytes moved is read anew.
    for _ in 0..100 {
        let before = own_socket(&one)?.1;
        let of: SocketQueues = own_queues(&one)?;
        let (outq, after) = (sys::outq(&one)?, own_socket(&one)?.1);
        // Its timers go on.
        if peers::still(&before) != peers::still(&after) {
            continue;
        }
        compared += 1;
        let (write, rtx) = (queue(&of, &QueueName::Write)?, queue(&of, &QueueName::Rtx)?);
        let (unsent, unacked) = (check_contiguous(write)?, check_contiguous(rtx)?);
        check!(unsent > 0, "nothing waits to be sent, of {written} bytes");
        check_eq!(
            unsent + unacked,
            outq as u64,
            "bytes in both queues, and SIOCOUTQ"
        );
        check_eq!(
            unsent + unacked,
            before.tx_bytes,
            "bytes in both queues, and tx_bytes"
        );
        if let (Some(last), Some(first)) = (rtx.skbs.last(), write.skbs.first()) {
            check_eq!(last.end_seq, first.seq, "where rtx ends, write begins");
        }
        for skb in write.skbs.iter().chain(&rtx.skbs) {
            check_sane(skb)?;
            // tcp_stream_alloc_skb(): headers go into the clone that is sent.
            check_unset(skb)?;
        }
        break;
    }
    check_eq!(compared, 1, "times that the socket stood still");
    let received = own_queue(&two, QueueName::Receive)?;
    check_eq!(
        lens(&received).iter().sum::<u64>(),
        sys::inq(&two)? as u64,
        "bytes of the peer"
    );
    Ok(())
}

/// Checks that no header was ever set: as __alloc_skb() leaves the offsets.
fn check_unset(skb: &Skb) -> Result<()> {
    let offset = |raw| Offset { raw, set: false };
    check_eq!(skb.mac, offset(u16::MAX), "mac of {skb:?}");
    check_eq!(skb.network, offset(0), "network of {skb:?}");
    check_eq!(skb.transport, offset(u16::MAX), "transport of {skb:?}");
    check_eq!(skb.protocol.0, 0, "protocol of {skb:?}");
    Ok(())
}

fn check_unix(kind: i32) -> Result<()> {
    let (one, two) = sys::socketpair(kind)?;
    for size in [1, 200, 3000] {
        sys::send(&one, &vec![1; size], 0)?;
    }
    let queue = own_queue(&two, QueueName::Receive)?;
    check_eq!(lens(&queue), [1, 200, 3000], "lengths");
    for skb in &queue.skbs {
        check_unset(skb)?;
        // sock_alloc_send_pskb() leaves no room in front.
        check_eq!((skb.data, skb.tail), (0, skb.len), "data, tail of {skb:?}");
        check_eq!(
            (skb.data_len, skb.frags),
            (0, 0),
            "data_len, frags of {skb:?}"
        );
    }
    // Beyond what a head holds, the rest lies in pages.
    let large = 40_000;
    sys::send(&one, &vec![1; large], 0)?;
    let queue = own_queue(&two, QueueName::Receive)?;
    let rest = &queue.skbs[3..];
    check_eq!(
        rest.iter().map(|skb| skb.len).sum::<u64>(),
        large as u64,
        "bytes of the large one"
    );
    check!(
        rest.iter().any(|skb| skb.data_len > 0 && skb.frags > 0),
        "no fragments: {rest:?}"
    );
    Ok(())
}

fn unix_stream_has_no_headers() -> Result<()> {
    check_unix(libc::SOCK_STREAM)
}

fn unix_datagrams_have_no_headers() -> Result<()> {
    check_unix(libc::SOCK_DGRAM)?;
    check_unix(libc::SOCK_SEQPACKET)
}

fn unix_skb_read_in_part_keeps_its_length() -> Result<()> {
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::send(&one, &[1; 1000], 0)?;
    let mut before = own_queue(&two, QueueName::Receive)?;
    check_eq!(before.skbs[0].consumed, Some(0), "consumed");
    before.skbs[0].consumed = Some(300);
    check_eq!(sys::recv(&two, 300, 0)?.len(), 300, "bytes read");
    let after = own_queue(&two, QueueName::Receive)?;
    check_eq!(
        after.skbs,
        before.skbs,
        "sk_buffs after 300 of 1000 bytes were read"
    );
    check_eq!(own_socket(&two)?.1.rx_bytes, 700, "rx_bytes");
    Ok(())
}

fn packet_socket_sees_the_mac_header_in_front() -> Result<()> {
    let mut child = Child::spawn(|link| {
        // A namespace of its own, where nobody else sends.
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let ipv4 = 0x0800u16.to_be();
        let raw = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, ipv4.into())?;
        let cooked = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, ipv4.into())?;
        let (one, _two) = udp_pair("127.0.0.1:0")?;
        one.send(&[1; 100])?;
        wait_packets(&raw, 1)?;
        let queue = own_queue(&raw, QueueName::Receive)?;
        let skb = &queue.skbs[0];
        check_eq!(skb.len, 14 + 20 + 8 + 100, "len of SOCK_RAW");
        let transport = check_frame(skb, 20, 0x0800)?;
        check_eq!(
            skb.data,
            transport - 34,
            "data of SOCK_RAW: at the mac header"
        );
        wait_packets(&cooked, 1)?;
        let queue = own_queue(&cooked, QueueName::Receive)?;
        let skb = &queue.skbs[0];
        check_eq!(skb.len, 20 + 8 + 100, "len of SOCK_DGRAM");
        let transport = check_frame(skb, 20, 0x0800)?;
        check_eq!(
            skb.data,
            transport - 20,
            "data of SOCK_DGRAM: at the IP header"
        );
        let (_, detail) = own_socket(&raw)?;
        check_eq!(
            (detail.rx_bytes, detail.rx_packets),
            (142, 1),
            "rx of SOCK_RAW"
        );
        super::sockets::check_ioctls(&raw, &detail)?;
        link.send("done")
    })?;
    check_eq!(child.link.recv()?, "done", "what the child says");
    child.join()
}

fn raw_socket_sees_the_ip_header_in_front() -> Result<()> {
    let mut child = Child::spawn(|link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let raw = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
        let (one, _two) = udp_pair("127.0.0.1:0")?;
        one.send(&[1; 60])?;
        wait_packets(&raw, 1)?;
        let queue = own_queue(&raw, QueueName::Receive)?;
        let skb = &queue.skbs[0];
        check_eq!(skb.len, 20 + 8 + 60, "len");
        let transport = check_frame(skb, 20, 0x0800)?;
        // raw_rcv() pushes back to the IP header.
        check_eq!(skb.data, transport - 20, "data: at the IP header");
        let (_, detail) = own_socket(&raw)?;
        check_eq!((detail.rx_bytes, detail.inq), (88, 88), "rx_bytes, inq");
        super::sockets::check_ioctls(&raw, &detail)?;
        link.send("done")
    })?;
    check_eq!(child.link.recv()?, "done", "what the child says");
    child.join()
}

fn listeners_queue_is_not_told_as_packets() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.write_all(b"early")?;
    wait_for("the connection", || {
        Ok(own_socket(&listener)?.1.rx_packets == 1)
    })?;
    let of = own_queues(&listener)?;
    let own = of.queues.iter().filter(|queue| queue.child.is_none());
    let packets: u64 = own.map(|queue| queue.packets).sum();
    check_eq!(packets, 0, "packets in a TCP listener's own queues");
    Ok(())
}

fn ids_are_of_the_packets() -> Result<()> {
    let (one, two) = udp_pair("127.0.0.1:0")?;
    for size in [10, 20, 30] {
        one.send(&vec![1; size])?;
    }
    wait_packets(&two, 3)?;
    let first = own_queue(&two, QueueName::Receive)?;
    let second = own_queue(&two, QueueName::Receive)?;
    check_eq!(first.skbs, second.skbs, "the same queue, read twice");
    let copy = two.try_clone()?;
    let other = own_queue(&copy, QueueName::Receive)?;
    let ids = |queue: &Queue| queue.skbs.iter().map(|skb| skb.id).collect::<Vec<_>>();
    check_eq!(
        ids(&other),
        ids(&first),
        "ids by another descriptor of the socket"
    );
    Ok(())
}

fn queues_agree_with_sockets_report() -> Result<()> {
    let (one, two) = udp_pair("127.0.0.1:0")?;
    let (mut client, server) = pair()?;
    let (a, b) = sys::socketpair(libc::SOCK_STREAM)?;
    one.send(&[1; 10])?;
    client.write_all(&[1; 100])?;
    sys::send(&a, &[1; 50], 0)?;
    wait_packets(&two, 1)?;
    wait_bytes(&server, 100)?;
    wait_for("the acknowledgement", || {
        Ok(own_socket(&client)?.1.tx_bytes == 0)
    })?;
    let sockets = crate::report::sockets(sys::getpid())?;
    let report = skbs(sys::getpid())?;
    let still = |socket: &Socket| Socket {
        detail: socket.detail.as_ref().map(peers::still),
        ..socket.clone()
    };
    let by_skbs: Vec<_> = report.sockets.iter().map(|of| still(&of.socket)).collect();
    let by_sockets: Vec<_> = sockets.sockets.iter().map(still).collect();
    check_eq!(by_skbs, by_sockets, "socket records of both reports");
    let mut packets = 0;
    for of in &report.sockets {
        let detail = of.socket.detail.as_ref().context("busy")?;
        let waiting = |names: &[QueueName]| -> u64 {
            of.queues
                .iter()
                .filter(|q| names.contains(&q.name))
                .map(|q| q.packets)
                .sum()
        };
        check_eq!(
            waiting(&[QueueName::Receive, QueueName::Reader]),
            detail.rx_packets,
            "{of:?}"
        );
        check_eq!(
            waiting(&[QueueName::Write, QueueName::Rtx]),
            detail.tx_packets,
            "{of:?}"
        );
        packets += of.queues.iter().map(|q| q.packets).sum::<u64>();
    }
    check_eq!(packets, 3, "packets in all");
    check_eq!(report.summary.skbs, 3, "skbs in the summary");
    let queues: usize = report.sockets.iter().map(|of| of.queues.len()).sum();
    check_eq!(
        report.summary.queues,
        queues as u64,
        "queues in the summary"
    );
    drop(b);
    Ok(())
}
