// SPDX-License-Identifier: GPL-2.0

//! Events as records.

mod net;
mod packet;

use super::store::Entry;
use crate::{
    object::trace::{event::Event, ring::Loss, source::Source},
    report::text::{Line, Text},
};
use kernel::prelude::*;

/// What an entry of a stream stands for.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// An event.
    Event(Event),
    /// Events that were lost.
    Loss(Loss),
}

impl What {
    /// How many events, and so sequence numbers, it stands for.
    pub(super) fn events(&self) -> u64 {
        match self {
            Self::Event(_) => 1,
            Self::Loss(loss) => loss.count,
        }
    }

    /// Writes its record; `attempt`: the number of this attempt.
    pub(super) fn write(entry: &Entry<Self>, attempt: u32, text: &mut Text) -> Result {
        match &entry.what {
            Self::Event(event) => {
                let source = source(event);
                let line = head(text.record(source.name()), entry, attempt)
                    .number("time", event.time)
                    .number("cpu", event.cpu.into());
                write_event(line, source, event).end()
            }
            Self::Loss(loss) => head(text.record("loss"), entry, attempt)
                .number("time", loss.first)
                .number("last", loss.last)
                .number("cpu", loss.cpu.into())
                .number("count", loss.count)
                .end(),
        }
    }
}

fn write_event<'t>(line: Line<'t>, source: Source, event: &Event) -> Line<'t> {
    match source {
        Source::Fork | Source::Exec | Source::Exit => write_process(line, source, event),
        Source::TcpState => net::write_state(line, event.net()),
        Source::Reset => net::write_reset(line, event.net()),
        Source::Drop => net::write_drop(line, event.net()),
        Source::Shutdown => net::write_shutdown(who(line, event), event.net()),
        Source::Close => net::write_close(who(line, event), event.net()),
        Source::Release => net::write_release(who(line, event), event.net()),
        Source::Packet => packet::write(line, event.packet()),
    }
}

/// The process that did it.
fn who<'t>(line: Line<'t>, event: &Event) -> Line<'t> {
    let who = event.who();
    line.number("pid", who.pid.into())
        .number("tid", who.tid.into())
        .number("born", who.born)
        .string("comm", until_nul(&who.comm))
}

fn write_process<'t>(line: Line<'t>, source: Source, event: &Event) -> Line<'t> {
    let lineage = event.lineage();
    let line = who(line, event).numbers("line", &lineage.line[..usize::from(lineage.lines)]);
    match source {
        Source::Fork => line
            .number("child", lineage.child.into())
            .number("child_born", lineage.child_born),
        Source::Exec => line
            .string("file", until_nul(&lineage.file))
            .flag("file_cut", lineage.file_cut != 0),
        _ => line
            .number("code", (lineage.status >> 8 & 0xff).into())
            .number("signal", (lineage.status & 0x7f).into())
            .flag("core", lineage.status & 0x80 != 0),
    }
}

fn head<'t>(line: Line<'t>, entry: &Entry<What>, attempt: u32) -> Line<'t> {
    line.number("seq", entry.seq)
        .number("attempt", attempt.into())
}

fn source(event: &Event) -> Source {
    let found = Source::ALL
        .into_iter()
        .find(|source| source.kind() == event.kind);
    // Probes write no other kinds.
    found.unwrap_or(Source::Exit)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}
