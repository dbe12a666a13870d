//! `ravel sockets --why`: what close() and shutdown() would do to each socket now, in sentences.

use std::fmt::Write;

use ravel_records::{
    Effect, Linger, Operation, PeerSees, Reads, SkState, Socket, SocketDetail, SocketsReport,
    Verdict, Why,
};
use serde::Serialize;

use super::heading;
use super::remarks::errno;
use super::sockets::{address, identity, kind, proto, state};
use crate::identity::Processes;
use crate::screen::{DIM, NOTE, STRONG, Screen, count};

/// The report, and what is foreseen for each of its sockets.
#[derive(Serialize)]
pub struct Explained {
    #[serde(flatten)]
    report: SocketsReport,
    verdicts: Vec<Foreseen>,
}

#[derive(Serialize)]
struct Foreseen {
    fd: u32,
    verdicts: Option<[Verdict; 4]>,
}

impl Explained {
    /// What follows from a report.
    pub fn of(report: SocketsReport) -> Self {
        let foreseen = |socket: &Socket| Foreseen {
            fd: socket.fd,
            verdicts: socket.verdicts(),
        };
        let verdicts = report.sockets.iter().map(foreseen).collect();
        Self { report, verdicts }
    }

    /// The report.
    pub fn report(&self) -> &SocketsReport {
        &self.report
    }
}

/// Draws the report.
pub fn draw(report: &SocketsReport, processes: Option<&Processes>, screen: &Screen) -> String {
    let mut text = heading("sockets", &report.header);
    let process = processes.and_then(|known| known.get(report.header.pid));
    text.push_str(&identity(process, screen));
    for socket in &report.sockets {
        text.push('\n');
        draw_socket(&mut text, socket);
    }
    let _ = writeln!(
        text,
        "\n{DIM}As things stand now: a packet, a read or another close() may change it. \
         A peer's write can succeed, and be answered by a reset that its next one finds.{DIM:#}"
    );
    text
}

fn draw_socket(text: &mut String, socket: &Socket) {
    let _ = write!(text, "{STRONG}fd {}{STRONG:#}  {}", socket.fd, kind(socket));
    let Some(detail) = &socket.detail else {
        let _ = writeln!(text, "  {NOTE}busy{NOTE:#}: nothing is foreseen");
        return;
    };
    let (local, remote) = (address(&detail.local), address(&detail.remote));
    let state = state(socket, detail);
    let _ = writeln!(text, "  {state}  {local} → {remote}");
    match socket.verdicts() {
        Some(verdicts) => {
            for verdict in &verdicts {
                let _ = writeln!(
                    text,
                    "  {:<15}{}.",
                    name(verdict.operation),
                    say(detail, verdict)
                );
            }
        }
        None => {
            let kind = proto(&socket.family, &socket.r#type, &socket.protocol);
            let _ = writeln!(
                text,
                "  not judged: what close() and shutdown() do is not known for {kind}"
            );
        }
    }
}

fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Close => "close()",
        Operation::ShutRd => "shutdown(RD)",
        Operation::ShutWr => "shutdown(WR)",
        Operation::ShutRdWr => "shutdown(RDWR)",
    }
}

/// What an operation would do, in a sentence without its end.
pub fn say(detail: &SocketDetail, verdict: &Verdict) -> String {
    let mut text = effect(detail, verdict);
    if verdict.errno != 0 {
        text = format!("fails with {}; {text}", errno(verdict.errno));
    }
    if let Some(seconds) = verdict.blocks {
        let seconds = count(seconds, "second", "seconds");
        let _ = write!(text, "; waits for the acknowledgement, {seconds} at most");
    }
    if matches!(verdict.effect, Effect::Drops { .. }) {
        return text;
    }
    if verdict.state != detail.sk_state {
        let _ = write!(text, "; {} → {}", detail.sk_state, verdict.state);
        if verdict.settled != verdict.state {
            let _ = write!(text, " → {}", verdict.settled);
        }
    }
    if verdict.loses_unsent > 0 {
        let bytes = count(verdict.loses_unsent, "unsent byte is", "unsent bytes are");
        let _ = write!(text, "; {bytes} lost");
    }
    if let Some(peer) = &verdict.peer {
        let _ = write!(text, "; {}", sees(verdict, peer));
    }
    text
}

fn effect(detail: &SocketDetail, verdict: &Verdict) -> String {
    let closes = verdict.operation == Operation::Close;
    match verdict.effect {
        Effect::Drops { of } => {
            format!("drops one of {of} references to the open file, and does nothing else")
        }
        Effect::Silent if detail.sk_state == SkState::Close && closes => "frees it".to_owned(),
        Effect::Silent => "sends nothing".to_owned(),
        Effect::Fin {
            behind,
            waits,
            then_reset,
        } => {
            let mut text = match behind {
                0 => "sends FIN".to_owned(),
                bytes => format!("sends {}, then FIN", count(bytes, "byte", "bytes")),
            };
            if waits {
                text.push_str(" as soon as the peer has room");
            }
            if then_reset {
                text.push_str(", and RST once that is acknowledged (TCP_LINGER2)");
            }
            text
        }
        Effect::Reset { why } => {
            let why = match why {
                Why::Unread => format!(
                    "because {} unread",
                    count(detail.rx_bytes, "byte is", "bytes are")
                ),
                Why::Linger => "because SO_LINGER is 0 seconds".to_owned(),
                Why::Linger2 => "because TCP_LINGER2 is below 0".to_owned(),
                Why::NotAccepted => "because nobody has accepted it".to_owned(),
            };
            let despite = match (why.contains("unread"), detail.linger) {
                (true, Linger::Seconds(seconds)) if seconds > 0 => ", and does not linger",
                _ => "",
            };
            format!("sends RST, {why}{despite}")
        }
        Effect::FinLater { behind } => match behind {
            0 => "sends FIN as soon as the handshake is complete".to_owned(),
            bytes => format!(
                "sends {} as soon as the handshake is complete, then FIN",
                count(bytes, "byte", "bytes")
            ),
        },
        Effect::ResetsWaiting {
            connections,
            handshakes,
        } => {
            let mut said = Vec::new();
            if connections > 0 {
                let number = count(connections, "connection", "connections");
                said.push(format!("resets {number} that nobody has accepted"));
            }
            if handshakes > 0 {
                said.push(format!(
                    "gives up {} without a packet: what such a peer sends is answered by RST",
                    count(handshakes, "handshake", "handshakes")
                ));
            }
            said.join(" and ")
        }
        Effect::TellsPeer if detail.unread && closes => format!(
            "tells the peer, with an error because {} unread",
            match detail.rx_bytes {
                0 => "something is".to_owned(),
                bytes => count(bytes, "byte is", "bytes are"),
            }
        ),
        Effect::TellsPeer => "tells the peer".to_owned(),
    }
}

fn sees(verdict: &Verdict, peer: &PeerSees) -> String {
    let who = match verdict.effect {
        Effect::ResetsWaiting { .. } => "each peer",
        _ => "the peer",
    };
    let first = match peer.bytes {
        Some(0) | None => String::new(),
        Some(bytes) => format!("{}, then ", count(bytes, "byte", "bytes")),
    };
    let reads = match peer.reads {
        Reads::Open => format!("{who} sees no end to read"),
        Reads::Eof => format!("{who} reads {first}end of file"),
        Reads::Fails(error) => format!("{who} reads {first}{}", errno(error)),
        Reads::FailsFirst(error) => {
            format!("{who} reads {} before what is queued there", errno(error))
        }
    };
    let mut text = format!("{reads}, {}", writes(peer.writes));
    let other = &peer.write_first;
    if (other.writes, other.reads) != (peer.writes, peer.reads) {
        let queued = match peer.bytes {
            Some(0) => "",
            Some(_) | None => "what is queued, then ",
        };
        let then = match other.reads {
            Reads::Open => "its reads wait".to_owned(),
            Reads::Eof => format!("it then reads {queued}end of file"),
            Reads::Fails(error) | Reads::FailsFirst(error) => {
                format!("it then reads {queued}{}", errno(error))
            }
        };
        let first = writes(other.writes);
        let _ = write!(text, "; if it writes before it reads, {first}, and {then}");
    }
    text
}

/// What two writes give.
fn writes(writes: [i32; 2]) -> String {
    match writes {
        [0, 0] => "may write".to_owned(),
        // Of UDP alone, which finds a socket by its port.
        [0, refused @ 111] => format!(
            "its first write succeeds, the next fails with {} unless another socket is bound there",
            errno(refused)
        ),
        [0, second] => format!(
            "its first write succeeds, the next fails with {}",
            errno(second)
        ),
        [first, second] if first == second => {
            format!("its writes fail with {}", errno(first))
        }
        [first, second] => format!(
            "its first write fails with {}, the next with {}",
            errno(first),
            errno(second)
        ),
    }
}
