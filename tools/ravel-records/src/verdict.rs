#![doc = include_str!("verdict.md")]

use serde::Serialize;

use crate::{Family, Linger, Protocol, SkState, Socket, SocketDetail, SocketKind, Tcp, Timer};

const EPIPE: i32 = 32;
const EOPNOTSUPP: i32 = 95;
const ENOTCONN: i32 = 107;
const ECONNRESET: i32 = 104;
const ECONNREFUSED: i32 = 111;

/// What is done to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// close() of this descriptor.
    Close,
    /// shutdown(SHUT_RD).
    ShutRd,
    /// shutdown(SHUT_WR).
    ShutWr,
    /// shutdown(SHUT_RDWR).
    ShutRdWr,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Close, Self::ShutRd, Self::ShutWr, Self::ShutRdWr];

    fn rd(self) -> bool {
        matches!(self, Self::ShutRd | Self::ShutRdWr)
    }

    fn wr(self) -> bool {
        matches!(self, Self::ShutWr | Self::ShutRdWr)
    }
}

/// Why a connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There are bytes that nobody has read (RFC 2525, section 2.17).
    Unread,
    /// SO_LINGER with 0 seconds.
    Linger,
    /// TCP_LINGER2 below 0: nobody waits for the peer's FIN.
    Linger2,
    /// Nobody has accepted it.
    NotAccepted,
}

/// What leaves, or happens to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Others have the same open file: one reference goes, and nothing else happens.
    Drops {
        /// References, this one among them.
        of: u64,
    },
    /// Nothing is sent, and no other socket changes.
    Silent,
    /// TCP: FIN, behind what was written and not yet sent.
    Fin {
        /// Bytes that go before it.
        behind: u64,
        /// They, or it, must wait for the peer's window, or for acknowledgements.
        waits: bool,
        /// As soon as it is acknowledged, the connection is reset ([`Why::Linger2`]).
        then_reset: bool,
    },
    /// TCP: RST.
    Reset {
        /// Why.
        why: Why,
    },
    /// TCP: FIN as soon as the handshake is complete, behind what was written.
    FinLater {
        /// Bytes that go before it.
        behind: u64,
    },
    /// A listener: each connection that nobody has accepted is reset.
    ResetsWaiting {
        /// How many.
        connections: u64,
        /// Handshakes that are given up without a word: what such a peer sends then is answered by
        /// RST.
        handshakes: u64,
    },
    /// unix: the peer learns it by the change of its own `sk_shutdown` (and `sk_err`).
    TellsPeer,
}

/// What the peer's reads give, once they have given what is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// They go on to wait.
    Open,
    /// End of file.
    Eof,
    /// This errno, once; then end of file.
    Fails(i32),
    /// This errno at once, before what is queued; then end of file.
    FailsFirst(i32),
}

/// What the peer sees. A pending error is given to whichever of its calls comes first, so that the
/// order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PeerSees {
    /// Bytes that it can still read, where it is on this machine and its family counts them.
    pub bytes: Option<u64>,
    /// What its reads give behind them.
    pub reads: Reads,
    /// What its first two writes give after that, a moment between them: an errno, 0 where they succeed.
    pub writes: [i32; 2],
    /// What it sees if it writes before it reads.
    pub write_first: WriteFirst,
}

/// What a peer sees that writes twice, a moment between, and then reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WriteFirst {
    /// Bytes that it can read then; none where they are not counted, or it depends on what is under
    /// way.
    pub bytes: Option<u64>,
    /// What its writes give: an errno, 0 where they succeed.
    pub writes: [i32; 2],
    /// What its reads give then, behind what is queued.
    pub reads: Reads,
}

impl PeerSees {
    fn new(bytes: Option<u64>, reads: Reads, writes: [i32; 2]) -> Self {
        Self {
            bytes,
            reads,
            writes,
            write_first: WriteFirst {
                bytes,
                writes,
                reads,
            },
        }
    }

    /// An error is pending: ECONNRESET, which the first call is given.
    fn reset(bytes: Option<u64>) -> Self {
        Self {
            bytes,
            reads: Reads::Fails(ECONNRESET),
            writes: [EPIPE, EPIPE],
            write_first: WriteFirst {
                bytes,
                writes: [ECONNRESET, EPIPE],
                reads: Reads::Eof,
            },
        }
    }

    fn set_writes(&mut self, writes: [i32; 2]) {
        self.writes = writes;
        self.write_first.writes = writes;
    }

    /// The other end takes nothing more, and its FIN is not here: what is written now is answered
    /// by a reset, which overtakes what is before that FIN.
    fn write_meets_reset(&mut self) {
        if self.writes == [0, EPIPE] {
            self.write_first = WriteFirst {
                bytes: None,
                writes: [0, ECONNRESET],
                reads: Reads::Eof,
            };
        }
    }
}

/// What one operation would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The operation.
    pub operation: Operation,
    /// The errno of the call itself, 0 where it succeeds.
    pub errno: i32,
    /// What it does.
    pub effect: Effect,
    /// The state right after.
    pub state: SkState,
    /// The state once what was sent is acknowledged.
    pub settled: SkState,
    /// Seconds that close() waits at most, where it waits for the FIN's acknowledgement.
    pub blocks: Option<u64>,
    /// Unread bytes that are thrown away.
    pub loses_unread: u64,
    /// Unsent bytes that are thrown away.
    pub loses_unsent: u64,
    /// What the peer sees; none where there is no peer. That of a datagram socket: if it is connected to
    /// this one, as this one is to it.
    pub peer: Option<PeerSees>,
}

impl Socket {
    /// What each operation would do to this socket now; none where the socket was busy, or for kinds whose
    /// rules are not known here: MPTCP, SCTP, vsock, SMC and others.
    pub fn verdicts(&self) -> Option<[Verdict; 4]> {
        let verdict = |operation| self.verdict(operation);
        let [a, b, c, d] = Operation::ALL.map(verdict);
        Some([a?, b?, c?, d?])
    }

    /// What one operation would do.
    pub fn verdict(&self, operation: Operation) -> Option<Verdict> {
        let detail = self.detail.as_ref()?;
        let inet = matches!(self.family, Family::Inet | Family::Inet6);
        let base = Verdict {
            operation,
            errno: 0,
            effect: Effect::Silent,
            state: detail.sk_state.clone(),
            settled: detail.sk_state.clone(),
            blocks: None,
            loses_unread: 0,
            loses_unsent: 0,
            peer: None,
        };
        let mut verdict = match (&self.family, &self.protocol, &detail.tcp) {
            (_, _, Some(tcp)) if inet => Rules { detail, tcp }.decide(base),
            (_, Protocol::Udp | Protocol::Udplite, _) if inet => udp(detail, base),
            (Family::Unix, _, _) => unix(&self.r#type, detail, base),
            (_, protocol, _) if inet && has_no_connections(&self.r#type, protocol) => {
                raw(detail, base)
            }
            (Family::Netlink | Family::Packet | Family::Xdp, _, _) => {
                without_shutdown(detail, base)
            }
            _ => return None,
        };
        // __fput() comes with the last reference alone.
        if operation == Operation::Close && self.file_refs > 1 {
            let nothing_happens = verdict.peer.map(|_| untouched(self, detail));
            verdict = Verdict {
                operation,
                errno: 0,
                effect: Effect::Drops {
                    of: self.file_refs.unsigned_abs(),
                },
                state: detail.sk_state.clone(),
                settled: detail.sk_state.clone(),
                blocks: None,
                loses_unread: 0,
                loses_unsent: 0,
                peer: nothing_happens,
            };
        }
        Some(verdict)
    }
}

/// What the peer sees where nothing happens.
fn untouched(socket: &Socket, detail: &SocketDetail) -> PeerSees {
    let now = match &detail.tcp {
        Some(tcp) => Rules { detail, tcp }.peer_now(),
        None => unix_peer_now(&socket.r#type, detail),
    };
    match socket.family {
        Family::Unix => now,
        _ if detail.tcp.is_none() => OPEN,
        _ => now,
    }
}

const OPEN: PeerSees = PeerSees {
    bytes: None,
    reads: Reads::Open,
    writes: [0, 0],
    write_first: WriteFirst {
        bytes: None,
        writes: [0, 0],
        reads: Reads::Open,
    },
};

/// TCP.
struct Rules<'d> {
    detail: &'d SocketDetail,
    tcp: &'d Tcp,
}

impl Rules<'_> {
    fn decide(&self, verdict: Verdict) -> Verdict {
        match verdict.operation {
            Operation::Close => self.close(verdict),
            _ => self.shutdown(verdict),
        }
    }

    /// `__tcp_close()`.
    fn close(&self, mut verdict: Verdict) -> Verdict {
        let detail = self.detail;
        if detail.sk_state == SkState::Listen {
            return self.stop_listening(verdict);
        }
        verdict.loses_unread = detail.rx_bytes;
        if detail.sk_state == SkState::Close {
            return verdict;
        }
        if detail.flags.has("repair") {
            return self.gone(verdict);
        }
        if detail.unread {
            return self.reset(verdict, Why::Unread);
        }
        // Only after unread data were looked for.
        if detail.linger == Linger::Seconds(0) {
            return match self.disconnect_resets() {
                true => self.reset(verdict, Why::Linger),
                false => self.gone(verdict),
            };
        }
        match detail.sk_state {
            // tcp_close_state(): nothing was agreed on that could be ended.
            SkState::SynSent => return self.gone(verdict),
            SkState::Established | SkState::SynRecv | SkState::CloseWait => {
                verdict = self.send_fin(verdict);
            }
            _ => verdict.peer = self.peer_known().then(|| self.peer_now()),
        }
        // sk_stream_wait_close(): FIN_WAIT1, CLOSING, LAST_ACK.
        let closing = matches!(
            verdict.state,
            SkState::FinWait1 | SkState::Closing | SkState::LastAck
        );
        if let (Linger::Seconds(seconds), true) = (detail.linger, closing) {
            verdict.blocks = Some(seconds);
        }
        if verdict.settled == SkState::FinWait2 && self.tcp.fin_timeout_ms == Timer::Off {
            verdict.settled = SkState::Close;
            match &mut verdict.effect {
                Effect::Fin { then_reset, .. } => *then_reset = true,
                _ => return self.reset(verdict, Why::Linger2),
            }
        }
        let waits = self.fin_waits(&verdict.effect);
        // Nobody reads any more: what comes now is answered by a reset.
        if let Some(peer) = &mut verdict.peer {
            if peer.writes == [0, 0] {
                peer.set_writes([0, EPIPE]);
            }
            if let Effect::Fin {
                then_reset: true, ..
            } = verdict.effect
            {
                peer.set_writes([EPIPE, EPIPE]);
            }
            if waits {
                peer.write_meets_reset();
            }
        }
        verdict
    }

    /// Whether there is a FIN that the peer's window, or what is before it, holds back.
    fn fin_waits(&self, effect: &Effect) -> bool {
        self.tcp.fin == crate::Fin::Queued || matches!(effect, Effect::Fin { waits: true, .. })
    }

    /// `inet_shutdown()` and `tcp_shutdown()`.
    fn shutdown(&self, mut verdict: Verdict) -> Verdict {
        let operation = verdict.operation;
        let peer = self.peer_known().then(|| self.peer_now());
        match self.detail.sk_state {
            SkState::Close => verdict.errno = ENOTCONN,
            SkState::Listen if operation.rd() => return self.stop_listening(verdict),
            SkState::Listen => verdict.peer = (self.detail.rx_packets > 0).then_some(OPEN),
            SkState::SynSent => return self.gone(verdict),
            SkState::Established | SkState::CloseWait if operation.wr() => {
                verdict = self.send_fin(verdict);
                self.note_deaf(&mut verdict);
            }
            // tcp_rcv_state_process() does it when the last packet of the handshake comes.
            SkState::SynRecv if operation.wr() => {
                verdict.effect = Effect::FinLater {
                    behind: self.tcp.unsent + self.tcp.unacked,
                };
                verdict.settled = SkState::FinWait2;
                verdict.peer = peer.map(|peer| PeerSees {
                    reads: Reads::Eof,
                    write_first: WriteFirst {
                        reads: Reads::Eof,
                        ..peer.write_first
                    },
                    ..peer
                });
            }
            _ => {
                verdict.peer = peer;
                self.note_deaf(&mut verdict);
            }
        }
        verdict
    }

    /// `tcp_rcv_state_process()`: with both halves shut, data that come are answered by a reset.
    fn note_deaf(&self, verdict: &mut Verdict) {
        let rd = self.detail.shutdown.rd() || verdict.operation.rd();
        let ours = matches!(
            verdict.state,
            SkState::FinWait1 | SkState::FinWait2 | SkState::Closing | SkState::LastAck
        );
        let waits = self.fin_waits(&verdict.effect);
        if let (true, true, Some(peer)) = (rd, ours, &mut verdict.peer) {
            if peer.writes == [0, 0] {
                peer.set_writes([0, EPIPE]);
            }
            if waits {
                peer.write_meets_reset();
            }
        }
    }

    /// `inet_csk_listen_stop()`.
    fn stop_listening(&self, mut verdict: Verdict) -> Verdict {
        let (connections, handshakes) = (self.detail.rx_packets, self.tcp.requests);
        if connections > 0 || handshakes > 0 {
            verdict.effect = Effect::ResetsWaiting {
                connections,
                handshakes,
            };
        }
        if connections > 0 {
            verdict.peer = Some(PeerSees::reset(None));
        }
        verdict.state = SkState::Close;
        verdict.settled = SkState::Close;
        verdict
    }

    /// `tcp_send_fin()`, and `tcp_write_xmit()` with Nagle's rule off.
    fn send_fin(&self, mut verdict: Verdict) -> Verdict {
        let tcp = self.tcp;
        let room = tcp.window.saturating_sub(tcp.unacked);
        let waits = tcp.unsent + 1 > room || tcp.in_flight >= tcp.cwnd;
        verdict.effect = Effect::Fin {
            behind: tcp.unsent,
            waits,
            then_reset: false,
        };
        (verdict.state, verdict.settled) = match verdict.state {
            SkState::CloseWait => (SkState::LastAck, SkState::Close),
            _ => (SkState::FinWait1, SkState::FinWait2),
        };
        verdict.peer = self.peer_known().then(|| {
            let now = self.peer_now();
            PeerSees::new(now.bytes, Reads::Eof, now.writes)
        });
        verdict
    }

    /// `tcp_send_active_reset()`, and what `tcp_reset()` makes of it at the other end.
    fn reset(&self, mut verdict: Verdict, why: Why) -> Verdict {
        verdict = self.gone(verdict);
        verdict.effect = Effect::Reset { why };
        let bytes = self.detail.other.as_ref().map(|peer| peer.peer_rx_bytes);
        verdict.peer = self.peer_known().then(|| match self.fin_is_there() {
            // The error is EPIPE there, and its reads end before they come to look at it.
            true => PeerSees::new(bytes, Reads::Eof, [EPIPE, EPIPE]),
            false => PeerSees::reset(bytes),
        });
        verdict
    }

    /// The connection ends without a word.
    fn gone(&self, mut verdict: Verdict) -> Verdict {
        verdict.loses_unsent = self.tcp.unsent;
        verdict.state = SkState::Close;
        verdict.settled = SkState::Close;
        verdict
    }

    /// `tcp_disconnect()`.
    fn disconnect_resets(&self) -> bool {
        match self.detail.sk_state {
            SkState::Established
            | SkState::CloseWait
            | SkState::FinWait1
            | SkState::FinWait2
            | SkState::SynRecv => true,
            SkState::Closing | SkState::LastAck => self.tcp.fin == crate::Fin::Queued,
            _ => false,
        }
    }

    /// The peer has our FIN.
    fn fin_is_there(&self) -> bool {
        self.detail.sk_state == SkState::FinWait2
    }

    /// There is a connection, and somebody may have its other end.
    fn peer_known(&self) -> bool {
        !matches!(
            self.detail.sk_state,
            SkState::Close | SkState::Listen | SkState::SynSent
        )
    }

    /// What the peer would see if nothing were done: it has our FIN, or will have it; and it may write
    /// unless it has sent its own.
    fn peer_now(&self) -> PeerSees {
        let ours_ended = matches!(
            self.detail.sk_state,
            SkState::FinWait1 | SkState::FinWait2 | SkState::Closing | SkState::LastAck
        );
        let deaf = ours_ended && self.detail.shutdown.rd() && !self.tcp.fin_received;
        let other = self.detail.other.as_ref();
        let mut peer = PeerSees::new(
            other.map(|peer| peer.peer_rx_bytes.saturating_add(self.tcp.unsent)),
            if ours_ended { Reads::Eof } else { Reads::Open },
            match (self.tcp.fin_received, deaf) {
                (true, _) => [EPIPE, EPIPE],
                (_, true) => [0, EPIPE],
                _ => [0, 0],
            },
        );
        if self.tcp.fin == crate::Fin::Queued {
            peer.write_meets_reset();
        }
        peer
    }
}

/// Raw sockets, and those of ping: inet sockets whose protocols have no connections.
fn has_no_connections(kind: &SocketKind, protocol: &Protocol) -> bool {
    match kind {
        SocketKind::Raw => true,
        SocketKind::Dgram => matches!(protocol, Protocol::Icmp | Protocol::Icmpv6),
        _ => false,
    }
}

/// `inet_shutdown()` of a protocol that sends nothing at the end.
fn raw(detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    if verdict.operation == Operation::Close {
        return freed(detail, verdict);
    }
    if detail.sk_state != SkState::Established {
        verdict.errno = ENOTCONN;
    }
    verdict
}

/// `sock_no_shutdown()`: netlink, packet and XDP sockets.
fn without_shutdown(detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    if verdict.operation == Operation::Close {
        return freed(detail, verdict);
    }
    verdict.errno = EOPNOTSUPP;
    verdict
}

/// close() of a socket that tells nobody.
fn freed(detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    verdict.loses_unread = detail.rx_bytes;
    verdict.state = SkState::Close;
    verdict.settled = SkState::Close;
    verdict
}

/// UDP: nothing is ever sent; whom nobody listens to gets an ICMP message for what it sends.
fn udp(detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    let connected = detail.sk_state == SkState::Established;
    if verdict.operation == Operation::Close {
        verdict = freed(detail, verdict);
        verdict.peer = connected.then_some(PeerSees::new(None, Reads::Open, [0, ECONNREFUSED]));
        return verdict;
    }
    // inet_shutdown(): the bits are set all the same.
    if !connected {
        verdict.errno = ENOTCONN;
    }
    verdict.peer = connected.then_some(OPEN);
    verdict
}

fn is_datagram(kind: &SocketKind) -> bool {
    *kind == SocketKind::Dgram
}

/// What a unix socket's peer would see if nothing were done.
fn unix_peer_now(kind: &SocketKind, detail: &SocketDetail) -> PeerSees {
    let Some(peer) = &detail.other else {
        return OPEN;
    };
    // What is shut at one end of a stream is shut at the other, too.
    let deaf = peer.peer_shutdown.wr() || (is_datagram(kind) && detail.shutdown.rd());
    PeerSees::new(
        (*kind == SocketKind::Stream).then_some(peer.peer_rx_bytes),
        match peer.peer_shutdown.rd() && !is_datagram(kind) {
            true => Reads::Eof,
            false => Reads::Open,
        },
        if deaf { [EPIPE, EPIPE] } else { [0, 0] },
    )
}

/// What a unix peer sees that is left with ECONNRESET.
fn unix_reset(kind: &SocketKind, bytes: Option<u64>) -> PeerSees {
    match kind {
        // __skb_try_recv_datagram() and unix_seqpacket_sendmsg() look at sk_err first.
        SocketKind::Seqpacket => PeerSees {
            reads: Reads::FailsFirst(ECONNRESET),
            ..PeerSees::reset(bytes)
        },
        // unix_stream_sendmsg() does not look at it.
        _ => PeerSees::new(bytes, Reads::Fails(ECONNRESET), [EPIPE, EPIPE]),
    }
}

fn unix(kind: &SocketKind, detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    // A connection that nobody has accepted has no inode either, and is open.
    let open = detail.other.as_ref().is_some_and(|peer| {
        let waits = !is_datagram(kind) && peer.peer_state == SkState::Established;
        peer.peer_inode != 0 || waits
    });
    let now = unix_peer_now(kind, detail);
    let datagram = is_datagram(kind);
    if verdict.operation == Operation::Close {
        // unix_release_sock().
        verdict.loses_unread = detail.rx_bytes;
        verdict.state = SkState::Close;
        verdict.settled = SkState::Close;
        if detail.sk_state == SkState::Listen {
            verdict.effect = match detail.rx_packets {
                0 => Effect::Silent,
                connections => Effect::ResetsWaiting {
                    connections,
                    handshakes: 0,
                },
            };
            verdict.peer = (detail.rx_packets > 0).then(|| unix_reset(kind, None));
            return verdict;
        }
        if !open {
            return verdict;
        }
        verdict.peer = Some(match (datagram, detail.unread) {
            // unix_dgram_sendmsg(): who was connected to it is told once, and is not connected then.
            (true, _) if detail.other.as_ref().is_some_and(|p| p.peer_shutdown.wr()) => now,
            (true, _) => PeerSees::new(now.bytes, now.reads, [ECONNREFUSED, ENOTCONN]),
            (false, false) => PeerSees::new(now.bytes, Reads::Eof, [EPIPE, EPIPE]),
            (false, true) => unix_reset(kind, now.bytes),
        });
        if !datagram {
            verdict.effect = Effect::TellsPeer;
        }
        return verdict;
    }
    // unix_shutdown() never fails, and tells the peer the other half.
    if !open {
        return verdict;
    }
    let mut peer = now;
    if verdict.operation.rd() {
        peer.set_writes([EPIPE, EPIPE]);
    }
    if !datagram {
        verdict.effect = Effect::TellsPeer;
        if verdict.operation.wr() {
            peer = PeerSees::new(peer.bytes, Reads::Eof, peer.writes);
        }
    }
    verdict.peer = Some(peer);
    verdict
}
