//! Events in files: each batch is on the disk before it is acknowledged.
//!
//! A spool is a folder of segments, numbered. A segment has records of one reader of one stream, as lines of
//! JSON: first who they are from, then batch after batch, each ended by a line that says how many records it
//! has and what their CRC is. What stands behind the last such line was cut off by a crash, before it was
//! acknowledged. A segment is never written to again: who resumes begins a new one.

pub mod reader;
mod seen;
#[cfg(test)]
mod tests;
pub mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::origin::Origin;

/// Version of what stands in segments.
const FORMAT: u32 = 1;

/// The first line of a segment.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    spool: u32,
    #[serde(flatten)]
    origin: Origin,
}

/// The last line of a batch.
#[derive(Debug, Serialize, Deserialize)]
struct Commit {
    records: usize,
    /// Of all bytes between the last such line, or the beginning, and this one.
    crc32: String,
}

/// How a line of that kind begins, and no other.
const COMMIT: &[u8] = b"{\"records\":";

fn crc(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// The segments of a spool, by number, oldest first.
fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}
