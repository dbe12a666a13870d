//! `ravel`: shows what the ravel kernel module reads of a process, to people and as JSON.

mod cli;
mod connections;
mod cost;
mod doctor;
mod epoll;
mod events;
mod family;
mod forward;
mod graph;
mod jobs;
mod machine;
mod origin;
mod packet;
mod queue;
mod remedy;
mod screen;
mod spool;
mod stop;
mod stuck;
mod sweep;
mod view;
mod watch;
mod who;
mod work;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use ravel_records::client::Client;
use ravel_records::{
    AnonVmaReport, CowReport, Error, FORMAT, PageReport, ReportName, SharersReport, SkbsReport,
    SocketsReport, Tree, WaitersReport,
};
use serde::Serialize;

use cli::{Cli, Command, Page, Source};
use family::Family;
use machine::Machine;
use screen::Screen;
use sweep::Sweep;

/// Why there is nothing to show.
enum Failure {
    /// The module, or the text read, gave no report.
    Report(Error),
    /// What is said with what mends it: a stream, a spool or a queue is not as it should be.
    Events(remedy::Remedy),
    /// A saved report could not be read.
    Input(String, io::Error),
    /// The output could not be written.
    Output(io::Error),
    /// A family is asked for from a pid namespace where its numbers mean nothing.
    Namespace,
    /// The process has no memory of its own at this address.
    NoMapping(u64),
    /// Nobody has such a socket.
    NoSocket(u64),
    /// A descriptor is no socket.
    NoDescriptor(u32),
    /// No queue has such an sk_buff.
    NoPacket(u64),
    /// A drawing could not be written.
    File(String, io::Error),
}

impl From<family::Failure> for Failure {
    fn from(failure: family::Failure) -> Self {
        match failure {
            family::Failure::Report(error) => Self::Report(error),
            family::Failure::Namespace => Self::Namespace,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Report(error)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.write_global();
    let failure = match run(cli) {
        Ok(code) => return code,
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(failure) => failure,
    };
    let text = match failure {
        Failure::Report(error) => remedy::explain(&error, &Machine::here()).to_string(),
        Failure::Events(remedy) => remedy.to_string(),
        Failure::Input(name, error) => format!("cannot read {name}: {error}"),
        Failure::Output(error) => format!("cannot write: {error}"),
        Failure::File(name, error) => format!("cannot write {name}: {error}"),
        Failure::NoMapping(address) => format!(
            "no mapping with an anon_vma holds address {address:x}\n  try: ravel anon, for those that there are"
        ),
        Failure::NoSocket(processes) => format!(
            "no process has such a socket: {} were asked\n  try: ss -a, for those that no process has",
            screen::count(processes, "process", "processes")
        ),
        Failure::NoDescriptor(fd) => {
            format!("descriptor {fd} is no socket\n  try: ravel sockets PID, for those that are")
        }
        Failure::NoPacket(processes) => format!(
            "no queue holds such an sk_buff now: {} were asked\n  try: ravel skbs PID --ids, for those that wait",
            screen::count(processes, "process", "processes")
        ),
        Failure::Namespace => {
            "reports name processes by their numbers in the initial pid namespace, \
             and this is another\n  try: the same command outside of the container"
                .to_owned()
        }
    };
    // Nobody is left to be told where even stderr is closed.
    let _ = writeln!(anstream::stderr(), "ravel: {text}");
    ExitCode::FAILURE
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let screen = Screen::of_stdout();
    let client = Client::from_env();
    let command = match cli.command {
        Some(command) if !cli.version => command,
        _ => Command::Version,
    };
    match command {
        Command::Anon(args) => {
            let report = AnonVmaReport::parse(&text(&client, ReportName::AnonVma, &args.source)?)?;
            if args.source.json {
                return json(&report);
            }
            let options = view::anon::Options {
                all: args.all,
                ids: args.ids,
            };
            print(&view::anon::draw(&report, &options, &screen))?;
        }
        Command::Sockets(args) if args.waiters => {
            let report = WaitersReport::parse(&text(&client, ReportName::Waiters, &args.source)?)?;
            let sets = args.source.pid.map(|_| watches(&report));
            let waited = view::waiters::Waited::new(report, sets);
            if args.source.json {
                return json(&waited);
            }
            print(&waited.draw())?;
        }
        Command::Sockets(args) => {
            let text = text(&client, ReportName::Sockets, &args.source)?;
            let report = SocketsReport::parse(&text)?;
            match (args.source.json, args.why) {
                (true, true) => return json(&view::why::Explained::of(&report)),
                (true, false) => return json(&report),
                (false, true) => print(&view::why::draw(&report))?,
                (false, false) => print(&view::sockets::draw(&report, &screen))?,
            }
        }
        Command::Skbs(args) => {
            let mut report = SkbsReport::parse(&text(&client, ReportName::Skbs, &args.source)?)?;
            if let Some(fd) = args.fd {
                report = report.only(fd).ok_or(Failure::NoDescriptor(fd))?;
            }
            if args.source.json {
                return json(&report);
            }
            let options = view::skbs::Options {
                raw: args.raw,
                ids: args.ids,
            };
            print(&view::skbs::draw(&report, &options, &screen))?;
        }
        Command::Skb(args) => {
            let (found, asked) = match &args.from {
                Some(_) => {
                    let report = SkbsReport::parse(&named(args.from.as_deref())?)?;
                    let mut found = None;
                    packet::look(args.id, &report, &mut found);
                    (found, 1)
                }
                None => packet::find(args.id, args.pid, &client)?,
            };
            let found = found.ok_or(Failure::NoPacket(asked))?;
            if args.json {
                return json(&found);
            }
            print(&view::skb::draw(&found, args.draw, &screen))?;
        }
        Command::Page(args) => {
            let report = PageReport::parse(&page_text(&client, &args)?)?;
            if args.source.json {
                return json(&report);
            }
            let options = view::page::Options {
                all: args.all,
                ids: args.ids,
            };
            print(&view::page::draw(&report, &options, &screen))?;
        }
        Command::Cow(args) => {
            let report = CowReport::parse(&text(&client, ReportName::Cow, &args.source)?)?;
            if args.source.json {
                return json(&report);
            }
            print(&view::cow::draw(&report, args.all, &screen))?;
        }
        Command::Tree(args) => {
            let tree = tree(&client, &args.source)?;
            if args.source.json {
                return json(&tree);
            }
            print(&view::tree::draw(&tree, args.all, &screen))?;
        }
        Command::Cost(args) => {
            let Source { pid, from, .. } = &args.source;
            let family = family(&client, *pid, from.as_deref())?;
            let Some(cost) = cost::compute(&family) else {
                return Err(Error::Cut { lines: 0 }.into());
            };
            if args.source.json {
                return json(&cost);
            }
            print(&view::cost::draw(&cost, args.all, &screen))?;
        }
        Command::Events(command) => events::run(&command, &client)?,
        Command::Forward(args) => stop::undisturbed(|| forward::run(&args, &client))?,
        Command::Work(args) => stop::undisturbed(|| work::run(&args))?,
        Command::Jobs(args) => jobs::run(&args)?,
        Command::GuardJobs => work::guard::run().map_err(Failure::Output)?,
        Command::Watch(args) => watch::run(&args, &client)?,
        Command::Graph(args) => graph(&client, &args)?,
        Command::Sharers(args) => {
            let text = match (args.source.pid, args.fd) {
                (Some(pid), Some(fd)) => client.query_descriptor(pid, fd)?,
                _ => text(&client, ReportName::Sharers, &args.source)?,
            };
            let report = SharersReport::parse(&text)?;
            if args.source.json {
                return json(&report);
            }
            print(&view::sharers::draw(&report, &screen))?;
        }
        Command::Who(args) => {
            let (sweep, client) = match &args.from {
                Some(_) => (Sweep::parse(&named(args.from.as_deref())?)?, None),
                None => (Sweep::ask(&client)?, Some(&client)),
            };
            let answer = who::look(&args.socket, &sweep, client)?;
            if answer.sockets.is_empty() {
                return Err(Failure::NoSocket(sweep.processes));
            }
            if args.json {
                return json(&answer);
            }
            print(&view::who::draw(&args.socket.to_string(), &answer))?;
        }
        Command::Stuck(args) => loop {
            let answer = stuck(&client, &args)?;
            if args.json {
                json(&view::stuck::Explained::of(&answer))?;
            } else {
                let anew = args.watch.map_or("", |_| screen::anew());
                let shown = view::stuck::draw(&answer, args.all);
                print(&format!("{anew}{shown}"))?;
            }
            match args.watch {
                Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
                None => break,
            }
        },
        Command::Doctor => {
            let items = doctor::examine(&Machine::here(), &client);
            print(&doctor::draw(&items))?;
            if items.iter().any(doctor::Item::is_missing) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Version => return version(&client),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ravel", &mut script);
            write(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A report to be parsed: a saved text, or what the module answers now.
fn text(client: &Client, report: ReportName, source: &Source) -> Result<Vec<u8>, Failure> {
    match (&source.from, source.pid) {
        (None, Some(pid)) => Ok(client.records(&report, pid)?),
        (from, _) => named(from.as_deref()),
    }
}

/// The text of a saved report.
fn named(from: Option<&Path>) -> Result<Vec<u8>, Failure> {
    // clap asks for a file or a PID.
    let Some(path) = from else {
        return Err(Failure::Input(
            "a report".to_owned(),
            io::Error::other("neither a PID nor a file is named"),
        ));
    };
    saved(path).map_err(|error| Failure::Input(path.display().to_string(), error))
}

/// The reports `chains` of a process and of those that may share memory with it: saved ones, one behind
/// the other, or what the module answers now.
fn family(client: &Client, pid: Option<u32>, from: Option<&Path>) -> Result<Family, Failure> {
    match (pid, from) {
        (Some(pid), _) => Ok(Family::ask(client, pid)?),
        (None, from) => Ok(Family::parse(&named(from)?)?),
    }
}

/// Draws a family into a file, and says in one line what is there.
fn graph(client: &Client, args: &cli::Graph) -> Result<(), Failure> {
    let family = family(client, args.pid, args.from.as_deref())?;
    let options = graph::Options {
        all: args.all,
        at: args.at,
    };
    let Some(graph) = graph::draw(&family, &options) else {
        return Err(Failure::NoMapping(args.at.unwrap_or(0)));
    };
    let text = match args.output.dot {
        true => graph::dot::write(&graph),
        false => graph::svg::write(&graph),
    };
    let shown = args.output.path.display().to_string();
    fs::write(&args.output.path, text).map_err(|error| Failure::File(shown.clone(), error))?;
    print(&format!("{shown}: {}\n", graph.title))
}

/// What is stuck on the machine now, or was when the reports were saved.
fn stuck(client: &Client, args: &cli::Stuck) -> Result<stuck::Answer, Failure> {
    if args.from.is_some() {
        let sweep = Sweep::parse(&named(args.from.as_deref())?)?;
        return Ok(stuck::find(&sweep, &[], None)?);
    }
    let mut answer = stuck::ask(client)?;
    if let Some(seconds) = args.over {
        std::thread::sleep(Duration::from_secs(seconds));
        let earlier = std::mem::replace(&mut answer, stuck::ask(client)?);
        answer.keep_still(&earlier);
    }
    Ok(answer)
}

/// The text of a report `page`, likewise.
fn page_text(client: &Client, args: &Page) -> Result<Vec<u8>, Failure> {
    let usage = |reason| Cli::command().error(ErrorKind::ValueValidation, reason);
    let range = args.range().unwrap_or_else(|reason| usage(reason).exit());
    match (args.source.pid, range) {
        (Some(pid), Some(range)) => Ok(client.query_range(&ReportName::Page, pid, range)?),
        _ => text(client, ReportName::Page, &args.source),
    }
}

/// The epoll sets that watch the sockets of a report.
fn watches(report: &WaitersReport) -> Vec<epoll::Watch> {
    let proc = epoll::Proc::default();
    let sockets = || report.sockets.iter().map(|of| &of.socket);
    // All sockets are of one file system.
    let device = sockets().find_map(|socket| proc.device(report.header.pid, socket.fd));
    let inodes = sockets().map(|socket| socket.inode).collect();
    match device {
        Some(device) => proc.watches(&epoll::Wanted { device, inodes }),
        None => Vec::new(),
    }
}

/// The three reports that a tree is made of: saved ones in one text, or what the module answers now.
fn tree(client: &Client, source: &Source) -> Result<Tree, Failure> {
    let Some(pid) = source.pid.filter(|_| source.from.is_none()) else {
        return Ok(Tree::parse(&named(source.from.as_deref())?)?);
    };
    let mut all = Vec::new();
    for report in [ReportName::Lineage, ReportName::AnonVma, ReportName::Cow] {
        all.extend(client.query(&report, pid)?);
    }
    Ok(Tree::parse(&all)?)
}

fn saved(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text)?;
        return Ok(text);
    }
    fs::read(path)
}

/// This program's version, and the module's where it is loaded.
fn version(client: &Client) -> Result<ExitCode, Failure> {
    let cli = env!("CARGO_PKG_VERSION");
    let module = match client.version() {
        Ok(version) => format!(
            "{}, report format {}, on Linux {}",
            screen::plain(&version.module),
            version.format,
            screen::plain(&version.kernel)
        ),
        Err(error) => format!(
            "unknown: {}",
            remedy::explain(&error, &Machine::here()).sentence
        ),
    };
    print(&format!(
        "ravel {cli}, report format {FORMAT}\nmodule {module}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn json(report: &impl Serialize) -> Result<ExitCode, Failure> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| Failure::Output(io::Error::other(error)))?;
    text.push('\n');
    write(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes text with colours, or without, as stdout wants it.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Whether stdout wants colours.
fn has_colours() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Writes bytes as they are.
fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}
