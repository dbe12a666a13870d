//! A report's frame: its first line, its last, and what may stand in their place.

use std::mem;

use crate::binary::Records;
use crate::line::record;
use crate::{Error, Line, ReportError, ReportName, Text};

/// The version of the report format that is read here.
pub const FORMAT: u64 = 1;

record! {
    /// The `report` record, the first of a report.
    Header {
        /// The report's name.
        name: ReportName,
        /// Version of the format.
        format: u64,
        /// The process, by its number in the initial pid namespace.
        pid: u32,
        /// The process' name.
        comm: Text,
        /// The kernel's release.
        kernel: Text,
    }
}

/// The records of an answer one by one, up to its `summary`, be it text or in the binary form.
pub(crate) struct Body<'a> {
    rest: &'a [u8],
    binary: Option<Records<'a>>,
    /// The current one; each takes over the memory of the one before.
    line: Line<'a>,
    lines: usize,
    summary: Option<Line<'a>>,
}

impl<'a> Body<'a> {
    /// A text that has no header.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            rest: text,
            binary: Records::new(text),
            line: Line::default(),
            lines: 0,
            summary: None,
        }
    }

    /// A report: reads its header, which must name `name` and a version that is known.
    pub(crate) fn open(text: &'a [u8], name: &ReportName) -> Result<(Header, Self), Error> {
        let mut body = Self::new(text);
        if !body.advance()? {
            return Err(Error::Cut { lines: 0 });
        }
        let line = &body.line;
        if line.kind != "report" {
            return Err(line.error(format!("`{}` where `report` belongs", line.kind)));
        }
        let found = line.get("format")?;
        if found != FORMAT {
            return Err(Error::Format {
                found,
                known: FORMAT,
            });
        }
        let header = Header::from_line(line)?;
        if header.name != *name {
            return Err(line.error(format!("a report `{}`, not `{name}`", header.name)));
        }
        Ok((header, body))
    }

    /// The next record; none at the summary.
    pub(crate) fn next(&mut self) -> Result<Option<&Line<'a>>, Error> {
        if !self.advance()? {
            return Err(Error::Cut { lines: self.lines });
        }
        if self.line.kind != "summary" {
            return Ok(Some(&self.line));
        }
        self.summary = Some(mem::take(&mut self.line));
        match self.advance()? {
            false => Ok(None),
            true => {
                let line = &self.line;
                Err(line.error(format!("`{}` behind the summary", line.kind)))
            }
        }
    }

    /// The summary, once [`Body::next`] has come to it.
    pub(crate) fn summary(self) -> Result<Line<'a>, Error> {
        self.summary.ok_or(Error::Cut { lines: self.lines })
    }

    /// Goes on to the next whole line, unless it is an `error`: whether there is one. A line without its newline is a
    /// cut one.
    fn advance(&mut self) -> Result<bool, Error> {
        let number = self.lines + 1;
        let there = match &mut self.binary {
            Some(records) => records.next(&mut self.line, number)?,
            None => self.advance_text(number)?,
        };
        if !there {
            return Ok(false);
        }
        self.lines = number;
        if self.line.kind == "error" {
            return Err(Error::Report(ReportError::from_line(&self.line)?));
        }
        Ok(true)
    }

    fn advance_text(&mut self, number: usize) -> Result<bool, Error> {
        let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') else {
            return match self.rest {
                [] => Ok(false),
                _ => Err(Error::Cut { lines: self.lines }),
            };
        };
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        self.line.read(text, number)?;
        Ok(true)
    }
}

/// Several reports that stand one behind the other, each on its own; what cannot be one is an error where it is parsed.
pub(crate) fn split(text: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let mut begins = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if at == 0 || line.starts_with(b"report ") {
            begins.push(at);
        }
        at += line.len();
    }
    if begins.is_empty() {
        return Err(Error::Cut { lines: 0 });
    }
    let ends = begins.iter().skip(1).copied().chain([text.len()]);
    let texts = begins.iter().zip(ends);
    Ok(texts.map(|(begin, end)| &text[*begin..end]).collect())
}

/// Checks a count of the summary against the records found. It may also count those that a bound
/// left out, and says how many they are.
pub(crate) fn check(
    summary: &Line<'_>,
    key: &str,
    stated: u64,
    found: usize,
    cut: u64,
) -> Result<(), Error> {
    let found = found as u64;
    if (found..=found.saturating_add(cut)).contains(&stated) {
        return Ok(());
    }
    Err(summary.error(format!(
        "the summary counts {stated} {key}, the report has {found}"
    )))
}
