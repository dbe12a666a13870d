//! Writing to standard output.

use std::io::{self, Write};

use serde::Serialize;

/// Writes text with or without colours, as stdout requires.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes bytes unchanged.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a value as an indented JSON document, a piece at a time.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    ravel_records::json::write_document(&mut out, value)?;
    out.flush()
}

/// Writes a line to stderr. A closed stderr is ignored: there is nowhere to report it.
pub fn warn(text: &str) {
    let _ = writeln!(anstream::stderr(), "ravel: {text}");
}
