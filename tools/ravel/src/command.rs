//! What all commands that show one answer have in common: they get a model, and show it as text or as JSON.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use ravel_records::client::Client;
use ravel_records::{Error, ReportName};
use serde::Serialize;

use crate::cli::Source;
use crate::machine::Machine;
use crate::remedy::{self, Remedy};
use crate::screen::{Screen, count};
use crate::view::listing::fold;
use crate::who::Missing;
use crate::{output, screen};

/// The exit status where the command line is wrong, as clap has it.
const USAGE: u8 = 2;
/// The exit status where something was not found.
const NOT_FOUND: u8 = 3;
/// The exit status where `--exit-code` reports findings.
pub const FINDINGS: u8 = 4;

/// Where commands get their answers from, and where they show them.
pub struct Context {
    /// The module.
    pub client: Client,
    /// Standard output.
    pub screen: Screen,
}

/// A command that shows one answer.
pub trait Show {
    /// The answer, as JSON has it.
    type Model: Serialize;

    /// Whether the answer is printed as JSON.
    fn json(&self) -> bool;

    /// Whether the answer is from the module, rather than saved.
    fn live(&self) -> bool;

    /// Gets the answer.
    fn model(&self, context: &Context) -> Result<Self::Model, Failure>;

    /// The answer as text.
    fn text(&self, model: &Self::Model, screen: &Screen) -> Result<String, Failure>;

    /// Whether lines may be longer than the screen is wide.
    fn wide(&self) -> bool {
        false
    }

    /// The exit status once the answer is shown.
    fn status(&self, _model: &Self::Model) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl Context {
    /// Runs a command.
    pub fn show<C: Show>(&self, command: &C) -> Result<ExitCode, Failure> {
        let model = command.model(self)?;
        match command.json() {
            true => output::print_json(&model, command.live())?,
            false => output::print(&self.folded(command, &model)?)?,
        }
        Ok(command.status(&model))
    }

    /// The answer as text that fits the screen: no line is broken within a word.
    pub fn folded<C: Show>(&self, command: &C, model: &C::Model) -> Result<String, Failure> {
        let width = self.screen.width.filter(|_| !command.wide());
        Ok(fold(&command.text(model, &self.screen)?, width))
    }

    /// A report to be parsed: a saved text, or the module's current answer.
    pub fn report(&self, report: ReportName, source: &Source) -> Result<Vec<u8>, Failure> {
        match (&source.from, source.pid) {
            (None, Some(pid)) => Ok(self.client.records(&report, pid)?),
            (from, _) => saved(from.as_deref()),
        }
    }
}

/// The text of a saved report.
pub fn saved(from: Option<&Path>) -> Result<Vec<u8>, Failure> {
    // clap requires a file or a PID.
    let Some(path) = from else {
        return Err(Failure::Input(
            "a report".to_owned(),
            io::Error::other("neither a PID nor a file is named"),
        ));
    };
    let read = || {
        if path == Path::new("-") {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text)?;
            return Ok(text);
        }
        fs::read(path)
    };
    read().map_err(|error| Failure::Input(path.display().to_string(), error))
}

/// Why there is nothing to show.
#[derive(Debug)]
pub enum Failure {
    /// The module, or the text read, gave no report.
    Report(Error),
    /// The command line names something that there is not.
    Usage(String),
    /// A stream, a spool or a queue is not as it should be: an explanation with its remedy.
    Events(Remedy),
    /// A saved report could not be read.
    Input(String, io::Error),
    /// The output could not be written.
    Output(io::Error),
    /// /proc could not be read, so that no process is known.
    Proc(io::Error),
    /// Pids of reports have no meaning in this pid namespace.
    Namespace,
    /// The process has no memory of its own at this address.
    NoMapping(u64),
    /// There is no such socket, or none was found.
    NoSocket(Missing),
    /// The name of a host has no address.
    Resolve(String, io::Error),
    /// The network namespaces could not be asked.
    Network(io::Error),
    /// A descriptor is no socket.
    NoDescriptor(u32),
    /// No queue has such an sk_buff.
    NoPacket(Searched),
    /// A file could not be written.
    File(String, io::Error),
}

/// Where something was searched for in vain.
#[derive(Debug)]
pub struct Searched {
    /// Processes that were read.
    pub processes: u64,
    /// What could not be read, in sentences.
    pub unread: Vec<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Report(error)
    }
}

impl Failure {
    /// The exit status: 3 where something that the command line names does not exist, 1 for other errors.
    pub fn status(&self) -> ExitCode {
        let not_found = match self {
            Self::Report(error) => matches!(error.errno(), Some("ESRCH" | "EBADF")),
            Self::NoMapping(_) | Self::NoDescriptor(_) => true,
            // It may be where nobody could look.
            Self::NoSocket(missing) => missing.unread.is_empty(),
            Self::NoPacket(searched) => searched.unread.is_empty(),
            _ => false,
        };
        match not_found {
            _ if matches!(self, Self::Usage(_)) => ExitCode::from(USAGE),
            true => ExitCode::from(NOT_FOUND),
            false => ExitCode::FAILURE,
        }
    }

    /// Whether whoever read the output has seen enough.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What is wrong, and what to do about it.
    pub fn explain(&self) -> Remedy {
        let bare = |sentence| Remedy {
            sentence,
            mend: None,
        };
        match self {
            Self::Report(error) => remedy::explain(error, &Machine::here()),
            Self::Usage(sentence) => Remedy::new(sentence, "ravel COMMAND --help"),
            Self::Events(remedy) => Remedy {
                sentence: remedy.sentence.clone(),
                mend: remedy.mend.clone(),
            },
            Self::Input(name, error) => bare(format!(
                "cannot read {}: {error}",
                screen::plain(&name.as_str().into())
            )),
            Self::Output(error) => bare(format!("cannot write: {error}")),
            Self::File(name, error) => bare(format!(
                "cannot write {}: {error}",
                screen::plain(&name.as_str().into())
            )),
            Self::Proc(error) => Remedy::new(
                format!("cannot read the processes of this machine: {error}"),
                "sudo mount -t proc proc /proc",
            ),
            Self::NoMapping(address) => Remedy::new(
                format!("no mapping with an anon_vma contains address {address:x}"),
                "ravel anon PID --vmas, for those that there are",
            ),
            Self::NoSocket(missing) => missing.explain(),
            Self::Resolve(name, error) => bare(format!(
                "cannot resolve {}: {error}",
                screen::plain(&name.as_str().into())
            )),
            Self::Network(error) => bare(format!("cannot ask the network: {error}")),
            Self::NoDescriptor(fd) => Remedy::new(
                format!("descriptor {fd} is no socket"),
                "ravel sockets PID, for those that are",
            ),
            Self::NoPacket(searched) => searched.explain(
                "no queue holds such an sk_buff now",
                "ravel skbs PID --ids, for those that wait",
            ),
            Self::Namespace => Remedy::new(
                "reports name processes by their numbers in the initial pid namespace, and this is another",
                "the same command outside of the container",
            ),
        }
    }
}

impl Missing {
    fn explain(&self) -> Remedy {
        match self.unread.is_empty() {
            true => Remedy::new(&self.sentence, &self.mend),
            // It is not known that there is none.
            false => Remedy::new(
                format!(
                    "no such socket was found, but not everything could be read: {}",
                    self.unread.join(" ").trim_end_matches('.')
                ),
                &self.mend,
            ),
        }
    }
}

impl Searched {
    fn explain(&self, sentence: &str, mend: &str) -> Remedy {
        let mut text = format!(
            "{sentence}: {} searched",
            count(self.processes, "process", "processes")
        );
        for unread in &self.unread {
            text.push_str("; ");
            text.push_str(unread.trim_end_matches('.'));
        }
        Remedy::new(text, mend)
    }
}
