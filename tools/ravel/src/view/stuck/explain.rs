//! Who is responsible for what is stuck, and what would end it, in sentences.

use std::fmt::Write;

use ravel_records::{Family, Protocol, SkState, Timer};

use crate::screen::count;
use crate::stuck::{Stuck, Why};
use crate::sweep::Holder;
use crate::view::sockets::address;
use crate::view::who::{descriptor, other};
use crate::view::why::say;

/// Who would have to act, with all descriptors.
pub fn blamed(of: &Stuck) -> String {
    let mut text = list(&of.blame);
    if of.blame == of.holders && of.why != Why::Unheld {
        for sharer in &of.others {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(&other(sharer));
        }
    }
    if !text.is_empty() {
        return text;
    }
    match of.why {
        Why::Unheld => {
            let held = of.candidates.iter().map(other);
            let held: Vec<String> = held.collect();
            match held.is_empty() {
                true => "not known: no descriptor, message or io_uring holds it".to_owned(),
                false => format!(
                    "not known; descriptors are {}, or the kernel holds it",
                    held.join(", ")
                ),
            }
        }
        Why::CloseWait => {
            "the kernel, or a system call: no descriptor, message or io_uring holds it".to_owned()
        }
        _ if of.other_end.is_some() => "the holder of the other end".to_owned(),
        _ => format!("the program at {}", address(&of.remote)),
    }
}

/// Descriptors, those of one process together.
pub(super) fn list(holders: &[Holder]) -> String {
    let mut text = String::new();
    let mut last = None;
    for holder in holders {
        if last == Some(holder.pid) {
            let _ = write!(text, " and {}", holder.fd);
            continue;
        }
        if last.is_some() {
            text.push_str(", ");
        }
        text.push_str(&descriptor(holder));
        last = Some(holder.pid);
    }
    text
}

/// What would end it, in sentences.
pub fn freed_by(of: &Stuck) -> String {
    let them = match of.blame.is_empty() {
        true => blamed(of),
        false => list(&of.blame),
    };
    match of.why {
        Why::CloseWait => close_wait(of),
        Why::HalfClosed if matches!(of.protocol, Protocol::Tcp | Protocol::Mptcp) => {
            let after = match timeout(of) {
                Timer::Ms(ms) => format!(
                    "the kernel gives it up {} later (tcp_fin_timeout, TCP_LINGER2)",
                    duration(ms)
                ),
                Timer::Off => "that resets it at once (TCP_LINGER2)".to_owned(),
            };
            format!(
                "close() or shutdown(WR) of the other end, by {them}; or close() of this one, {}: {after}.",
                whose(of)
            )
        }
        Why::HalfClosed => format!(
            "{}; or close() of the other end. The kernel does not record which of the two shut it down.",
            close(of).trim_end_matches('.')
        ),
        Why::Over => close(of),
        Why::Unheld => "recvmsg() or close() of the unix socket in whose queue it waits (SCM_RIGHTS); if it is in none, \
             it is the kernel's own."
            .to_owned(),
        Why::BacklogFull => format!("accept() by {}, or a greater backlog (listen(), net.core.somaxconn).", whose(of)),
        Why::QueueFull if of.family == Family::Unix => format!("reads {}.", whose(of)),
        Why::QueueFull => format!("reads {}, or a greater buffer (SO_RCVBUF, net.core.rmem_max).", whose(of)),
        Why::NotAccepted => format!("accept() of each and close(), or close() of the listener, {}.", whose(of)),
        Why::Unacknowledged => {
            let reads = match of.unacknowledged {
                0 => "an acknowledgement".to_owned(),
                _ => format!("reads of what it has, by {them}, and acknowledgements"),
            };
            let gives_up = match of.holders.is_empty() {
                true => "after the retries of tcp_orphan_retries",
                false => "after the retries of tcp_retries2",
            };
            format!("{reads}; or by the kernel, {gives_up}, TCP_USER_TIMEOUT or a reset.")
        }
        Why::Orphan => {
            let when = match of.ends_ms {
                Some(ms) if of.waits_at_least => format!("in {} at the earliest", duration(ms)),
                Some(ms) => format!("in {}", duration(ms)),
                None => "when its time is over".to_owned(),
            };
            format!("the kernel, {when} (tcp_fin_timeout, TCP_LINGER2); or close() of the other end, by {them}.")
        }
        Why::NoRoom => format!("reads by {them}."),
        Why::Unread if of.holders.len() > 1 => format!("reads by one of {them}."),
        Why::Unread => format!("reads by {them}."),
        Why::Shared => close(of),
    }
}

/// What ends a connection whose peer has sent FIN, without loss of what was sent either way.
fn close_wait(of: &Stuck) -> String {
    let mut text = String::new();
    let closed = of.other_end.as_ref().is_some_and(|end| end.inode == 0);
    let open = of
        .other_end
        .as_ref()
        .is_some_and(|end| !end.holders.is_empty());
    if !of.relays.is_empty() {
        let to: Vec<String> = of
            .relays
            .iter()
            .map(|of| format!("{} ({})", descriptor(&of.holder), address(&of.remote)))
            .collect();
        let _ = write!(
            text,
            "if it passes data on: shutdown(WR) of {}, which passes the end on, too, \
             and then the answer to the peer. ",
            to.join(" or ")
        );
    }
    let answer = match (open, closed) {
        _ if of.relays.is_empty() && !open => "",
        (_, true) => "",
        (true, _) => "the peer still reads: all of the answer before ",
        (false, _) => "the peer may still read: all of the answer before ",
    };
    text.push_str(answer);
    if of.unread > 0 {
        let bytes = count(of.unread, "unread byte", "unread bytes");
        let _ = write!(text, "reads of the {bytes}, then ");
    }
    text.push_str(&close(of));
    text.push_str(shut(of));
    text
}

/// By whom an end is to be closed.
fn whose(of: &Stuck) -> String {
    match of.holders.len() {
        0 => "by its holder".to_owned(),
        1 => format!("by {}", list(&of.holders)),
        _ => format!("by all of {}", list(&of.holders)),
    }
}

/// What the last close() would do.
pub(super) fn close_verdict(of: &Stuck) -> Option<String> {
    let mut last = of.socket.clone()?;
    // As if it were the last one: what each but the last does is known.
    last.file_refs = 1;
    // And everything was read before, as is recommended.
    if let (Why::CloseWait, Some(detail)) = (of.why, &mut last.detail) {
        (detail.unread, detail.rx_bytes, detail.rx_packets) = (false, 0, 0);
    }
    let [close, ..] = last.verdicts()?;
    Some(say(last.detail.as_ref()?, &close))
}

/// What close() by all holders would do.
fn close(of: &Stuck) -> String {
    let mut text = match of.holders.len() {
        1 if of.others.is_empty() && of.knows_all_holders() => {
            format!("close() by {}", list(&of.holders))
        }
        _ if of.holders.is_empty() && !of.others.is_empty() => "the end of that".to_owned(),
        _ if of.holders.is_empty() => "its close()".to_owned(),
        _ => format!("close() by every one of {}", list(&of.holders)),
    };
    for sharer in &of.others {
        let _ = write!(text, ", and read or close of that which {}", other(sharer));
    }
    let found = of.holders.len() as u64;
    let alone = match of.unnamed {
        Some(0) => of.holders.len() + of.others.len() <= 1,
        Some(unnamed) => {
            let references = count(unnamed, "reference", "references");
            let _ = write!(text, ", and the end of {references} of unknown holders");
            false
        }
        // Nobody has looked: these are not all, and what they do ends nothing.
        None => {
            let unknown = of.references.map_or(0, |all| all.saturating_sub(found));
            let references = count(unknown, "reference", "references");
            let _ = write!(
                text,
                ", and of the holders of {references} that were not looked up"
            );
            false
        }
    };
    let now = match (of.why, of.unread) {
        (Why::CloseWait, bytes @ 1..) => format!(
            " A close() before sends RST, because {} unread, and what was sent may be lost.",
            count(bytes, "byte is", "bytes are")
        ),
        _ => String::new(),
    };
    let said = match close_verdict(of) {
        Some(said) if !alone => format!("{text}: the last one {said}."),
        Some(said) => format!("{text}: {said}."),
        None => format!("{text}."),
    };
    said + &now
}

/// What one of several can do alone.
fn shut(of: &Stuck) -> &'static str {
    let several = of.holders.len() + of.others.len() > 1 || !of.knows_all_holders();
    match several && of.sk_state == SkState::CloseWait {
        true => " Or shutdown(WR) by any of them, which sends FIN for all.",
        false => "",
    }
}

fn timeout(of: &Stuck) -> Timer {
    let detail = of.socket.as_ref().and_then(|of| of.detail.as_ref());
    let tcp = detail.and_then(|detail| detail.tcp.as_ref());
    tcp.map_or(Timer::Off, |tcp| tcp.fin_timeout_ms)
}

/// A time as people say it.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}
