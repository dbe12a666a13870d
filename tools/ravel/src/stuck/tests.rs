//! What is found stuck in reports and in lines of /proc that stand for situations.

use super::*;

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
    let answer = find(sweep, loose, None);
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
    let answer = find(&sweep(&sockets), &loose, None);
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
    let loose = [orphan(A, B, SkState::Established, 104)];
    assert_eq!(kinds(&sweep(&[]), &loose), [(Why::Unheld, 104)]);
}

#[test]
fn what_moved_between_two_looks_is_left_out() {
    let one = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1");
    let two = socket(4, "CLOSE_WAIT", A, "10.0.0.2:4", "silent_ms=1");
    let earlier = find(&sweep(&[one.clone(), two.clone()]), &[], None);
    let read = two.replace("rx_bytes=0", "rx_bytes=7");
    let new = socket(5, "CLOSE_WAIT", A, "10.0.0.2:5", "silent_ms=1");
    let mut later = find(&sweep(&[one, read, new]), &[], None);
    later.keep_still(&earlier);
    let left: Vec<u64> = later.stuck.iter().map(|of| of.inode).collect();
    assert_eq!(left, [103]);
}

#[test]
fn a_reused_object_is_not_what_stood_still() {
    let one = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1");
    let earlier = find(&sweep(&[one.clone()]), &[], None);
    // Its object is another socket's by now.
    let mut later = find(&sweep(&[one.replace("inode=103", "inode=777")]), &[], None);
    later.keep_still(&earlier);
    assert_eq!(later.stuck.len(), 0);
}

#[test]
fn references_that_were_not_looked_up_are_counted() {
    let shared =
        socket(3, "ESTABLISHED", A, B, "silent_ms=1").replace("file_refs=1", "file_refs=2");
    let answer = find(&sweep(&[shared]), &[], None);
    assert_eq!((answer.stuck.len(), answer.looked.unexamined), (0, 1));
    let closed = socket(3, "CLOSE_WAIT", A, B, "silent_ms=1").replace("file_refs=1", "file_refs=3");
    let answer = find(&sweep(&[closed]), &[], None);
    let of = &answer.stuck[0];
    assert_eq!((of.references, of.unnamed), (Some(3), None));
    assert!(!of.knows_all_holders());
    let alone = find(
        &sweep(&[socket(3, "CLOSE_WAIT", A, B, "silent_ms=1")]),
        &[],
        None,
    );
    assert_eq!(alone.stuck[0].unnamed, Some(0));
}
