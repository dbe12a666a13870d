//! What is found stuck in reports and in lines of /proc that stand for situations.

use ravel_records::Holds;

use super::*;
use crate::connections::{Addresses, Connection};

/// A socket of a process with pid 7.
fn socket(fd: u32, state: &str, local: &str, remote: &str, more: &str) -> String {
    let shutdown = match state {
        "CLOSE_WAIT" => "RD",
        "FIN_WAIT2" => "WR",
        _ => "none",
    };
    format!(
        "socket fd={fd} id={fd:016x} inode={} netns=1 family=inet type=stream protocol=tcp file_refs=1 \
         nonblock=0 busy=0 socket_state=connected sk_state={state} shutdown={shutdown} flags=none \
         local=\"{local}\" remote=\"{remote}\" linger=off err=0 soft_err=0 rx_bytes=0 rx_packets=0 unread=0 \
         tx_bytes=0 tx_packets=0 wmem=0 inq=0 outq=0 backlog=0 peer=0000000000000000 fin=none \
         fin_received=0 unsent=0 unacked=0 window=0 cwnd=10 in_flight=0 requests=0 retransmits=0 probes=0 \
         backoff=0 timer=none timer_ms=off ack_ms=off keepalive_ms=off fin_timeout_ms=60000 {more}\n",
        100 + fd
    )
}

fn sweep(sockets: &[String]) -> Sweep {
    let text = format!(
        "report name=sockets format=1 pid=7 comm=\"a\" kernel=\"k\"\n{}\
         summary report=sockets fds=9 sockets={} waiting=0 busy=0 cut=0\n",
        sockets.concat(),
        sockets.len()
    );
    Sweep::parse(text.as_bytes()).unwrap()
}

fn orphan(local: &str, remote: &str, state: SkState, inode: u64) -> Connection {
    Connection {
        addresses: Addresses::new(1, local.parse().unwrap(), remote.parse().unwrap()),
        state,
        tx: 0,
        rx: 0,
        inode,
        timer_ms: Some(5000),
        remnant: true,
    }
}

fn kinds(sweep: &Sweep, loose: &[Connection]) -> Vec<(Why, u64)> {
    let answer = find(sweep, loose, &Evidence::default(), None);
    answer.stuck.iter().map(|of| (of.why, of.inode)).collect()
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.1:9000";

#[test]
fn worst_first_and_longest_silent_first() {
    let sockets = [
        socket(3, "FIN_WAIT2", A, "10.0.0.2:1", "silent_ms=9000"),
        socket(4, "CLOSE_WAIT", A, "10.0.0.2:2", "silent_ms=10"),
        socket(5, "CLOSE_WAIT", A, "10.0.0.2:3", "silent_ms=20"),
        socket(6, "ESTABLISHED", A, "10.0.0.2:4", "silent_ms=20"),
    ];
    let want = [
        (Why::CloseWait, 105),
        (Why::CloseWait, 104),
        (Why::HalfClosed, 103),
    ];
    assert_eq!(kinds(&sweep(&sockets), &[]), want);
}

#[test]
fn both_ends_are_told_once() {
    let sockets = [socket(3, "CLOSE_WAIT", A, B, "silent_ms=1")];
    let loose = [orphan(B, A, SkState::FinWait2, 0)];
    let answer = find(&sweep(&sockets), &loose, &Evidence::default(), None);
    assert_eq!(answer.stuck.len(), 1);
    let end = answer.stuck[0].other_end.as_ref().unwrap();
    assert_eq!(
        (&end.state, end.inode, end.ends_ms),
        (&SkState::FinWait2, 0, Some(5000))
    );
    // Another one's is shown by itself.
    let loose = [orphan("10.0.0.1:9001", A, SkState::FinWait2, 0)];
    let want = [(Why::CloseWait, 103), (Why::Orphan, 0)];
    assert_eq!(kinds(&sweep(&sockets), &loose), want);
}

#[test]
fn what_was_closed_meanwhile_is_told_as_it_is_later() {
    let sockets = [socket(3, "FIN_WAIT2", A, B, "silent_ms=1")];
    let loose = [orphan(A, B, SkState::FinWait2, 0)];
    assert_eq!(kinds(&sweep(&sockets), &loose), [(Why::Orphan, 0)]);
}

#[test]
fn what_no_descriptor_leads_to() {
    let known = BTreeSet::from([103]);
    for (state, inode, loose) in [
        (SkState::FinWait2, 0, true),
        (SkState::LastAck, 0, true),
        // Nobody has accepted it.
        (SkState::CloseWait, 0, false),
        (SkState::Established, 0, false),
        (SkState::TimeWait, 0, false),
        (SkState::CloseWait, 103, false),
        (SkState::CloseWait, 104, true),
        (SkState::Established, 104, true),
        (SkState::Listen, 104, false),
    ] {
        let connection = orphan(A, B, state, inode);
        assert_eq!(is_loose(&connection, &known), loose, "{connection:?}");
    }
    // Nothing is wrong with an open one of the kernel's, or of an io_uring.
    let loose = [orphan(A, B, SkState::Established, 104)];
    assert_eq!(kinds(&sweep(&[]), &loose), []);
    let answer = find(&sweep(&[]), &loose, &Evidence::default(), None);
    assert_eq!(answer.looked.kernel_connections, 1);
    let holder = |holds| Sharer {
        pid: 7,
        comm: "a".into(),
        fd: 3,
        holds,
        table: ravel_records::Id(0),
        counted: 1,
    };
    let mut evidence = Evidence::default();
    evidence.messages.push(holder(Holds::Message));
    let answer = find(&sweep(&[]), &loose, &evidence, None);
    assert_eq!(
        (answer.stuck[0].why, answer.stuck[0].inode),
        (Why::Unheld, 104)
    );
    assert_eq!(answer.stuck[0].candidates, evidence.messages);
    let rings = [(104, vec![holder(Holds::Ring)])];
    evidence.rings = BTreeMap::from(rings);
    let answer = find(&sweep(&[]), &loose, &evidence, None);
    assert_eq!(
        (answer.stuck.len(), answer.looked.kernel_connections),
        (0, 0)
    );
    // What the peer has ended has to be closed there.
    let loose = [orphan(A, B, SkState::CloseWait, 104)];
    let answer = find(&sweep(&[]), &loose, &evidence, None);
    let of = &answer.stuck[0];
    assert_eq!(
        (of.why, of.others.len(), of.unnamed),
        (Why::CloseWait, 1, Some(0))
    );
}

/// The same socket as another protocol's, in another network namespace.
fn changed(socket: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(socket.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to)
    })
}

#[test]
fn an_mptcp_connection_is_one() {
    let mptcp = [
        ("protocol=tcp", "protocol=mptcp"),
        (" fin=none", " other=none"),
    ];
    let one = changed(&socket(3, "CLOSE_WAIT", A, B, "silent_ms=1"), &mptcp);
    // Its subflow, and that of the other end, which is closed.
    let loose = [
        orphan(A, B, SkState::Established, 204),
        orphan(B, A, SkState::Established, 205),
    ];
    assert_eq!(
        kinds(&sweep(&[one.clone()]), &loose),
        [(Why::CloseWait, 103)]
    );
    let mut evidence = Evidence::default();
    let answer = find(&sweep(&[one.clone()]), &loose, &evidence, None);
    assert_eq!(answer.looked.kernel_connections, 0);
    let end = answer.stuck[0].other_end.as_ref().unwrap();
    assert_eq!((&end.state, end.inode), (&SkState::FinWait2, 0));
    // Both ends are open: the one that has to act is shown, with the other one.
    let two = changed(&socket(4, "FIN_WAIT2", B, A, "silent_ms=1"), &mptcp);
    evidence.messages.clear();
    let answer = find(&sweep(&[one, two]), &[], &evidence, None);
    assert_eq!(answer.stuck.len(), 1);
    let of = &answer.stuck[0];
    assert_eq!((of.why, of.inode), (Why::CloseWait, 103));
    assert_eq!(of.other_end.as_ref().unwrap().holders[0].fd, 4);
}

#[test]
fn both_ends_in_two_namespaces_are_one_connection() {
    let (here, there) = ("10.0.0.1:80", "10.0.0.2:9000");
    let other = [("netns=1 ", "netns=2 ")];
    let one = socket(3, "CLOSE_WAIT", here, there, "silent_ms=1");
    let two = changed(&socket(4, "FIN_WAIT2", there, here, "silent_ms=1"), &other);
    let answer = find(
        &sweep(&[one.clone(), two.clone()]),
        &[],
        &Evidence::default(),
        None,
    );
    assert_eq!(answer.stuck.len(), 1);
    let end = answer.stuck[0].other_end.as_ref().unwrap();
    assert_eq!((end.netns, end.inode), (2, 104));
    // Another namespace has the same addresses: which of them it is cannot be told.
    let third = changed(
        &socket(5, "FIN_WAIT2", there, here, "silent_ms=1"),
        &[("netns=1 ", "netns=3 ")],
    );
    let answer = find(&sweep(&[one, two, third]), &[], &Evidence::default(), None);
    assert_eq!(answer.stuck.len(), 3);
}

#[test]
fn who_waits_to_write_is_not_to_blame() {
    let unread = |fd: u32, local, remote, bytes: u32, peer: u32| {
        let more = format!(
            "silent_ms=1 peer_inode={} peer_state=ESTABLISHED peer_shutdown=none \
             peer_rx_bytes=9 peer_rx_packets=1",
            100 + peer
        );
        changed(
            &socket(fd, "ESTABLISHED", local, remote, &more),
            &[
                ("unread=0", "unread=1"),
                ("rx_bytes=0 rx", &format!("rx_bytes={bytes} rx")),
                ("peer=0000000000000000", &format!("peer={peer:016x}")),
            ],
        )
    };
    let server = unread(3, A, B, 500, 4);
    let client = unread(4, B, A, 35, 3);
    let answer = find(
        &sweep(&[server.clone(), client.clone()]),
        &[],
        &Evidence::default(),
        None,
    );
    let blame: Vec<u32> = answer.stuck[0].blame.iter().map(|of| of.fd).collect();
    assert_eq!((answer.stuck.len(), blame), (1, vec![3, 4]));
    let writes = changed(
        &client,
        &[("unsent=0", "unsent=9"), ("timer=none", "timer=probe")],
    );
    for sockets in [[server.clone(), writes.clone()], [writes, server]] {
        let answer = find(&sweep(&sockets), &[], &Evidence::default(), None);
        assert_eq!(answer.stuck.len(), 1);
        let of = &answer.stuck[0];
        assert_eq!((of.inode, of.blame[0].fd, of.blame.len()), (103, 3, 1));
    }
}

#[test]
fn a_proxy_has_to_pass_the_end_on() {
    let listener = socket(3, "LISTEN", "10.0.0.1:80", "", "silent_ms=off");
    let more = "silent_ms=1 peer_inode=900 peer_state=FIN_WAIT2 peer_shutdown=WR \
                peer_rx_bytes=0 peer_rx_packets=0";
    let ended = changed(
        &socket(4, "CLOSE_WAIT", A, "10.0.0.2:2", more),
        &[("peer=0000000000000000", "peer=00000000000000ff")],
    );
    let accepted = socket(5, "ESTABLISHED", A, "10.0.0.2:3", "silent_ms=1");
    let upstream = socket(
        6,
        "ESTABLISHED",
        "10.0.0.1:40000",
        "10.0.0.3:80",
        "silent_ms=1",
    );
    let sockets = [listener, ended, accepted, upstream];
    let answer = find(&sweep(&sockets), &[], &Evidence::default(), None);
    let of = &answer.stuck[0];
    let relays: Vec<u32> = of.relays.iter().map(|relay| relay.holder.fd).collect();
    assert_eq!((of.why, relays), (Why::CloseWait, vec![6]));
}

#[test]
fn full_queues() {
    let udp = changed(
        &socket(3, "CLOSE", A, "", "silent_ms=1"),
        &[
            ("type=stream protocol=tcp", "type=dgram protocol=udp"),
            (" fin=none", " other=none"),
            (
                "rx_packets=0",
                "rx_packets=7 rmem=16128 sndbuf=1 rcvbuf=16384 drops=93",
            ),
        ],
    );
    let answer = find(&sweep(&[udp.clone()]), &[], &Evidence::default(), None);
    let full = answer.stuck[0].full.as_ref().unwrap();
    assert_eq!((answer.stuck[0].why, full.packets), (Why::QueueFull, 7));
    assert_eq!(full.memory.as_ref().unwrap().drops, 93);
    let room = changed(&udp, &[("rmem=16128", "rmem=7000")]);
    assert_eq!(kinds(&sweep(&[room]), &[]), []);
    let listener = |waiting: u32| {
        let changes = format!("rx_packets={waiting}");
        changed(
            &socket(3, "LISTEN", A, "", "silent_ms=off"),
            &[("rx_packets=0", &changes), ("backlog=0", "backlog=5")],
        )
    };
    assert_eq!(kinds(&sweep(&[listener(5)]), &[]), []);
    assert_eq!(
        kinds(&sweep(&[listener(6)]), &[]),
        [(Why::BacklogFull, 103)]
    );
}

#[test]
fn kinds_without_rules_are_counted() {
    let sctp = changed(
        &socket(3, "ESTABLISHED", A, B, "silent_ms=1"),
        &[
            ("protocol=tcp", "protocol=sctp"),
            (" fin=none", " other=none"),
        ],
    );
    let answer = find(&sweep(&[sctp]), &[], &Evidence::default(), None);
    assert_eq!(
        answer.looked.not_judged,
        BTreeMap::from([("sctp".to_owned(), 1)])
    );
    assert_eq!(answer.stuck.len(), 0);
}

#[test]
fn what_moved_between_two_looks_is_left_out() {
    let one = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1");
    let two = socket(4, "CLOSE_WAIT", A, "10.0.0.2:4", "silent_ms=1");
    let earlier = find(
        &sweep(&[one.clone(), two.clone()]),
        &[],
        &Evidence::default(),
        None,
    );
    let read = two.replace("rx_bytes=0", "rx_bytes=7");
    let new = socket(5, "CLOSE_WAIT", A, "10.0.0.2:5", "silent_ms=1");
    let mut later = find(&sweep(&[one, read, new]), &[], &Evidence::default(), None);
    later.keep_still(&earlier);
    let left: Vec<u64> = later.stuck.iter().map(|of| of.inode).collect();
    assert_eq!(left, [103]);
}

#[test]
fn a_reused_object_is_not_what_stood_still() {
    let one = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1");
    let earlier = find(&sweep(&[one.clone()]), &[], &Evidence::default(), None);
    // Its object is another socket's by now.
    let mut later = find(
        &sweep(&[one.replace("inode=103", "inode=777")]),
        &[],
        &Evidence::default(),
        None,
    );
    later.keep_still(&earlier);
    assert_eq!(later.stuck.len(), 0);
}

#[test]
fn references_that_were_not_looked_up_are_counted() {
    let shared =
        socket(3, "ESTABLISHED", A, B, "silent_ms=1").replace("file_refs=1", "file_refs=2");
    let answer = find(&sweep(&[shared]), &[], &Evidence::default(), None);
    assert_eq!((answer.stuck.len(), answer.looked.unexamined), (0, 1));
    let closed = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1").replace("file_refs=1", "file_refs=3");
    let answer = find(&sweep(&[closed]), &[], &Evidence::default(), None);
    let of = &answer.stuck[0];
    assert_eq!((of.references, of.unnamed), (Some(3), None));
    assert!(!of.knows_all_holders());
    let alone = find(
        &sweep(&[socket(3, "CLOSE_WAIT", A, B, "silent_ms=1")]),
        &[],
        &Evidence::default(),
        None,
    );
    assert_eq!(alone.stuck[0].unnamed, Some(0));
}
