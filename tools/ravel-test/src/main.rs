// SPDX-License-Identifier: GPL-2.0
//! Tests of the ravel kernel module and its CLI, run as root inside the VM.
//!
//! `ravel-test [PATTERN]...` runs the tests whose name contains one of the patterns, or all, but for
//! those with a pattern behind a `!`; `ravel-test --list` names them, and `ravel-test --smoke` runs
//! one of each subject. ravel.ko and ravel are looked for beside this program. The last line is
//! `N passed, N failed`, followed by `, N skipped` if the kernel lacks what tests need. The exit code
//! is 0 only if none failed and one ran.

#![deny(unsafe_code)]

mod bench;
mod check;
mod feature;
mod harness;
mod klog;
mod layout;
mod maps;
mod measure;
mod module;
mod packetdrill;
mod pagemap;
mod process;
mod random;
mod report;
mod server;
mod ss;
mod stream;
#[allow(unsafe_code)]
mod sys;
mod tests;
mod tier;
mod workload;

use std::process::ExitCode;

use harness::Choice;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--list"] => {
            harness::list();
            ExitCode::SUCCESS
        }
        ["--one", name] => harness::run_one(name),
        ["--puppet", words @ ..] => match process::serve_after_exec(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("puppet: {e:#}");
                ExitCode::FAILURE
            }
        },
        ["--bench", words @ ..] => match bench::run(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("bench: {e:#}");
                ExitCode::FAILURE
            }
        },
        ["--packetdrill", script] => match packetdrill::run(script) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{script}: {e:#}");
                ExitCode::FAILURE
            }
        },
        ["--workload", words @ ..] => match workload::run(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("workload: {e:#}");
                ExitCode::FAILURE
            }
        },
        [flag, ..] if flag.starts_with('-') && *flag != "--smoke" => {
            eprintln!("usage: ravel-test [--list | --smoke | PATTERN...]");
            ExitCode::FAILURE
        }
        words => match harness::run(&match words {
            ["--smoke"] => Choice::Smoke,
            patterns => Choice::Patterns(patterns),
        }) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                println!("FAILED harness: {e:#}\n0 passed, 1 failed");
                ExitCode::FAILURE
            }
        },
    }
}
