//! Commands on memory and on the processes that share it.

use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;
use ravel_records::{AnonVmaReport, CowReport, Error, PageReport, ReportName, Tree};

use crate::cli::{self, Cli};
use crate::command::{Context, Failure, Show, saved};
use crate::cost::{self, Cost};
use crate::family::Family;
use crate::screen::Screen;
use crate::{graph, output, shared, view};

/// Implements what is the same for all reports with a `source`.
macro_rules! from_source {
    () => {
        fn json(&self) -> bool {
            self.source.json
        }

        fn live(&self) -> bool {
            self.source.from.is_none()
        }
    };
}
pub(super) use from_source;

impl Show for cli::Anon {
    type Model = AnonVmaReport;
    from_source!();

    fn model(&self, context: &Context) -> Result<AnonVmaReport, Failure> {
        let text = context.report(ReportName::AnonVma, &self.source)?;
        Ok(AnonVmaReport::parse(&text)?)
    }

    fn text(&self, report: &AnonVmaReport, screen: &Screen) -> Result<String, Failure> {
        view::anon::draw(report, self, screen)
    }

    fn wide(&self) -> bool {
        self.rows.wide
    }
}

impl Show for cli::Cow {
    type Model = shared::Report;
    from_source!();

    fn model(&self, context: &Context) -> Result<shared::Report, Failure> {
        match (self.source.pid, &self.source.from) {
            (Some(pid), None) => shared::Report::ask(&context.client, pid),
            (_, from) => Ok(shared::Report {
                cow: CowReport::parse(&saved(from.as_deref())?)?,
                kin: None,
            }),
        }
    }

    fn text(&self, report: &shared::Report, screen: &Screen) -> Result<String, Failure> {
        view::cow::draw(report, self, screen)
    }

    fn wide(&self) -> bool {
        self.rows.wide
    }
}

impl Show for cli::Page {
    type Model = PageReport;
    from_source!();

    fn model(&self, context: &Context) -> Result<PageReport, Failure> {
        let usage = |reason| Cli::command().error(ErrorKind::ValueValidation, reason);
        let range = self.range().unwrap_or_else(|reason| usage(reason).exit());
        let text = match (self.source.pid, range) {
            (Some(pid), Some(range)) => {
                context.client.query_range(&ReportName::Page, pid, range)?
            }
            _ => context.report(ReportName::Page, &self.source)?,
        };
        Ok(PageReport::parse(&text)?)
    }

    fn text(&self, report: &PageReport, screen: &Screen) -> Result<String, Failure> {
        let options = view::page::Options {
            all: self.all,
            ids: self.ids,
        };
        Ok(view::page::draw(report, &options, screen))
    }
}

impl Show for cli::Tree {
    type Model = Tree;
    from_source!();

    fn model(&self, context: &Context) -> Result<Tree, Failure> {
        let Some(pid) = self.source.pid.filter(|_| self.source.from.is_none()) else {
            return Ok(Tree::parse(&saved(self.source.from.as_deref())?)?);
        };
        let client = &context.client;
        let (anon, cow) = (client.anon_vma(pid)?, client.cow(pid)?);
        Ok(Tree::join(client.lineage(pid)?, &anon, &cow)?)
    }

    fn text(&self, tree: &Tree, screen: &Screen) -> Result<String, Failure> {
        Ok(view::tree::draw(tree, self.all, screen))
    }
}

impl Show for cli::Cost {
    type Model = Cost;
    from_source!();

    fn model(&self, context: &Context) -> Result<Cost, Failure> {
        let family = family(context, self.source.pid, self.source.from.as_deref())?;
        cost::compute(&family).ok_or_else(|| Error::Cut { lines: 0 }.into())
    }

    fn text(&self, cost: &Cost, screen: &Screen) -> Result<String, Failure> {
        Ok(view::cost::draw(cost, self.all, screen))
    }
}

/// The reports `chains` of a process and of those that may share memory with it: saved ones in one text, or the module's
/// current answers.
fn family(
    context: &Context,
    pid: Option<u32>,
    from: Option<&std::path::Path>,
) -> Result<Family, Failure> {
    match (pid, from) {
        (Some(pid), _) => Family::ask(&context.client, pid),
        (None, from) => Ok(Family::parse(&saved(from)?)?),
    }
}

/// Draws a family into a file, and reports in one line what is there.
pub fn graph(context: &Context, args: &cli::Graph) -> Result<ExitCode, Failure> {
    let family = family(context, args.pid, args.from.as_deref())?;
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
    let path = &args.output.path;
    let shown = path.display().to_string();
    output::create_private(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| Failure::File(shown.clone(), error))?;
    let shown = ravel_records::visible(&shown);
    output::print(&format!("{shown}: {}\n", graph.title))?;
    Ok(ExitCode::SUCCESS)
}
