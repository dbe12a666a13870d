// SPDX-License-Identifier: GPL-2.0

//! Events as records.

mod net;
mod packet;

use super::store::Entry;
use crate::{
    object::trace::{
        event::{self, Event},
        ring::Loss,
        source::Source,
    },
    records::{
        events::{self, Ancestors, Place, Who},
        Comm, Numbers, Str,
    },
    report::text::Text,
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
                let place = Place {
                    seq: entry.seq.into(),
                    attempt: attempt.into(),
                    time: event.time.into(),
                    cpu: event.cpu.into(),
                };
                write_event(place, event, text)
            }
            Self::Loss(loss) => {
                let record = events::Loss {
                    seq: entry.seq.into(),
                    attempt: attempt.into(),
                    time: loss.first.into(),
                    last: loss.last.into(),
                    cpu: loss.cpu.into(),
                    count: loss.count.into(),
                };
                text.put(&record, &[])
            }
        }
    }
}

fn write_event(place: Place, event: &Event, text: &mut Text) -> Result {
    match source(event) {
        Source::Fork => write_fork(place, event, text),
        Source::Exec => write_exec(place, event, text),
        Source::Exit => write_exit(place, event, text),
        Source::TcpState => net::write_state(place, event.net(), text),
        Source::Reset => net::write_reset(place, event.net(), text),
        Source::Drop => net::write_drop(place, event.net(), text),
        Source::Shutdown => net::write_shutdown(place, who(event), event.net(), text),
        Source::Close => net::write_close(place, who(event), event.net(), text),
        Source::Release => net::write_release(place, who(event), event.net(), text),
        Source::Packet => packet::write(place, event.packet(), text),
    }
}

/// The process that did it.
fn who(event: &Event) -> Who {
    let who = event.who();
    Who {
        pid: who.pid.into(),
        tid: who.tid.into(),
        born: who.born.into(),
        comm: Comm::new(who.comm),
    }
}

fn ancestors(lineage: &event::Lineage) -> Ancestors {
    let lines = usize::from(lineage.lines);
    Ancestors {
        line: Numbers::of(lineage.line.get(..lines).unwrap_or_default()),
    }
}

#[inline(never)]
fn write_fork(place: Place, event: &Event, text: &mut Text) -> Result {
    let lineage = event.lineage();
    let record = events::Fork {
        place,
        who: who(event),
        ancestors: ancestors(lineage),
        child: lineage.child.into(),
        child_born: lineage.child_born.into(),
    };
    text.put(&record, &[])
}

#[inline(never)]
fn write_exec(place: Place, event: &Event, text: &mut Text) -> Result {
    let lineage = event.lineage();
    let file = until_nul(&lineage.file);
    let record = events::Exec {
        place,
        who: who(event),
        ancestors: ancestors(lineage),
        file: Str::at(0, file.len()),
        file_cut: (lineage.file_cut != 0).into(),
    };
    text.put(&record, &[file])
}

#[inline(never)]
fn write_exit(place: Place, event: &Event, text: &mut Text) -> Result {
    let lineage = event.lineage();
    let record = events::Exit {
        place,
        who: who(event),
        ancestors: ancestors(lineage),
        code: (lineage.status >> 8 & 0xff).into(),
        signal: (lineage.status & 0x7f).into(),
        core: (lineage.status & 0x80 != 0).into(),
    };
    text.put(&record, &[])
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
