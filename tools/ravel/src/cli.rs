//! The command line. `ravel.1` describes the same options, and a test compares the two.

mod rows;
mod streams;

use std::ops::Range;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ravel_common::queue_cli::{Forward, Jobs, Work};
use ravel_records::Id;

use crate::who::Wanted;
pub use rows::*;
pub use streams::*;

/// Shows the anon_vma chains, pages, sockets and sk_buffs of a process, as the ravel kernel module
/// reads them.
#[derive(Debug, Parser)]
#[command(name = "ravel", arg_required_else_help = true)]
#[command(disable_version_flag = true)]
#[command(after_help = "Reports need root and the module: `ravel doctor` says what is missing.")]
pub struct Cli {
    /// Print the versions of this program and of the module
    #[arg(short = 'V', long)]
    pub version: bool,
    /// Do not load the kernel module; by default, root loads the installed one when it is needed
    #[arg(long, global = true)]
    pub no_load: bool,
    #[command(flatten)]
    pub color: colorchoice_clap::Color,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show which VMAs share anonymous memory: anon_vma chains and their members
    Anon(Anon),
    /// Show the state of the sockets among the descriptors
    Sockets(Sockets),
    /// Show the sk_buffs in the sockets' queues, with their header offsets
    Skbs(Skbs),
    /// Show one sk_buff: its fields, its headers, and its buffer to scale
    Skb(Skb),
    /// Show the pages at some addresses, and who else maps each
    Page(Page),
    /// Show how much of the private memory is shared, and with whom
    Cow(Cow),
    /// Show the processes above and below, and what each still shares since fork
    Tree(Tree),
    /// Show what one reverse-mapping walk costs, now and under the designs before
    Cost(Cost),
    /// Make streams of what happens to processes, and read them
    Events(EventsArgs),
    /// Push a stream's events to a queue in Redis or Valkey, as jobs
    Forward(Forward),
    /// Run a command for each job of a queue in Redis or Valkey
    Work(Work),
    /// List the jobs of a queue by their states, and retry or forget those that failed
    Jobs(Jobs),
    /// Follow packets through the stack, point by point, with their header offsets
    Watch(Watch),
    /// Draw the VMAs, anon_vmas and links of a process and its relatives
    Graph(Graph),
    /// Show the holders of an open file: only the last close() ends it
    Sharers(Sharers),
    /// Show the processes that hold a socket, anywhere on the machine, and those that hold its other end
    Who(Who),
    /// List the connections that are half closed or do not end, worst first, with the processes responsible
    Stuck(Stuck),
    /// Check everything that ravel needs on this machine, and name what mends it
    Doctor(Doctor),
    /// Print the versions of this program and of the module
    Version,
    /// Print the JSON Schema of all records
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Where a report comes from, and in which form it goes out.
#[derive(Debug, Args)]
pub struct Source {
    /// Process to show, by its number in this pid namespace; a thread's names its process
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub pid: Option<u32>,
    /// Show a report that was saved from the module's files instead, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print one JSON document, with the keys of the report format
    #[arg(long)]
    pub json: bool,
}

/// `ravel anon`.
#[derive(Debug, Args)]
pub struct Anon {
    #[command(flatten)]
    pub source: Source,
    /// Show the chain of each mapping, and the members of each anon_vma
    #[arg(long)]
    pub vmas: bool,
    /// The same, with the module's ids beside the short labels
    #[arg(long)]
    pub ids: bool,
    #[command(flatten)]
    pub rows: Rows,
}

/// `ravel sockets`.
#[derive(Debug, Args)]
pub struct Sockets {
    #[command(flatten)]
    pub source: Source,
    /// Say what close() and shutdown() would do now, and what the peer would see
    #[arg(long)]
    pub why: bool,
    /// Show the waiters on each socket: blocked, poll, epoll, io_uring, signals
    #[arg(long, conflicts_with = "why")]
    pub waiters: bool,
    #[command(flatten)]
    pub only: Filter,
    #[command(flatten)]
    pub rows: Rows,
}

/// `ravel skbs`.
#[derive(Debug, Args)]
pub struct Skbs {
    #[command(flatten)]
    pub source: Source,
    /// Show the socket of this descriptor alone
    #[arg(value_name = "FD", conflicts_with = "from")]
    pub fd: Option<u32>,
    /// Show the raw values of unset offsets, too
    #[arg(long)]
    pub raw: bool,
    /// Show the ids, which `ravel skb` takes
    #[arg(long)]
    pub ids: bool,
}

/// `ravel skb`.
#[derive(Debug, Args)]
pub struct Skb {
    /// The sk_buff's id: 16 hexadecimal digits, as `ravel skbs --ids` shows
    #[arg(value_parser = id)]
    pub id: Id,
    /// Draw its buffer to scale, with every pointer at its place
    #[arg(long)]
    pub draw: bool,
    /// Look in the queues of this process alone
    #[arg(long, value_name = "PID", conflicts_with = "from")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pid: Option<u32>,
    /// Look in a report `skbs` that was saved, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print one JSON document, with the keys of the report format
    #[arg(long)]
    pub json: bool,
}

fn id(text: &str) -> Result<Id, String> {
    text.parse()
        .map_err(|_| "not 16 hexadecimal digits".to_owned())
}

/// `ravel sharers`.
#[derive(Debug, Args)]
pub struct Sharers {
    #[command(flatten)]
    pub source: Source,
    /// The process' descriptor
    #[arg(
        value_name = "FD",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    pub fd: Option<u32>,
}

/// `ravel who`.
#[derive(Debug, Args)]
pub struct Who {
    /// PORT, HOST:PORT, inode:NUMBER, a unix socket's path, or @NAME; PORT may be a service, and end in /tcp or /udp
    #[arg(value_name = "SOCKET")]
    #[arg(value_parser = OsStringValueParser::new().try_map(|word| Wanted::parse(&word)))]
    pub socket: Wanted,
    /// Search saved reports `sockets`, one after the other in a file, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print one JSON document, with the keys of the report format
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub rows: Rows,
}

/// `ravel doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Exit with status 4 if something is missing
    #[arg(long)]
    pub exit_code: bool,
}

/// `ravel stuck`.
#[derive(Debug, Args)]
pub struct Stuck {
    /// Explain each connection, or the one with this inode
    #[arg(long, value_name = "INODE", num_args = 0..=1, default_missing_value = "0")]
    pub why: Option<u64>,
    /// Exit with status 4 if something is stuck
    #[arg(long, conflicts_with = "watch")]
    pub exit_code: bool,
    #[command(flatten)]
    pub only: HolderFilter,
    #[command(flatten)]
    pub rows: Rows,
    /// Look twice, so many seconds apart, and show what stood still in between
    #[arg(long, value_name = "SECONDS", conflicts_with = "from")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub over: Option<u64>,
    /// Repeat every so many seconds, by default 2; JSON documents have a line each
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    #[arg(conflicts_with_all = ["from", "over"])]
    pub watch: Option<u64>,
    /// Search saved reports `sockets`, one after the other in a file, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print one JSON document, with the keys of the report format
    #[arg(long)]
    pub json: bool,
}

/// `ravel page`.
#[derive(Debug, Args)]
pub struct Page {
    #[command(flatten)]
    pub source: Source,
    /// Address, in hexadecimal, with or without 0x; or START-END, as in /proc/PID/maps
    #[arg(value_name = "ADDR", value_parser = addresses)]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub address: Option<Addresses>,
    /// The first address that is not asked for; without it, one page is shown
    #[arg(value_parser = address, requires = "address")]
    pub end: Option<u64>,
    /// Show every page on a line of its own, and each of its mappers
    #[arg(long)]
    pub all: bool,
    /// Show the module's ids of anon_vmas and files
    #[arg(long)]
    pub ids: bool,
}

/// `ravel cow`.
#[derive(Debug, Args)]
pub struct Cow {
    #[command(flatten)]
    pub source: Source,
    /// Show each mapping with the processes that share it
    #[arg(long)]
    pub vmas: bool,
    #[command(flatten)]
    pub rows: Rows,
}

/// `ravel tree`.
#[derive(Debug, Args)]
pub struct Tree {
    #[command(flatten)]
    pub source: Source,
    /// Show every child of each process, and every thread, not the first 8
    #[arg(long)]
    pub all: bool,
}

/// `ravel cost`.
#[derive(Debug, Args)]
pub struct Cost {
    #[command(flatten)]
    pub source: Source,
    /// Show every family of VMAs, not the largest 8
    #[arg(long)]
    pub all: bool,
}

/// `ravel graph`.
#[derive(Debug, Args)]
pub struct Graph {
    /// Process whose family is drawn, by its number in this pid namespace
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub pid: Option<u32>,
    /// Draw reports `chains` that were saved, one behind the other, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// File to write: a picture if its name ends in .svg, input for Graphviz if in .dot
    #[arg(short, long, value_name = "FILE", value_parser = drawing)]
    pub output: Drawing,
    /// Draw only the memory that this address of the process is in
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub at: Option<u64>,
    /// Draw each on its own, also those that look the same
    #[arg(long)]
    pub all: bool,
}

/// A file for a drawing.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is for Graphviz.
    pub dot: bool,
}

fn drawing(path: &str) -> Result<Drawing, String> {
    let path = PathBuf::from(path);
    let ending = path.extension().and_then(|ending| ending.to_str());
    let dot = match ending {
        Some("svg") => false,
        Some("dot") => true,
        _ => return Err("its name ends neither in .svg nor in .dot".to_owned()),
    };
    Ok(Drawing { path, dot })
}

/// What was asked for by one word: an address, or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The first.
    pub start: u64,
    /// The first behind it, where the word names it.
    pub end: Option<u64>,
}

impl Page {
    /// The addresses to ask for.
    pub fn range(&self) -> Result<Option<Range<u64>>, &'static str> {
        let Some(Addresses { start, end }) = self.address else {
            return Ok(None);
        };
        let end = match (end, self.end) {
            (Some(_), Some(_)) => return Err("the end is named twice"),
            (end, None) | (None, end) => end.unwrap_or(start + 1),
        };
        if start >= end {
            return Err("the range is empty: its end is not behind its start");
        }
        Ok(Some(start..end))
    }
}

/// Bits of an address that user space can have.
const ADDRESS_BITS: u32 = 57;

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // from_str_radix() takes a sign, too.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = u64::from_str_radix(digits, 16).ok().filter(|_| plain);
    let address = address.ok_or("not a hexadecimal number")?;
    if address >> ADDRESS_BITS != 0 {
        return Err("not an address that a process can have".to_owned());
    }
    Ok(address)
}

fn addresses(text: &str) -> Result<Addresses, String> {
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (start, Some(address(end)?)),
        None => (text, None),
    };
    let start = address(start)?;
    Ok(Addresses { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_in_any_form() {
        let of = |words: &[&str]| {
            let words = [&["ravel", "page", "7"], words].concat();
            let Some(Command::Page(page)) = Cli::try_parse_from(words).ok()?.command else {
                return None;
            };
            page.range().ok().flatten()
        };
        for words in [
            &["7f00-7f10"][..],
            &["0x7f00-0x7f10"],
            &["7F00", "0x7f10"],
            &["0x7f00", "7f10"],
        ] {
            assert_eq!(of(words), Some(0x7f00..0x7f10), "{words:?}");
        }
        assert_eq!(of(&["0"]), Some(0..1));
        assert_eq!(of(&["1ffffffffffffff"]), Some((1 << 57) - 1..1 << 57));
        for words in [
            &["7f00-7f10", "7f20"][..],
            &["7f10-7f00"],
            &["7f00", "7f00"],
            &["200000000000000"],
            &["-1"],
            &["+1"],
            &["7g"],
            &[""],
            &["0x"],
            &["1-"],
            &["1-2-3"],
            &[],
        ] {
            assert_eq!(of(words), None, "{words:?}");
        }
    }

    #[test]
    fn the_manual_names_everything() {
        let page = include_str!("../ravel.1");
        let manual = page.replace("\\-", "-");
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let name = command.get_name();
            if name != "ravel" {
                assert!(manual.contains(&format!(".It Cm {name}")), "{name}");
            }
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long().filter(|long| *long != "help") {
                    assert!(manual.contains(&format!("Fl -{long}")), "{name} --{long}");
                }
            }
            let shown = command.get_subcommands().filter(|of| !of.is_hide_set());
            commands.extend(shown.cloned());
        }
        for line in page.lines().filter(|line| line.starts_with(".It Cm ")) {
            let name = line[".It Cm ".len()..].split(' ').next();
            let name = name.unwrap_or_default();
            let cli = Cli::command();
            let known = |command: &clap::Command| command.find_subcommand(name).is_some();
            assert!(known(&cli) || cli.get_subcommands().any(known), "{name}");
        }
    }

    #[test]
    fn the_manual_s_lists_are_closed() {
        let page = include_str!("../ravel.1");
        let mut depth = 0;
        let mut at_top = Vec::new();
        for (number, line) in page.lines().enumerate() {
            match line.split(' ').next() {
                Some(".Bl") => depth += 1,
                Some(".El") => depth -= 1,
                Some(".Sh") => assert_eq!(depth, 0, "before line {}: {line}", number + 1),
                _ => {}
            }
            assert!(depth >= 0, "line {}: {line}", number + 1);
            if let (1, Some(rest)) = (depth, line.strip_prefix(".It Cm ")) {
                at_top.push(rest.split(' ').next().unwrap_or_default().to_owned());
            }
        }
        let (synopsis, _) = page.split_once(".Sh DESCRIPTION").unwrap();
        for command in Cli::command()
            .get_subcommands()
            .filter(|of| !of.is_hide_set())
        {
            let name = command.get_name();
            assert!(
                at_top.iter().any(|top| top == name),
                "{name} is not in the list of commands"
            );
            assert!(
                synopsis.contains(&format!(".Cm {name}")),
                "{name} is not in the synopsis"
            );
        }
    }
}
