// SPDX-License-Identifier: GPL-2.0
//! A script's text, in steps.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::packet::Packet;

/// Options of packetdrill that change nothing here: how it cuts what it expects into segments, and how late that
/// may be.
const IGNORED: [&str; 3] = ["--mss=", "--tolerance_usecs=", "--tcp_ts_tick_usecs=1000"];

/// When a step is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After the script's beginning.
    At(Duration),
    /// After the step before.
    After(Duration),
    /// The same, and how much later is still well.
    Within(Duration, Duration),
    /// A packet: some time or other.
    Any,
}

/// What is asked of `struct tcp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `tcpi_state`.
    State(u8),
    /// Whether some bits of `tcpi_options` are set.
    Options(u8, bool),
}

/// How a system call has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it returns.
    Value(i64),
    /// Its errno.
    Error(i32),
}

/// A system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub args: Vec<String>,
    pub outcome: Outcome,
    /// For how long it blocks, if it does; the next steps come meanwhile.
    pub blocks: Option<Duration>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Call(Call),
    Inject(Packet),
    Expect(Packet),
    Shell(String),
    Check(Condition),
}

/// A step, and the line where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    pub when: When,
    pub action: Action,
}

/// A script.
pub struct Script(pub Vec<Step>);

impl Script {
    /// Parses all of it. What is not known is an error.
    pub fn parse(text: &str, defined: &BTreeMap<String, String>) -> Result<Self> {
        let mut steps = Vec::new();
        let (mut rest, mut line) = (text, 1);
        while !rest.is_empty() {
            let (piece, behind) = piece(rest);
            let step = step(piece.trim(), defined).with_context(|| format!("line {line}"))?;
            steps.extend(step.map(|(when, action)| Step { line, when, action }));
            line += piece.matches('\n').count();
            rest = behind;
        }
        Ok(Self(steps))
    }
}

/// The next line; or more, where a shell's text begins in it.
fn piece(text: &str) -> (&str, &str) {
    let line = text.find('\n').map_or(text.len(), |at| at + 1);
    let mut end = line;
    if let Some(shell) = text.strip_prefix('`') {
        // The shell's text ends with the next quote, and the line after that.
        let quote = shell.find('`').map_or(text.len(), |at| at + 2);
        end = text[quote..]
            .find('\n')
            .map_or(text.len(), |at| quote + at + 1);
    }
    text.split_at(end)
}

fn step(text: &str, defined: &BTreeMap<String, String>) -> Result<Option<(When, Action)>> {
    if text.is_empty() || text.starts_with("//") {
        return Ok(None);
    }
    if text.starts_with("--") {
        let known = IGNORED.iter().any(|option| text.starts_with(option));
        ensure!(known, "an unknown option: {text}");
        return Ok(None);
    }
    if let Some(shell) = text.strip_prefix('`') {
        let shell = shell
            .strip_suffix('`')
            .context("more behind a shell's text")?;
        return Ok(Some((
            When::After(Duration::ZERO),
            Action::Shell(shell.to_owned()),
        )));
    }
    let (time, rest) = text.split_once(char::is_whitespace).context("no action")?;
    let (when, blocks) = time_of(time)?;
    let rest = rest.trim();
    let action = if let Some(packet) = rest.strip_prefix('<') {
        Action::Inject(Packet::parse(packet, defined)?)
    } else if let Some(packet) = rest.strip_prefix('>') {
        Action::Expect(Packet::parse(packet, defined)?)
    } else if let Some(code) = rest.strip_prefix("%{") {
        Action::Check(condition(code.strip_suffix("}%").context("no }%")?)?)
    } else {
        Action::Call(call(rest, blocks)?)
    };
    match (&action, blocks, when) {
        (Action::Call(_), _, When::At(_) | When::After(_)) => {}
        (Action::Expect(_), None, _) => {}
        (Action::Inject(_) | Action::Check(_), None, When::At(_) | When::After(_)) => {}
        _ => bail!("a time that is not for this: {time}"),
    }
    Ok(Some((when, action)))
}

fn seconds(text: &str) -> Result<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    ensure!(digits, "not a time: {text:?}");
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

/// `0`, `+.1`, `+0~+.04`, `*`, and `+.01...0.011` for a call that blocks.
fn time_of(text: &str) -> Result<(When, Option<Duration>)> {
    if text == "*" {
        return Ok((When::Any, None));
    }
    let Some(text) = text.strip_prefix('+') else {
        return Ok((When::At(seconds(text)?), None));
    };
    if let Some((start, end)) = text.split_once("...") {
        let (start, end) = (seconds(start)?, seconds(end)?);
        let blocks = end.checked_sub(start).context("it ends before it begins")?;
        return Ok((When::After(start), Some(blocks)));
    }
    if let Some((first, last)) = text.split_once('~') {
        let first = seconds(first)?;
        let last = seconds(last.strip_prefix('+').context("no + behind ~")?)?;
        let more = last
            .checked_sub(first)
            .context("it ends before it begins")?;
        return Ok((When::Within(first, more), None));
    }
    Ok((When::After(seconds(text)?), None))
}

/// `assert tcpi_state == TCP_CLOSE, tcpi_state`, and the same of an option.
fn condition(code: &str) -> Result<Condition> {
    const STATES: [&str; 12] = [
        "TCP_ESTABLISHED",
        "TCP_SYN_SENT",
        "TCP_SYN_RECV",
        "TCP_FIN_WAIT1",
        "TCP_FIN_WAIT2",
        "TCP_TIME_WAIT",
        "TCP_CLOSE",
        "TCP_CLOSE_WAIT",
        "TCP_LAST_ACK",
        "TCP_LISTEN",
        "TCP_CLOSING",
        "TCP_NEW_SYN_RECV",
    ];
    /// `TCPI_OPT_SYN_DATA`
    const SYN_DATA: u8 = 32;
    let words: Vec<&str> = code.split_whitespace().collect();
    Ok(match words[..] {
        ["assert", "tcpi_state", "==", state, "tcpi_state"] => {
            let name = state.strip_suffix(',').context("no , behind the state")?;
            let at = STATES.iter().position(|known| *known == name);
            Condition::State(at.with_context(|| format!("an unknown state: {name}"))? as u8 + 1)
        }
        [
            "assert",
            "(tcpi_options",
            "&",
            "TCPI_OPT_SYN_DATA)",
            is,
            "0,",
            "tcpi_options",
        ] => {
            ensure!(matches!(is, "!=" | "=="), "an unknown comparison: {is}");
            Condition::Options(SYN_DATA, is == "!=")
        }
        _ => bail!("an unknown condition: {code}"),
    })
}

/// The errnos that scripts name.
fn errno(name: &str) -> Result<i32> {
    Ok(match name {
        "EAGAIN" => libc::EAGAIN,
        "ECONNRESET" => libc::ECONNRESET,
        "EINPROGRESS" => libc::EINPROGRESS,
        "EPIPE" => libc::EPIPE,
        _ => bail!("an unknown errno: {name}"),
    })
}

/// `accept(3, ..., ...) = 4`, `read(4, ..., 9) = -1 ECONNRESET (Connection reset by peer)`.
fn call(text: &str, blocks: Option<Duration>) -> Result<Call> {
    let (head, result) = text.rsplit_once(") = ").context("no result")?;
    let (name, args) = head.split_once('(').context("no (")?;
    let mut words = result.split([' ', '(']).filter(|word| !word.is_empty());
    let value: i64 = words.next().context("no result")?.parse()?;
    let outcome = match words.next() {
        Some(name) if value == -1 => Outcome::Error(errno(name)?),
        None => Outcome::Value(value),
        Some(word) => bail!("behind the result: {word}"),
    };
    Ok(Call {
        name: name.to_owned(),
        args: args.split(',').map(|arg| arg.trim().to_owned()).collect(),
        outcome,
        blocks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn steps_of_every_kind() {
        let text = "\
// A comment.
--mss=1000

`./defaults.sh
 echo two`

    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
 +.01...0.011 connect(3, ..., ...) = 0
   +0 write(3, ..., 9) = -1 ECONNRESET(Connection reset by peer)
   +0~+.04 > . 1:1(0) ack 1
   *  > S 0:0(0) <...>
  +.1 < R 1:1(0) win 7
   +0 %{ assert tcpi_state == TCP_CLOSE, tcpi_state }%
   +0 %{ assert (tcpi_options & TCPI_OPT_SYN_DATA) != 0, tcpi_options }%
";
        let Script(steps) = Script::parse(text, &BTreeMap::new()).unwrap();
        let lines: Vec<usize> = steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [4, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(
            steps[0].action,
            Action::Shell("./defaults.sh\n echo two".to_owned())
        );
        let Action::Call(connect) = &steps[2].action else {
            panic!("{:?}", steps[2]);
        };
        assert_eq!(
            (steps[2].when, connect.blocks),
            (When::After(ms(10)), Some(ms(1)))
        );
        assert_eq!(connect.args, ["3", "...", "..."]);
        let Action::Call(write) = &steps[3].action else {
            panic!("{:?}", steps[3]);
        };
        assert_eq!(write.outcome, Outcome::Error(libc::ECONNRESET));
        assert_eq!(steps[4].when, When::Within(ms(0), ms(40)));
        assert_eq!(steps[5].when, When::Any);
        assert_eq!(steps[7].action, Action::Check(Condition::State(7)));
        assert_eq!(steps[8].action, Action::Check(Condition::Options(32, true)));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for text in [
            "--speed=1",
            "`no end",
            "`./one` more",
            "+0",
            "x close(3) = 0",
            "+-1 close(3) = 0",
            "* close(3) = 0",
            "+0 close(3)",
            "+0 close(3) = 0 extra",
            "+0 close(3) = -1 EWHAT (what)",
            "+0 < S 0:0(0) # why",
            "+0~+.1 < S 0:0(0) win 1",
            "+0 %{ print(tcpi_state) }%",
            "+0 %{ assert tcpi_state == TCP_WHAT, tcpi_state }%",
            "+0 { code }",
        ] {
            assert!(Script::parse(text, &BTreeMap::new()).is_err(), "{text}");
        }
    }
}
