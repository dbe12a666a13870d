//! What a socket's state means, in sentences.

use ravel_records::{
    Family, Linger, Protocol, Shutdown, SkState, Socket, SocketDetail, SocketKind, SocketMemory,
    Tcp, TcpTimer, Timer, Waiting,
};

use crate::screen::{count, plain};

/// Whether one direction is over while the other is not.
pub fn half_closed(detail: &SocketDetail) -> bool {
    matches!(detail.shutdown, Shutdown::Rd | Shutdown::Wr)
}

/// Something worth mentioning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// In a sentence without its end.
    pub text: String,
    /// Whether something is wrong or about to be.
    pub warns: bool,
}

/// What is worth mentioning of a socket; nothing of one that is simply open.
pub fn remarks(socket: &Socket) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut add = |text: String, warns| remarks.push(Remark { text, warns });
    let Some(detail) = &socket.detail else {
        add(
            "its lock was held for as long as ravel waits".to_owned(),
            false,
        );
        return remarks;
    };
    if let Some(ending) = ending(socket, detail) {
        let text = match detail.rx_bytes {
            0 => ending,
            bytes => format!("{ending}; {} unread", count(bytes, "byte", "bytes")),
        };
        add(text, true);
    }
    if detail.sk_state == SkState::Listen && detail.rx_packets > 0 {
        let full = detail.rx_packets > detail.backlog;
        let gone = socket
            .waiting
            .iter()
            .filter(|waiting| is_gone(socket, waiting))
            .count();
        let mut text = match full {
            true => format!(
                "accept queue full: {} of {}",
                detail.rx_packets,
                detail.backlog.saturating_add(1)
            ),
            false => {
                let number = count(detail.rx_packets, "connection waits", "connections wait");
                format!("{number} for accept()")
            }
        };
        if gone > 0 {
            text.push_str(&format!("; {gone} of {} peers closed", detail.rx_packets));
        }
        text.push_str(&who_waits(&socket.waiting));
        add(text, full || gone > 0);
    }
    if let Some(text) = detail.tcp.as_ref().and_then(timers) {
        add(text, true);
    }
    if is_tcp(socket) && detail.linger == Linger::Seconds(0) {
        add(
            "SO_LINGER is 0 seconds: close() resets the connection".to_owned(),
            false,
        );
    }
    if let Some(requests @ 1..) = detail.tcp.as_ref().map(|tcp| tcp.requests) {
        let number = count(requests, "handshake", "handshakes");
        // With TCP_DEFER_ACCEPT, such clients are connected, and have sent nothing.
        add(format!("{number} in progress (SYN_RECV)"), false);
    }
    if is_tcp(socket) && in_handshake(detail) {
        add(
            "the other end is still in the handshake (SYN_RECV): its listener waits for data \
             (TCP_DEFER_ACCEPT), or has no room for it"
                .to_owned(),
            true,
        );
    }
    if let Some(text) = detail
        .memory
        .as_ref()
        .and_then(|memory| losses(detail, memory))
    {
        add(text, true);
    }
    for (what, number) in [
        ("pending error", detail.err),
        ("soft error", detail.soft_err),
    ] {
        if number != 0 {
            add(format!("{what} {}", errno(number)), true);
        }
    }
    remarks
}

/// Whether the handshake of a connection is not complete at its other end.
pub fn in_handshake(detail: &SocketDetail) -> bool {
    let other = detail.other.as_ref();
    detail.sk_state == SkState::Established
        && other.is_some_and(|peer| peer.peer_state == SkState::NewSynRecv)
}

/// What a socket has lost, or is about to lose, and why.
fn losses(detail: &SocketDetail, memory: &SocketMemory) -> Option<String> {
    let listens = detail.sk_state == SkState::Listen;
    // No packet of the size of those that wait fits.
    let mean = memory.rmem / detail.rx_packets.max(1);
    let full = detail.rx_packets > 0 && memory.rmem.saturating_add(mean) > memory.rcvbuf;
    let mut said = Vec::new();
    if full && !listens && detail.tcp.is_none() {
        said.push(format!(
            "receive buffer full: {} of {} bytes",
            memory.rmem, memory.rcvbuf
        ));
    }
    match (memory.drops, listens) {
        (0, _) => {}
        // SYNs without room, and ACKs of handshakes that wait for room or, with TCP_DEFER_ACCEPT,
        // for data.
        (drops, true) => {
            let number = count(drops, "handshake packet", "handshake packets");
            said.push(format!("{number} dropped"));
        }
        (drops, false) => said.push(format!("{} dropped", count(drops, "packet", "packets"))),
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// Whether the peer of a connection that waits for accept() has closed.
pub fn is_gone(socket: &Socket, waiting: &Waiting) -> bool {
    let unix = socket.family == Family::Unix;
    waiting.sk_state == SkState::CloseWait || (unix && waiting.peer_inode == 0)
}

/// An errno by its name.
pub fn errno(number: i32) -> String {
    let name = syscalls::Errno::new(number).name();
    name.map_or_else(|| format!("errno {number}"), str::to_owned)
}

/// The first of those that wait for accept().
fn who_waits(waiting: &[Waiting]) -> String {
    const SHOWN: usize = 4;
    let who = |waiting: &Waiting| {
        let remote = match waiting.remote.is_empty() {
            true => format!("inode {}", waiting.peer_inode),
            false => plain(&waiting.remote),
        };
        match waiting.rx_bytes {
            0 => remote,
            bytes => format!("{remote} ({} sent)", count(bytes, "byte", "bytes")),
        }
    };
    let mut list: Vec<String> = waiting.iter().take(SHOWN).map(who).collect();
    if waiting.len() > SHOWN {
        list.push(format!("{} more", waiting.len() - SHOWN));
    }
    match list.is_empty() {
        true => String::new(),
        false => format!(": {}", list.join(", ")),
    }
}

/// What TCP's timers wait for, where that is no good sign.
fn timers(tcp: &Tcp) -> Option<String> {
    let soon = match tcp.timer_ms {
        Timer::Ms(ms) => format!("in {}.{:03} s", ms / 1000, ms % 1000),
        Timer::Off => return None,
    };
    match tcp.timer {
        TcpTimer::Probe => Some(format!(
            "the peer has no room for {} that wait; probes again {soon}",
            count(tcp.unsent, "byte", "bytes")
        )),
        TcpTimer::Retransmit if tcp.retransmits > 0 => Some(format!(
            "no answer to {}; retransmits {soon}",
            count(tcp.retransmits, "retransmission", "retransmissions")
        )),
        _ => None,
    }
}

fn is_tcp(socket: &Socket) -> bool {
    socket.protocol == Protocol::Tcp && matches!(socket.family, Family::Inet | Family::Inet6)
}

/// How far a socket is from open to closed, where it has left open.
fn ending(socket: &Socket, detail: &SocketDetail) -> Option<String> {
    let shutdown = &detail.shutdown;
    let text = match &detail.sk_state {
        _ if !is_tcp(socket) => return plain_ending(socket, shutdown),
        SkState::FinWait1 => "sent FIN (WR shut down), which the peer has not acknowledged",
        SkState::FinWait2 if shutdown.rd() => {
            "sent FIN (RD and WR shut down), which the peer acknowledged; \
             data that arrives now is answered by a reset"
        }
        SkState::FinWait2 => {
            "sent FIN (WR shut down), which the peer acknowledged; the peer may still send"
        }
        SkState::CloseWait => "the peer sent FIN (RD shut down); this side may still send",
        SkState::LastAck => "the peer sent FIN, then this side; its own FIN is not acknowledged",
        SkState::Closing => "both sides sent FIN at once; its own is not acknowledged",
        SkState::Close if shutdown.rd() && shutdown.wr() => "the connection is over",
        _ => match shutdown {
            Shutdown::Rd => {
                "reading was shut down on this side (RD): reads end when nothing is unread, \
                 the peer is not informed"
            }
            Shutdown::Wr => "WR shut down",
            Shutdown::RdWr => "RD and WR shut down",
            Shutdown::None => return None,
            Shutdown::Other(word) => return Some(format!("shut down: {word}")),
        },
    };
    Some(text.to_owned())
}

/// The same without TCP's states.
fn plain_ending(socket: &Socket, shutdown: &Shutdown) -> Option<String> {
    let pair = socket.family == Family::Unix && socket.r#type != SocketKind::Dgram;
    let text = match (shutdown, pair) {
        (Shutdown::None, _) => return None,
        (Shutdown::Rd, true) => "takes nothing more: RD shut down here, or WR by the peer",
        (Shutdown::Wr, true) => "sends nothing more: WR shut down here, or RD by the peer",
        (Shutdown::RdWr, true) => "both directions shut down, or the peer has closed",
        (Shutdown::Rd, false) => "takes nothing more (RD shut down)",
        (Shutdown::Wr, false) => "sends nothing more (WR shut down)",
        (Shutdown::RdWr, false) => "takes and sends nothing more (RD and WR shut down)",
        (Shutdown::Other(word), _) => return Some(format!("shut down: {word}")),
    };
    Some(text.to_owned())
}
