// SPDX-License-Identifier: GPL-2.0

//! What is written to the files of streams, in words.

use crate::{
    object::{net::filter::Wanted, process::PID_MAX, trace::source::Source},
    report::text::Form,
};
use core::net::IpAddr;
use kernel::{prelude::*, uaccess::UserSliceReader};

/// The longest request, in bytes.
const MAX_REQUEST: usize = 255;

/// The longest name of a stream, in bytes.
pub(super) const MAX_NAME: usize = 31;

/// Bytes that a stream may have for its events.
const BYTES: core::ops::RangeInclusive<u64> = 16 << 10..=64 << 20;

/// A stream's name: letters, digits, `_` and `-`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    bytes: [u8; MAX_NAME + 1],
    len: usize,
}

impl Name {
    fn parse(text: &[u8]) -> Result<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if text.is_empty() || text.len() > MAX_NAME || !text.iter().all(plain) {
            return Err(EINVAL);
        }
        let mut bytes = [0; MAX_NAME + 1];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Self {
            bytes,
            len: text.len(),
        })
    }

    /// The name.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The name as the folder's.
    pub(super) fn cstr(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| EINVAL)
    }
}

/// Whose events a stream has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Everyone's.
    All,
    /// One process', by a pid of the writer's namespace.
    One(i32),
    /// Its, and its descendants'.
    Tree(i32),
}

/// How a stream is to be.
pub(super) struct Settings {
    pub(super) name: Name,
    /// Bytes for events, in rings and store together.
    pub(super) bytes: usize,
    /// The kinds of events, as bits.
    pub(super) kinds: u32,
    pub(super) who: Who,
    /// Which sockets it is about.
    pub(super) wanted: Wanted,
    /// How often an event is handed out at most.
    pub(super) attempts: u32,
    /// Whether it goes with the descriptor that it was asked for on.
    pub(super) until_close: bool,
}

/// On which terms a reader gets its batches.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// How many records at most.
    pub(super) events: u32,
    /// How many bytes of records at most, but for the first.
    pub(super) bytes: usize,
    /// Nanoseconds from the reserving to the deadline.
    pub(super) time: u64,
    /// The form in which they are written.
    pub(super) form: Form,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            events: 256,
            bytes: 64 << 10,
            time: 30_000 * MILLISECOND,
            form: Form::Text,
        }
    }
}

const MILLISECOND: u64 = 1_000_000;

/// The longest lease or delay: a day.
const MAX_MILLISECONDS: u64 = 24 * 3600 * 1000;

/// A request for the file `streams`.
pub(super) enum Control {
    /// Make a stream.
    Create(Settings),
    /// Remove it.
    Remove(Name),
}

/// A request for a stream's file `events`.
pub(super) enum Order {
    /// Have other terms, from the next batch on.
    Lease(Terms),
    /// The batch is done with, up to that number, or all of it.
    Ack(Option<u64>),
    /// The rest of it is given back, to be ready after that many nanoseconds.
    Release(u64),
}

/// A request for a stream's file `failed`.
pub(super) enum Mend {
    /// What failed is ready again: that one, or all.
    Replay(Option<u64>),
    /// What failed is forgotten.
    Clear(Option<u64>),
}

/// A request as it was written: one line.
pub(super) struct Request {
    buf: [u8; MAX_REQUEST + 1],
    len: usize,
}

impl Request {
    /// `EINVAL` if it is too long, `EFAULT` if it cannot be read.
    pub(super) fn read(mut from: UserSliceReader) -> Result<Self> {
        let mut buf = [0; MAX_REQUEST + 1];
        let len = from.len();
        if len > buf.len() {
            return Err(EINVAL);
        }
        from.read_slice(&mut buf[..len])?;
        let len = buf[..len].strip_suffix(b"\n").unwrap_or(&buf[..len]).len();
        if len > MAX_REQUEST {
            return Err(EINVAL);
        }
        Ok(Self { buf, len })
    }

    fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.buf[..self.len].split(|&b| b == b' ')
    }

    /// `create NAME sources=SOURCE,... [bytes=N] [attempts=N] [pid=PID | tree=PID] [socket=PID:FD] [cgroup=ID]
    /// [address=IP] [port=N] [protocol=N] [until=close]`, or `remove NAME`.
    pub(super) fn control(&self) -> Result<Control> {
        let mut words = self.words();
        let order = words.next().unwrap_or_default();
        let name = Name::parse(words.next().ok_or(EINVAL)?)?;
        match order {
            b"create" => {}
            b"remove" if words.next().is_none() => return Ok(Control::Remove(name)),
            _ => return Err(EINVAL),
        }
        let (mut kinds, mut bytes, mut attempts, mut who) = (None, None, None, None);
        let mut wanted = Wanted::default();
        let mut until = None;
        for word in words {
            match pair(word)? {
                (b"sources", list) => once(&mut kinds, parse_sources(list)?)?,
                (b"bytes", text) => once(&mut bytes, number(text, *BYTES.start(), *BYTES.end())?)?,
                (b"attempts", text) => once(&mut attempts, number(text, 1, 1000)?)?,
                (b"pid", text) => once(&mut who, Who::One(pid(text)?))?,
                (b"tree", text) => once(&mut who, Who::Tree(pid(text)?))?,
                (b"socket", text) => once(&mut wanted.socket, descriptor(text)?)?,
                (b"cgroup", text) => once(&mut wanted.cgroup, number(text, 1, u64::MAX)?)?,
                (b"address", text) => once(&mut wanted.address, address(text)?)?,
                (b"port", text) => once(&mut wanted.port, number(text, 1, 65535)? as u16)?,
                (b"protocol", text) => once(&mut wanted.protocol, number(text, 1, 255)? as u8)?,
                (b"until", b"close") => once(&mut until, ())?,
                _ => return Err(EINVAL),
            }
        }
        let kinds = kinds.ok_or(EINVAL)?;
        let any = |is: fn(Source) -> bool| {
            let mut sources = Source::ALL.into_iter();
            sources.any(|source| kinds >> source.kind() & 1 == 1 && is(source))
        };
        // What happens to a socket is no process' doing, and a process has no port.
        if who.is_some() && any(|source| !source.names_process())
            || wanted.names_socket() && any(|source| !source.is_of_network())
        {
            return Err(EINVAL);
        }
        Ok(Control::Create(Settings {
            name,
            bytes: bytes.unwrap_or(1 << 20) as usize,
            kinds,
            who: who.unwrap_or(Who::All),
            wanted,
            attempts: attempts.unwrap_or(3) as u32,
            until_close: until.is_some(),
        }))
    }

    /// `lease [events=N] [bytes=N] [ms=N] [form=text|binary]`, `ack [SEQ]`, or `release [MS]`.
    pub(super) fn order(&self) -> Result<Order> {
        let mut words = self.words();
        let order = words.next().unwrap_or_default();
        if order == b"lease" {
            let (mut events, mut bytes, mut time, mut form) = (None, None, None, None);
            for word in words {
                match pair(word)? {
                    (b"events", text) => once(&mut events, number(text, 1, 4096)?)?,
                    (b"bytes", text) => once(&mut bytes, number(text, 1024, 1 << 20)?)?,
                    (b"ms", text) => once(&mut time, number(text, 1, MAX_MILLISECONDS)?)?,
                    (b"form", b"text") => once(&mut form, Form::Text)?,
                    (b"form", b"binary") => once(&mut form, Form::Binary)?,
                    _ => return Err(EINVAL),
                }
            }
            let usual = Terms::default();
            return Ok(Order::Lease(Terms {
                events: events.map_or(usual.events, |n| n as u32),
                bytes: bytes.map_or(usual.bytes, |n| n as usize),
                time: time.map_or(usual.time, |n| n * MILLISECOND),
                form: form.unwrap_or(usual.form),
            }));
        }
        let argument = words.next();
        if words.next().is_some() {
            return Err(EINVAL);
        }
        match order {
            b"ack" => Ok(Order::Ack(sequence(argument)?)),
            b"release" => {
                let delay = argument.map(|text| number(text, 0, MAX_MILLISECONDS));
                Ok(Order::Release(
                    delay.transpose()?.unwrap_or(0) * MILLISECOND,
                ))
            }
            _ => Err(EINVAL),
        }
    }

    /// `replay [SEQ]`, or `clear [SEQ]`.
    pub(super) fn mend(&self) -> Result<Mend> {
        let mut words = self.words();
        let order = words.next().unwrap_or_default();
        let seq = sequence(words.next())?;
        match (order, words.next()) {
            (b"replay", None) => Ok(Mend::Replay(seq)),
            (b"clear", None) => Ok(Mend::Clear(seq)),
            _ => Err(EINVAL),
        }
    }
}

/// Each key at most once.
fn once<T>(place: &mut Option<T>, value: T) -> Result {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(EINVAL),
    }
}

fn pair(word: &[u8]) -> Result<(&[u8], &[u8])> {
    let at = word.iter().position(|&b| b == b'=').ok_or(EINVAL)?;
    Ok((&word[..at], &word[at + 1..]))
}

fn parse_sources(list: &[u8]) -> Result<u32> {
    let mut kinds = 0;
    for name in list.split(|&b| b == b',') {
        let bit = 1 << Source::parse(name).ok_or(EINVAL)?.kind();
        if kinds & bit != 0 {
            return Err(EINVAL);
        }
        kinds |= bit;
    }
    Ok(kinds)
}

fn pid(text: &[u8]) -> Result<i32> {
    Ok(number(text, 1, PID_MAX as u64)? as i32)
}

fn descriptor(text: &[u8]) -> Result<(i32, u32)> {
    let at = text.iter().position(|&b| b == b':').ok_or(EINVAL)?;
    Ok((
        pid(&text[..at])?,
        number(&text[at + 1..], 0, i32::MAX as u64)? as u32,
    ))
}

fn address(text: &[u8]) -> Result<IpAddr> {
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    text.parse().map_err(|_| EINVAL)
}

fn sequence(text: Option<&[u8]>) -> Result<Option<u64>> {
    text.map(|text| number(text, 1, u64::MAX)).transpose()
}

/// A decimal number within bounds.
fn number(text: &[u8], least: u64, most: u64) -> Result<u64> {
    if text.is_empty() {
        return Err(EINVAL);
    }
    let mut number = 0u64;
    for &digit in text {
        if !digit.is_ascii_digit() {
            return Err(EINVAL);
        }
        number = number
            .checked_mul(10)
            .and_then(|tens| tens.checked_add((digit - b'0').into()))
            .ok_or(EINVAL)?;
    }
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(EINVAL)
    }
}
