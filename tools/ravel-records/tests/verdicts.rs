//! Verdicts on records that were saved: what the VM tests observe, in small.

use ravel_records::verdict::{Effect, Operation, Reads, Verdict, Why};
use ravel_records::{SkState, SocketsReport};

/// One TCP socket, with some of its values changed.
fn report(changes: &[(&str, &str)]) -> SocketsReport {
    let mut socket = "socket fd=3 id=00000000000000aa inode=7 netns=1 family=inet type=stream \
        protocol=tcp file_refs=1 nonblock=0 busy=0 socket_state=connected sk_state=ESTABLISHED \
        shutdown=none flags=none local=\"127.0.0.1:1\" remote=\"127.0.0.1:2\" linger=off err=0 \
        soft_err=0 rx_bytes=0 rx_packets=0 unread=0 tx_bytes=0 tx_packets=0 wmem=0 inq=0 outq=0 \
        backlog=0 peer=0000000000000000 fin=none fin_received=0 unsent=0 unacked=0 window=65536 \
        cwnd=10 in_flight=0 requests=0 retransmits=0 probes=0 backoff=0 timer=none timer_ms=off \
        ack_ms=off keepalive_ms=off fin_timeout_ms=60000 silent_ms=200"
        .to_owned();
    for (key, value) in changes {
        let start = socket.find(&format!(" {key}=")).expect(key) + key.len() + 2;
        let end = socket[start..]
            .find(' ')
            .map_or(socket.len(), |at| start + at);
        socket.replace_range(start..end, value);
    }
    let text = format!(
        "report name=sockets format=1 pid=7 comm=\"x\" kernel=\"7.3\"\n{socket}\n\
         summary report=sockets fds=4 sockets=1 waiting=0 busy=0 cut=0\n"
    );
    SocketsReport::parse(text.as_bytes()).unwrap()
}

fn verdict(operation: Operation, changes: &[(&str, &str)]) -> Verdict {
    report(changes).sockets[0].verdict(operation).unwrap()
}

fn close(changes: &[(&str, &str)]) -> Verdict {
    verdict(Operation::Close, changes)
}

#[test]
fn fin_goes_behind_what_is_unsent() {
    let fin = |behind, waits| Effect::Fin {
        behind,
        waits,
        then_reset: false,
    };
    assert_eq!(close(&[]).effect, fin(0, false));
    assert_eq!(close(&[("unsent", "10")]).effect, fin(10, false));
    assert_eq!(
        close(&[("unsent", "10"), ("window", "10")]).effect,
        fin(10, true)
    );
    assert_eq!(close(&[("window", "0")]).effect, fin(0, true));
    assert_eq!(close(&[("in_flight", "10")]).effect, fin(0, true));
    let close = close(&[("sk_state", "CLOSE_WAIT"), ("fin_received", "1")]);
    assert_eq!(
        (close.state, close.settled),
        (SkState::LastAck, SkState::Close)
    );
}

#[test]
fn unread_bytes_come_before_linger() {
    let unread = [
        ("unread", "1"),
        ("rx_bytes", "5"),
        ("linger", "9"),
        ("unsent", "3"),
    ];
    let verdict = close(&unread);
    assert_eq!(verdict.effect, Effect::Reset { why: Why::Unread });
    assert_eq!(
        (verdict.blocks, verdict.loses_unread, verdict.loses_unsent),
        (None, 5, 3)
    );
    assert_eq!(verdict.peer.unwrap().reads, Reads::Fails(104));
    assert_eq!(
        close(&[("linger", "0")]).effect,
        Effect::Reset { why: Why::Linger }
    );
    assert_eq!(close(&[("linger", "9")]).blocks, Some(9));
}

#[test]
fn other_references_keep_it() {
    let verdict = close(&[("file_refs", "3"), ("linger", "0"), ("unread", "1")]);
    assert_eq!(verdict.effect, Effect::Drops { of: 3 });
    assert_eq!(
        (verdict.state, verdict.blocks),
        (SkState::Established, None)
    );
    assert_eq!(verdict.peer.unwrap().reads, Reads::Open);
}

#[test]
fn what_is_not_known_is_not_foreseen() {
    let text = include_str!("samples/sockets-half-closed.txt");
    let report = SocketsReport::parse(text.as_bytes()).unwrap();
    let known = |fd| report.socket(fd).unwrap().verdicts().is_some();
    // The busy one.
    assert!(known(4) && known(7) && !known(6) && known(9));
    let netlink = report.socket(9).unwrap();
    let [close, shutdown, ..] = netlink.verdicts().unwrap();
    assert_eq!((close.errno, close.loses_unread), (0, 296));
    assert_eq!((shutdown.errno, shutdown.peer), (95, None));
}

#[test]
fn a_pending_error_goes_to_the_first_call() {
    let peer = close(&[("unread", "1"), ("rx_bytes", "5")]).peer.unwrap();
    assert_eq!((peer.reads, peer.writes), (Reads::Fails(104), [32, 32]));
    let first = peer.write_first;
    assert_eq!((first.writes, first.reads), ([104, 32], Reads::Eof));
    // The peer has our FIN: its error is EPIPE.
    let late = close(&[("sk_state", "FIN_WAIT2"), ("unread", "1"), ("fin", "acked")]);
    let first = late.peer.unwrap().write_first;
    assert_eq!((first.writes, first.reads), ([32, 32], Reads::Eof));
    // What is written overtakes a FIN that waits.
    let full = close(&[("unsent", "10"), ("window", "0")]).peer.unwrap();
    assert_eq!(full.writes, [0, 32]);
    assert_eq!(full.write_first.writes, [0, 104]);
}

#[test]
fn handshakes_are_given_up() {
    let listener = [
        ("sk_state", "LISTEN"),
        ("requests", "2"),
        ("rx_packets", "0"),
    ];
    let closed = close(&listener);
    let given_up = Effect::ResetsWaiting {
        connections: 0,
        handshakes: 2,
    };
    assert_eq!((closed.effect, closed.peer), (given_up, None));
}

#[test]
fn a_fin_follows_the_handshake() {
    let early = [("sk_state", "SYN_RECV"), ("unsent", "3")];
    let shut = verdict(Operation::ShutWr, &early);
    assert_eq!(shut.effect, Effect::FinLater { behind: 3 });
    assert_eq!(
        (shut.state, shut.settled),
        (SkState::SynRecv, SkState::FinWait2)
    );
    assert_eq!(shut.peer.unwrap().reads, Reads::Eof);
    let rd = verdict(Operation::ShutRd, &early);
    assert_eq!(rd.effect, Effect::Silent);
}
