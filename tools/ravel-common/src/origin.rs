//! Where events come from: what tells one of them from all others of a fleet.

use std::fs;
use std::io;

use ravel_records::Event;
use serde::{Deserialize, Serialize};

/// Where a stream's events come from. With a sequence number and a time, it names one event of all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The machine's name.
    pub host: String,
    /// Its boot, by `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The stream.
    pub stream: String,
}

impl Origin {
    /// This boot of this machine.
    pub fn here(stream: &str) -> io::Result<Self> {
        let name = rustix::system::uname();
        Ok(Self {
            host: name.nodename().to_string_lossy().into_owned(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
            stream: stream.to_owned(),
        })
    }
}

/// An event, and where it comes from.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    /// Where from.
    #[serde(flatten)]
    pub origin: &'a Origin,
    /// What.
    #[serde(flatten)]
    pub event: &'a Event,
}
