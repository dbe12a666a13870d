//! Commands on sockets and on what waits in their queues.

use std::process::ExitCode;
use std::time::Duration;

use ravel_records::{ReportName, SharersReport, SkbsReport, SocketsReport, WaitersReport};
use serde::Serialize;

use super::memory::from_source;
use crate::cli;
use crate::command::{Context, FINDINGS, Failure, Searched, Show, saved};
use crate::identity::Processes;
use crate::packet::{self, Found};
use crate::proc::{Proc, Unread};
use crate::screen::Screen;
use crate::sweep::Sweep;
use crate::who::{Answer, Missing};
use crate::{epoll, output, screen, stuck, sweep, view, who};

/// An answer of `ravel sockets`, with the processes that it names.
#[derive(Serialize)]
pub struct Sockets {
    #[serde(flatten)]
    answer: Answered,
    /// Null where a saved report is shown: /proc has what is now.
    processes: Option<Processes>,
}

/// The answers of `ravel sockets`.
#[derive(Serialize)]
#[serde(untagged)]
enum Answered {
    /// Their state.
    State(SocketsReport),
    /// What close() and shutdown() would do.
    Why(view::why::Explained),
    /// Who waits.
    Waiters(view::waiters::Waited),
}

impl Answered {
    /// The processes that are named.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::State(report) => vec![report.header.pid],
            Self::Why(explained) => vec![explained.report().header.pid],
            Self::Waiters(waited) => waited.pids(),
        }
    }
}

impl Show for cli::Sockets {
    type Model = Sockets;
    from_source!();

    fn model(&self, context: &Context) -> Result<Sockets, Failure> {
        let answer = self.answer(context)?;
        let live = self.source.pid.is_some();
        let processes = live.then(|| Processes::read(&Proc::default(), answer.pids()));
        Ok(Sockets { answer, processes })
    }

    fn text(&self, model: &Sockets, screen: &Screen) -> Result<String, Failure> {
        let processes = model.processes.as_ref();
        let wide = Screen { width: None };
        let screen = if self.wide() { &wide } else { screen };
        match &model.answer {
            Answered::State(report) => view::sockets::draw(report, processes, self, screen),
            Answered::Why(explained) => Ok(view::why::draw(explained.report(), processes, screen)),
            Answered::Waiters(waited) => Ok(waited.draw(self.rows.all, processes, screen)),
        }
    }

    fn wide(&self) -> bool {
        self.rows.wide
    }
}

impl cli::Sockets {
    fn answer(&self, context: &Context) -> Result<Answered, Failure> {
        if self.waiters {
            let text = context.report(ReportName::Waiters, &self.source)?;
            let report = WaitersReport::parse(&text)?;
            let sets = self.source.pid.map(|_| sets(&report)).transpose()?;
            return Ok(Answered::Waiters(view::waiters::Waited::new(report, sets)));
        }
        let mut report = match self.source.pid {
            Some(pid) => sweep::settled(&context.client, pid)?,
            None => SocketsReport::parse(&context.report(ReportName::Sockets, &self.source)?)?,
        };
        report.sockets.retain(|socket| self.only.has(socket));
        Ok(match self.why {
            true => Answered::Why(view::why::Explained::of(report)),
            false => Answered::State(report),
        })
    }
}

/// The epoll sets that watch the sockets of a report.
fn sets(report: &WaitersReport) -> Result<view::waiters::Sets, Failure> {
    let proc = Proc::default();
    let sockets = || report.sockets.iter().map(|of| &of.socket);
    // All sockets are of one file system.
    let device = sockets().find_map(|socket| proc.device(report.header.pid, socket.fd).ok());
    let inodes = sockets().map(|socket| socket.inode).collect();
    let mut unread = Unread::default();
    let watches = match device {
        Some(device) => {
            let wanted = epoll::Wanted { device, inodes };
            epoll::watches(&proc, &wanted, &mut unread).map_err(Failure::Proc)?
        }
        None => Vec::new(),
    };
    Ok(view::waiters::Sets { watches, unread })
}

impl Show for cli::Skbs {
    type Model = SkbsReport;
    from_source!();

    fn model(&self, context: &Context) -> Result<SkbsReport, Failure> {
        let report = SkbsReport::parse(&context.report(ReportName::Skbs, &self.source)?)?;
        match self.fd {
            Some(fd) => report.only(fd).ok_or(Failure::NoDescriptor(fd)),
            None => Ok(report),
        }
    }

    fn text(&self, report: &SkbsReport, screen: &Screen) -> Result<String, Failure> {
        let options = view::skbs::Options {
            raw: self.raw,
            ids: self.ids,
        };
        Ok(view::skbs::draw(report, &options, screen))
    }
}

impl Show for cli::Skb {
    type Model = Found;

    fn json(&self) -> bool {
        self.json
    }

    fn live(&self) -> bool {
        self.from.is_none()
    }

    fn model(&self, context: &Context) -> Result<Found, Failure> {
        let search = match &self.from {
            Some(path) => {
                let report = SkbsReport::parse(&saved(Some(path))?)?;
                let mut search = packet::Search {
                    processes: 1,
                    ..packet::Search::default()
                };
                packet::look(self.id, &report, &mut search.found);
                search
            }
            None => packet::find(self.id, self.pid, &context.client)?,
        };
        search.found.ok_or_else(|| {
            Failure::NoPacket(Searched {
                processes: search.processes,
                unread: search.unread.sentences(),
            })
        })
    }

    fn text(&self, found: &Found, screen: &Screen) -> Result<String, Failure> {
        Ok(view::skb::draw(found, self.draw, screen))
    }

    /// A drawing has its own width.
    fn wide(&self) -> bool {
        self.draw
    }
}

impl Show for cli::Sharers {
    type Model = SharersReport;
    from_source!();

    fn model(&self, context: &Context) -> Result<SharersReport, Failure> {
        let text = match (self.source.pid, self.fd) {
            (Some(pid), Some(fd)) => context.client.query_descriptor(pid, fd)?,
            _ => context.report(ReportName::Sharers, &self.source)?,
        };
        Ok(SharersReport::parse(&text)?)
    }

    fn text(&self, report: &SharersReport, screen: &Screen) -> Result<String, Failure> {
        Ok(view::sharers::draw(report, screen))
    }
}

impl Show for cli::Who {
    type Model = Answer;

    fn json(&self) -> bool {
        self.json
    }

    fn live(&self) -> bool {
        self.from.is_none()
    }

    fn model(&self, context: &Context) -> Result<Answer, Failure> {
        let Some(path) = &self.from else {
            return who::find(
                &self.socket,
                self.rows.all,
                &Proc::default(),
                &context.client,
            );
        };
        let answer = who::search(&self.socket, &Sweep::parse(&saved(Some(path))?)?);
        match answer.sockets.is_empty() {
            true => Err(Failure::NoSocket(Missing {
                sentence: format!(
                    "no such socket is in the reports, which are of {}",
                    screen::count(answer.processes, "process", "processes")
                ),
                mend: "ravel who without --from, to search this machine".to_owned(),
                unread: answer.unread.sentences(),
            })),
            false => Ok(answer),
        }
    }

    fn text(&self, answer: &Answer, screen: &Screen) -> Result<String, Failure> {
        view::who::draw(&self.socket.to_string(), answer, self, screen)
    }

    fn wide(&self) -> bool {
        self.rows.wide
    }
}

impl Show for cli::Stuck {
    type Model = stuck::Answer;

    fn json(&self) -> bool {
        self.json
    }

    fn live(&self) -> bool {
        self.from.is_none()
    }

    fn model(&self, context: &Context) -> Result<stuck::Answer, Failure> {
        let mut answer = match &self.from {
            Some(path) => {
                let sweep = Sweep::parse(&saved(Some(path))?)?;
                stuck::find(&sweep, &[], &stuck::Evidence::default(), None)
            }
            None => stuck::ask(&context.client, &Proc::default())?,
        };
        if let Some(seconds) = self.over {
            std::thread::sleep(Duration::from_secs(seconds));
            let later = stuck::ask(&context.client, &Proc::default())?;
            let earlier = std::mem::replace(&mut answer, later);
            answer.keep_still(&earlier);
        }
        if self.live() {
            answer.identify(&Proc::default());
        }
        let none = Processes::default();
        let known = answer.processes.as_ref().unwrap_or(&none);
        answer.stuck.retain(|of| self.only.has_stuck(of, known));
        for of in &mut answer.stuck {
            of.text = Some(stuck::Prose {
                responsible: view::stuck::blamed(of),
                remedy: view::stuck::freed_by(of),
            });
        }
        Ok(answer)
    }

    fn text(&self, answer: &stuck::Answer, screen: &Screen) -> Result<String, Failure> {
        view::stuck::draw(answer, self, screen)
    }

    fn wide(&self) -> bool {
        self.rows.wide
    }

    fn status(&self, answer: &stuck::Answer) -> ExitCode {
        match self.exit_code && !answer.stuck.is_empty() {
            true => ExitCode::from(FINDINGS),
            false => ExitCode::SUCCESS,
        }
    }
}

/// Shows what is stuck once, or again and again.
pub fn stuck(context: &Context, args: &cli::Stuck) -> Result<ExitCode, Failure> {
    let Some(seconds) = args.watch else {
        return context.show(args);
    };
    loop {
        let answer = args.model(context)?;
        if args.json {
            output::print_json_line(&answer, true)?;
        } else {
            let text = context.folded(args, &answer)?;
            match screen::anew() {
                Some(clear) => {
                    output::write(clear)?;
                    output::print(&screen::frame(&text))?;
                }
                None => output::print(&format!("{text}\n"))?,
            }
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}
