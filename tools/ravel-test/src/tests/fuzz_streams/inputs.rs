// SPDX-License-Identifier: GPL-2.0
//! Requests to streams, most of which are good, or nearly.

use std::collections::BTreeSet;

use super::model::{FULL, LONGEST, Model, Target};
use crate::random::Random;
use crate::tests::fuzz::distort;

/// What is good for a file, or nearly.
fn grammatical(random: &mut Random, target: Target, model: &Model, pids: &[u64]) -> Vec<u8> {
    let mut text = match target {
        Target::Streams => {
            let name = match random.below(30) {
                0 => FULL.to_owned(),
                1 => "x".repeat(30 + random.below(3)),
                2 => (*random.pick(&["", "a.b", "../x", "é", "a=b", "."])).to_owned(),
                n => format!("s{}", n % 20),
            };
            if name != FULL && random.one_in(6) {
                format!("remove {name}{}", random.pick(&["", "", "", " ", " x"]))
            } else {
                create(random, &name, model, pids)
            }
        }
        Target::Reader(at) => match random.below(8) {
            0..=1 => {
                let mut text = String::from("lease");
                for _ in 0..random.below(4) {
                    if random.one_in(4) {
                        let forms = ["text", "binary", "binary", "binary", "", "Text", "json"];
                        text += &format!(" form={}", random.pick(&forms));
                        continue;
                    }
                    let key = random.pick(&["events", "bytes", "ms", "ms", "event"]);
                    let value = random.pick(&[
                        "1",
                        "7",
                        "600000",
                        "86400000",
                        "86400001",
                        "4096",
                        "4097",
                        "1024",
                        "1023",
                        "1048576",
                        "1048577",
                        "0",
                        "",
                        "-1",
                        "07",
                        "18446744073709551616",
                    ]);
                    text += &format!(" {key}={value}");
                }
                text
            }
            2..=5 => format!("ack{}", seq_text(random, &model.readers[at].batch)),
            _ => {
                let delays = ["", "", " 0", " 5", " 50", " 86400001", " -1", " x", "  5"];
                format!("release{}", random.pick(&delays))
            }
        },
        Target::Failed => {
            let order = random.pick(&["replay", "clear", "clear", "Clear"]);
            format!("{order}{}", seq_text(random, &model.failed))
        }
        Target::Sources | Target::Gone(_) => {
            (*random.pick(&["ack", "release", "clear", "lease ms=5", "x"])).to_owned()
        }
    }
    .into_bytes();
    if random.one_in(2) {
        text.push(b'\n');
    }
    text
}

fn create(random: &mut Random, name: &str, model: &Model, pids: &[u64]) -> String {
    let mut words = vec![format!("create {name}")];
    for _ in 0..1 + random.below(3) {
        words.push(match random.below(10) {
            0..=5 => {
                let list: Vec<&str> = (0..1 + random.below(3))
                    .map(|_| match random.below(20) {
                        0 => *random.pick(&["forks", "", "EXEC"]),
                        _ => random.pick(&model.sources).as_str(),
                    })
                    .collect();
                format!("sources={}", list.join(","))
            }
            6 => {
                let sizes = [
                    "16384", "20001", "65536", "16383", "67108865", "0", "", "0x4000",
                ];
                format!("bytes={}", random.pick(&sizes))
            }
            7 => format!(
                "attempts={}",
                random.pick(&["1", "1000", "1001", "0", "+3", "3"])
            ),
            8 if random.one_in(2) => (*random.pick(&[
                "port=80",
                "port=0",
                "port=65536",
                "address=127.0.0.1",
                "address=::1",
                "address=1.2.3",
                "address=",
                "protocol=17",
                "protocol=256",
                "protocol=udp",
                "until=close",
                "until=",
                "until=open",
            ]))
            .to_owned(),
            8 => format!("{}={}", random.pick(&["pid", "tree"]), random.pick(pids)),
            _ => {
                (*random.pick(&["pid=", "tree=0", "tree=4194305", "=", "x", "pid", ""])).to_owned()
            }
        });
    }
    words.join(" ")
}

/// Nothing, or a number that is among these, or is not.
fn seq_text(random: &mut Random, of: &BTreeSet<u64>) -> String {
    let of: Vec<u64> = of.iter().copied().collect();
    match random.below(8) {
        0 => String::new(),
        1 => format!(" {}", random.below(2000)),
        2 => format!(
            " {}",
            random.pick(&[
                "0",
                "18446744073709551615",
                "18446744073709551616",
                "-1",
                ""
            ])
        ),
        _ if of.is_empty() => " 1".to_owned(),
        _ => format!(" {}", random.pick(&of)),
    }
}

/// A request to a file.
pub(super) fn input(random: &mut Random, target: Target, model: &Model, pids: &[u64]) -> Vec<u8> {
    let text = grammatical(random, target, model, pids);
    distort(random, text, LONGEST)
}
