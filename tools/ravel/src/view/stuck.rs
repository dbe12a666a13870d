//! `ravel stuck`: what does not end, worst first, each with the process to blame and what would free it.

use std::fmt::Write;

use ravel_records::{Protocol, SkState, Timer};
use serde::Serialize;

use super::left_out;
use super::sockets::address;
use super::who::{descriptor, other};
use super::why::say;
use crate::screen::{BAD, DIM, NAME, NOTE, STRONG, count, plain};
use crate::stuck::{Answer, Looked, Stuck, Why};
use crate::sweep::Holder;

/// The answer, and what would free each.
#[derive(Serialize)]
pub struct Explained<'a> {
    #[serde(flatten)]
    looked: &'a Looked,
    stuck: Vec<Freed<'a>>,
}

#[derive(Serialize)]
struct Freed<'a> {
    #[serde(flatten)]
    of: &'a Stuck,
    blamed: String,
    freed_by: String,
}

impl<'a> Explained<'a> {
    /// What follows from an answer.
    pub fn of(answer: &'a Answer) -> Self {
        let freed = |of| Freed {
            of,
            blamed: blamed(of),
            freed_by: freed_by(of),
        };
        Self {
            looked: &answer.looked,
            stuck: answer.stuck.iter().map(freed).collect(),
        }
    }
}

/// How many connections of one kind and process are shown.
const SHOWN: usize = 4;

/// Draws the answer.
pub fn draw(answer: &Answer, all: bool) -> String {
    let kernel = plain(&answer.looked.kernel);
    let mut text = format!("{STRONG}stuck connections{STRONG:#}, {DIM}Linux {kernel}{DIM:#}\n");
    for why in Why::ALL {
        let of_kind: Vec<&Stuck> = answer.stuck.iter().filter(|of| of.why == why).collect();
        if of_kind.is_empty() {
            continue;
        }
        let style = if why < Why::Orphan { BAD } else { NOTE };
        let (name, meaning) = words(why);
        let _ = writeln!(text, "\n{style}{name}{style:#}: {meaning}");
        // By who is to blame, in the order in which the worst of each comes.
        let mut groups: Vec<(String, Vec<&Stuck>)> = Vec::new();
        for of in of_kind {
            let who = processes(of);
            match groups.iter_mut().find(|(name, _)| *name == who) {
                Some((_, group)) => group.push(of),
                None => groups.push((who, vec![of])),
            }
        }
        for (who, group) in &groups {
            let shown = if all { group.len() } else { SHOWN };
            for of in group.iter().take(shown) {
                draw_one(&mut text, of);
            }
            if let more @ 1.. = group.len().saturating_sub(shown) {
                let _ = writeln!(
                    text,
                    "  {DIM}{} like these, of {who} (--all){DIM:#}",
                    count(more as u64, "more", "more")
                );
            }
        }
    }
    text.push('\n');
    text.push_str(&summary(answer));
    text
}

fn words(why: Why) -> (&'static str, &'static str) {
    match why {
        Why::CloseWait => (
            "close wait",
            "the peer has sent FIN; it lasts until this end is closed",
        ),
        Why::HalfClosed => (
            "half closed",
            "one direction is shut; it lasts until an end is closed",
        ),
        Why::Over => ("over", "the connection has ended, its descriptor is open"),
        Why::Unheld => (
            "unheld",
            "in an open file, but no process has a descriptor of it",
        ),
        Why::NotAccepted => (
            "not accepted",
            "the peer has gone before anybody accepted the connection",
        ),
        Why::Unacknowledged => (
            "unacknowledged",
            "closed on this side, and the peer does not acknowledge it",
        ),
        Why::Orphan => (
            "orphan",
            "closed and acknowledged, nobody has it; the peer does not end its side",
        ),
        Why::NoRoom => ("no room", "what was written waits until the peer reads"),
        Why::Unread => ("unread", "what has come waits to be read"),
        Why::Shared => (
            "shared",
            "open, and held by several: a close() by one of them ends nothing",
        ),
    }
}

/// Who is to blame, without descriptors: what connections are put together by.
fn processes(of: &Stuck) -> String {
    let mut names: Vec<String> = of
        .blame
        .iter()
        .map(|holder| format!("{} {}", plain(&holder.comm), holder.pid))
        .collect();
    names.dedup();
    match names.is_empty() {
        true => "the same kind".to_owned(),
        false => names.join(", "),
    }
}

fn draw_one(text: &mut String, of: &Stuck) {
    let kind = match of.protocol {
        Protocol::Tcp => "tcp".to_owned(),
        _ => format!("{} {}", of.family, of.r#type),
    };
    let _ = write!(
        text,
        "  {STRONG}{} → {}{STRONG:#}  {kind} {}",
        address(&of.local),
        address(&of.remote),
        of.sk_state,
    );
    if of.inode != 0 {
        let _ = write!(text, "  {DIM}inode {}{DIM:#}", of.inode);
    }
    for said in facts(of) {
        let _ = write!(text, "  {said}");
    }
    let _ = writeln!(text, "\n    blame     {NAME}{}{NAME:#}", blamed(of));
    let _ = writeln!(text, "    freed by  {}", freed_by(of));
}

/// What is known of it, in a few words each.
fn facts(of: &Stuck) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(ms) = of.silent_ms {
        said.push(format!("silent for {}", duration(ms)));
    }
    if of.unread > 0 {
        said.push(format!("{} unread", count(of.unread, "byte", "bytes")));
    }
    if of.unacknowledged > 0 {
        let bytes = count(of.unacknowledged, "byte", "bytes");
        said.push(format!("{bytes} not acknowledged"));
    }
    if let Some((waiting, gone)) = of.waiting {
        let waiting = count(waiting, "waits", "wait");
        said.push(format!(
            "{waiting} for accept(), of {gone} the peer has gone"
        ));
    }
    if let Some(end) = &of.other_end {
        let mut text = format!("other end {}", end.state);
        match (end.holders.is_empty(), end.inode) {
            (false, _) => {
                let _ = write!(text, " of {}", list(&end.holders));
            }
            (true, 0) => text.push_str(", which nobody has open"),
            (true, _) => {}
        }
        if let Some(ms) = end.ends_ms {
            let _ = write!(text, ", removed in {}", duration(ms));
        }
        said.push(text);
    }
    said
}

/// Who would have to act.
fn blamed(of: &Stuck) -> String {
    let mut text = list(&of.blame);
    if of.blame == of.holders {
        for sharer in &of.others {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(&other(sharer));
        }
    }
    if !text.is_empty() {
        return text;
    }
    match of.why {
        Why::Unheld => "whoever has not read the message that it is in".to_owned(),
        _ if of.other_end.is_some() => "whoever has the other end".to_owned(),
        _ => format!("the program at {}", address(&of.remote)),
    }
}

/// Descriptors, those of one process together.
fn list(holders: &[Holder]) -> String {
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
fn freed_by(of: &Stuck) -> String {
    let them = match of.blame.is_empty() {
        true => blamed(of),
        false => list(&of.blame),
    };
    match of.why {
        Why::CloseWait => format!("{}{}", close(of), shut(of)),
        Why::HalfClosed if of.protocol == Protocol::Tcp => {
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
            "{}; or close() of the other end. Which of the two has shut it down the kernel does not keep.",
            close(of).trim_end_matches('.')
        ),
        Why::Over => close(of),
        Why::Unheld => "recvmsg() or close() of the unix socket in whose queue it waits (SCM_RIGHTS), or the end of the \
             io_uring or of the thread with descriptors of its own that has it; it may also be the kernel's own."
            .to_owned(),
        Why::NotAccepted => format!("accept() of each and close(), or close() of the listener, {}.", whose(of)),
        Why::Unacknowledged => {
            let reads = match of.unacknowledged {
                0 => "an acknowledgement".to_owned(),
                _ => format!("reads of what it has, by {them}, and acknowledgements"),
            };
            let gives_up = match of.holders.is_empty() {
                true => "when it has tried as often as tcp_orphan_retries says",
                false => "when it has tried as often as tcp_retries2 says",
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

/// By whom an end is to be closed.
fn whose(of: &Stuck) -> String {
    match of.holders.len() {
        0 => "by whoever has it".to_owned(),
        1 => format!("by {}", list(&of.holders)),
        _ => format!("by all of {}", list(&of.holders)),
    }
}

/// What close() by all who have it would do.
fn close(of: &Stuck) -> String {
    let mut text = match of.holders.len() {
        1 if of.others.is_empty() => format!("close() by {}", list(&of.holders)),
        _ => format!("close() by every one of {}", list(&of.holders)),
    };
    for sharer in &of.others {
        let _ = write!(text, ", and read or close of that which {}", other(sharer));
    }
    if let Some(unnamed @ 1..) = of.unnamed {
        let references = count(unnamed, "reference", "references");
        let _ = write!(text, ", and the end of {references} that are not named");
    }
    // As if it were the last: what each but the last does is known.
    let verdict = of.socket.as_ref().and_then(|socket| {
        let mut last = socket.clone();
        last.file_refs = 1;
        let [close, ..] = last.verdicts()?;
        Some(say(last.detail.as_ref()?, &close))
    });
    match verdict {
        Some(said) if of.holders.len() + of.others.len() > 1 => {
            format!("{text}: the last one {said}.")
        }
        Some(said) => format!("{text}: {said}."),
        None => format!("{text}."),
    }
}

/// What one of several can do alone.
fn shut(of: &Stuck) -> &'static str {
    match of.holders.len() + of.others.len() > 1 && of.sk_state == SkState::CloseWait {
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
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn summary(answer: &Answer) -> String {
    let looked = &answer.looked;
    let kinds: Vec<String> = Why::ALL
        .into_iter()
        .filter_map(|why| {
            let number = answer.stuck.iter().filter(|of| of.why == why).count();
            (number > 0).then(|| format!("{number} {}", words(why).0))
        })
        .collect();
    let found = match answer.stuck.len() as u64 {
        0 => "Nothing is stuck".to_owned(),
        number => count(number, "connection is stuck", "connections are stuck"),
    };
    let mut text = format!("{STRONG}{found}{STRONG:#}");
    if !kinds.is_empty() {
        let _ = write!(text, " ({})", kinds.join(", "));
    }
    let _ = write!(
        text,
        " among {} of {}",
        count(looked.sockets, "socket", "sockets"),
        count(looked.processes, "process", "processes"),
    );
    match looked.namespaces {
        Some(number) => {
            let _ = write!(
                text,
                " in {}",
                count(number, "network namespace", "network namespaces")
            );
        }
        None => text.push_str(", orphans not looked for"),
    }
    if looked.busy > 0 {
        let _ = write!(text, ", {} busy", looked.busy);
    }
    text.push_str(".\n");
    if looked.namespaces_unseen > 0 {
        let _ = writeln!(
            text,
            "{NOTE}No process is in {} of these sockets: orphans there are not seen.{NOTE:#}",
            count(looked.namespaces_unseen, "namespace", "namespaces")
        );
    }
    text.push_str(&left_out(looked.cut));
    text
}
