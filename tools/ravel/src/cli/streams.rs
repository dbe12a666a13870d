//! What the command line says of streams of events, and of packets, which are watched by one.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `ravel events`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct EventsArgs {
    /// What to do with streams.
    #[command(subcommand)]
    pub command: Option<Events>,
    /// Read this stream, as `ravel events read` does
    #[arg(long)]
    pub stream: Option<String>,
    #[command(flatten)]
    pub reading: Reading,
    /// Print what a spool has, each record once
    #[arg(long, value_name = "DIR", conflicts_with_all = ["stream", "spool", "count", "no_wait", "lease"])]
    pub read: Option<PathBuf>,
}

/// What is done to streams.
#[derive(Debug, Subcommand)]
pub enum Events {
    /// List the streams and what is in them
    List {
        /// Print one JSON document, with the keys of the format
        #[arg(long)]
        json: bool,
    },
    /// Make a stream, which takes in events from then on
    Create(Create),
    /// Print a stream's events as they come, and acknowledge what was printed
    Read(Read),
    /// Show what was handed out as often as it may be, or do something with it
    Failed(Failed),
    /// Remove a stream, and all that is in it
    Remove {
        /// The stream
        stream: String,
    },
}

/// `ravel events create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name: letters, digits, `_` and `-`
    pub stream: String,
    /// What it takes in, with commas between
    #[arg(long, value_delimiter = ',', required = true)]
    pub sources: Vec<EventSource>,
    /// Memory for its events
    #[arg(long, value_parser = clap::value_parser!(u64).range(16_384..=67_108_864))]
    pub bytes: Option<u64>,
    /// How often a record is handed out at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub attempts: Option<u32>,
    /// Only events of this process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pid: Option<u32>,
    /// Only events of this process and its descendants
    #[arg(long, value_name = "PID", conflicts_with = "pid")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub tree: Option<u32>,
    #[command(flatten)]
    pub only: Only,
}

/// To what of the network a stream is narrowed.
#[derive(Clone, Debug, Args)]
pub struct Only {
    /// Only what is of the socket behind this descriptor
    #[arg(long, value_name = "PID:FD", value_parser = descriptor)]
    pub socket: Option<String>,
    /// Only what is of this cgroup (version 2: a directory, or an id) or those below
    #[arg(long, value_parser = cgroup)]
    pub cgroup: Option<u64>,
    /// Only what has this address at either end
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Only what has this port at either end
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only what is of this protocol: tcp, udp, icmp, icmpv6, sctp, or its number
    #[arg(long, value_parser = protocol)]
    pub protocol: Option<u8>,
}

/// What IP carries, by its number.
fn protocol(text: &str) -> Result<u8, String> {
    Ok(match text {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmpv6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        number => match number.parse() {
            Ok(number @ 1..) => number,
            _ => return Err("wanted a name, as `udp`, or a number from 1 to 255".to_owned()),
        },
    })
}

/// `PID:FD`, as it is written to the module.
fn descriptor(text: &str) -> Result<String, String> {
    let wrong = "wanted PID:FD, as in `812:7`";
    let (pid, fd) = text.split_once(':').ok_or(wrong)?;
    let pid: u32 = pid.parse().map_err(|_| wrong)?;
    let fd: u32 = fd.parse().map_err(|_| wrong)?;
    Ok(format!("{pid}:{fd}"))
}

/// A cgroup's id, which is the inode of its directory.
fn cgroup(text: &str) -> Result<u64, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match fs::metadata(text) {
        Ok(found) if found.is_dir() => Ok(found.ino()),
        Ok(_) => Err("not a directory".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum EventSource {
    /// A process made another
    Fork,
    /// A process began another program
    Exec,
    /// A process ended
    Exit,
    /// A TCP socket went to another state
    TcpState,
    /// A TCP connection was reset, by either end
    Reset,
    /// A packet was thrown away
    Drop,
    /// shutdown() was called
    Shutdown,
    /// A process gave up a descriptor of a socket
    Close,
    /// The last reference to a socket is gone
    Release,
    /// A packet came by a point of its way
    Packet,
}

/// `ravel watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Only packets of this process' sockets
    #[arg(long, conflicts_with = "socket")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pid: Option<u32>,
    #[command(flatten)]
    pub only: Only,
    /// Only packets that are dropped, each with all of its way
    #[arg(long)]
    pub dropped: bool,
    /// End once that many packets have ended, in place of going on for ever
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Memory for what is not yet printed
    #[arg(long, default_value_t = 8 << 20, value_parser = clap::value_parser!(u64).range(16_384..=67_108_864))]
    pub bytes: u64,
    /// Print each crossing as a JSON document on a line of its own
    #[arg(long)]
    pub json: bool,
    /// Write the crossings to a capture file (pcapng), with the offsets in comments, and print nothing else
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

/// `ravel events read`.
#[derive(Debug, Args)]
pub struct Read {
    /// The stream
    pub stream: String,
    #[command(flatten)]
    pub reading: Reading,
}

/// How a stream is read.
#[derive(Debug, Args)]
pub struct Reading {
    /// Print each record as a JSON document on a line of its own
    #[arg(long)]
    pub json: bool,
    /// Write the records to files in this folder, in place of printing them
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub spool: Option<PathBuf>,
    /// End after that many records, in place of reading for ever
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End when nothing is ready
    #[arg(long)]
    pub no_wait: bool,
    /// Seconds to be done with a batch in, before another reader gets it
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub lease: u32,
}

/// `ravel events failed`.
#[derive(Debug, Args)]
pub struct Failed {
    /// The stream
    pub stream: String,
    /// Print one JSON document, with the keys of the format
    #[arg(long, conflicts_with_all = ["replay", "clear"])]
    pub json: bool,
    /// Have it handed out again, as if it were new
    #[arg(long, conflicts_with = "clear")]
    pub replay: bool,
    /// Forget it
    #[arg(long)]
    pub clear: bool,
    /// Do so with the record of this number, not with all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seq: Option<u64>,
}
