#![doc = include_str!("verdict.md")]

use serde::Serialize;

use crate::{Family, Linger, Protocol, SkState, Socket, SocketDetail, SocketKind, Tcp, Timer};

const EPIPE: i32 = 32;
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
    /// A listener: each connection that nobody has accepted is reset.
    ResetsWaiting {
        /// How many.
        connections: u64,
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

/// What the peer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PeerSees {
    /// Bytes that it can still read, where it is on this machine and its family counts them.
    pub bytes: Option<u64>,
    /// What its reads give behind them.
    pub reads: Reads,
    /// What its first two writes give after that, a moment between them: an errno, 0 where they succeed.
    pub writes: [i32; 2],
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
    /// rules are not known here: MPTCP, SCTP, and families other than inet and unix.
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
        // Nobody reads any more: what comes now is answered by a reset.
        if let Some(peer) = &mut verdict.peer {
            if peer.writes == [0, 0] {
                peer.writes = [0, EPIPE];
            }
            if let Effect::Fin {
                then_reset: true, ..
            } = verdict.effect
            {
                peer.writes = [EPIPE, EPIPE];
            }
        }
        verdict
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
        if let (true, true, Some(peer)) = (rd, ours, &mut verdict.peer) {
            if peer.writes == [0, 0] {
                peer.writes = [0, EPIPE];
            }
        }
    }

    /// `inet_csk_listen_stop()`.
    fn stop_listening(&self, mut verdict: Verdict) -> Verdict {
        if self.detail.rx_packets > 0 {
            verdict.effect = Effect::ResetsWaiting {
                connections: self.detail.rx_packets,
            };
            verdict.peer = Some(PeerSees {
                bytes: None,
                reads: Reads::Fails(ECONNRESET),
                writes: [EPIPE, EPIPE],
            });
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
        verdict.peer = self.peer_known().then(|| PeerSees {
            reads: Reads::Eof,
            ..self.peer_now()
        });
        verdict
    }

    /// `tcp_send_active_reset()`, and what `tcp_reset()` makes of it at the other end.
    fn reset(&self, mut verdict: Verdict, why: Why) -> Verdict {
        verdict = self.gone(verdict);
        verdict.effect = Effect::Reset { why };
        verdict.peer = self.peer_known().then(|| PeerSees {
            bytes: self.detail.other.as_ref().map(|peer| peer.peer_rx_bytes),
            reads: match self.fin_is_there() {
                // The error is EPIPE there, and its reads end before they come to look at it.
                true => Reads::Eof,
                false => Reads::Fails(ECONNRESET),
            },
            writes: [EPIPE, EPIPE],
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
        PeerSees {
            bytes: self
                .detail
                .other
                .as_ref()
                .map(|peer| peer.peer_rx_bytes + self.tcp.unsent),
            reads: if ours_ended { Reads::Eof } else { Reads::Open },
            writes: match (self.tcp.fin_received, deaf) {
                (true, _) => [EPIPE, EPIPE],
                (_, true) => [0, EPIPE],
                _ => [0, 0],
            },
        }
    }
}

/// UDP: nothing is ever sent; whom nobody listens to gets an ICMP message for what it sends.
fn udp(detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    let connected = detail.sk_state == SkState::Established;
    if verdict.operation == Operation::Close {
        verdict.loses_unread = detail.rx_bytes;
        verdict.state = SkState::Close;
        verdict.settled = SkState::Close;
        verdict.peer = connected.then_some(PeerSees {
            writes: [0, ECONNREFUSED],
            ..OPEN
        });
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
    PeerSees {
        bytes: (*kind == SocketKind::Stream).then_some(peer.peer_rx_bytes),
        reads: match peer.peer_shutdown.rd() && !is_datagram(kind) {
            true => Reads::Eof,
            false => Reads::Open,
        },
        writes: if deaf { [EPIPE, EPIPE] } else { [0, 0] },
    }
}

fn unix(kind: &SocketKind, detail: &SocketDetail, mut verdict: Verdict) -> Verdict {
    let open = detail
        .other
        .as_ref()
        .is_some_and(|peer| peer.peer_inode != 0);
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
                connections => Effect::ResetsWaiting { connections },
            };
            verdict.peer = (detail.rx_packets > 0).then_some(PeerSees {
                bytes: None,
                reads: match kind {
                    SocketKind::Seqpacket => Reads::FailsFirst(ECONNRESET),
                    _ => Reads::Fails(ECONNRESET),
                },
                writes: [EPIPE, EPIPE],
            });
            return verdict;
        }
        if !open {
            return verdict;
        }
        verdict.peer = Some(match (datagram, detail.unread) {
            // unix_dgram_sendmsg(): who was connected to it is told once, and is not connected then.
            (true, _) if detail.other.as_ref().is_some_and(|p| p.peer_shutdown.wr()) => now,
            (true, _) => PeerSees {
                writes: [ECONNREFUSED, ENOTCONN],
                ..now
            },
            (false, unread) => PeerSees {
                reads: match (unread, kind) {
                    (false, _) => Reads::Eof,
                    // __skb_try_recv_datagram() looks at sk_err first.
                    (true, SocketKind::Seqpacket) => Reads::FailsFirst(ECONNRESET),
                    (true, _) => Reads::Fails(ECONNRESET),
                },
                writes: [EPIPE, EPIPE],
                ..now
            },
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
        peer.writes = [EPIPE, EPIPE];
    }
    if !datagram {
        verdict.effect = Effect::TellsPeer;
        if verdict.operation.wr() {
            peer.reads = Reads::Eof;
        }
    }
    verdict.peer = Some(peer);
    verdict
}
