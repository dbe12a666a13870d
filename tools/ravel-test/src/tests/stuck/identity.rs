// SPDX-License-Identifier: GPL-2.0
//! Who the processes are that `ravel stuck` and `ravel sockets` name, compared with /proc, `id` and
//! the cgroup that the test puts them into.

use std::fs;
use std::net::Shutdown;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use ravel_records::SkState;
use serde_json::Value;

use super::{of_ours, run, stuck_over, wait_state};
use crate::process::Child;
use crate::report::{lineage, own_socket};
use crate::sys::{self, Pid};
use crate::tests::netfilters::cgroups;
use crate::tests::peers::{pair, wait_for};
use crate::{check, check_eq, module, tests};

tests!("stuck":
    processes_are_identified,
);

const ID: &str = "4f1c0d3e9a2b5c6d7e8f90112233445566778899aabbccddeeff001122334455";

/// What a document says of a process.
fn process(document: &Value, pid: Pid) -> Result<Value> {
    let all = document["processes"].as_array().context("no processes")?;
    let mut of = all.iter().filter(|process| process["pid"] == pid);
    let found = of.next().with_context(|| format!("{pid} in {all:#?}"))?;
    check!(of.next().is_none(), "{pid} is in it twice");
    Ok(found.clone())
}

fn json(words: &[&str]) -> Result<Value> {
    let out = Command::new(module::beside("ravel")?)
        .args(words)
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    check!(out.status.success(), "ravel {words:?}: {errors}");
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Puts a process into a cgroup with this path.
fn put(pid: Pid, path: &str) -> Result<PathBuf> {
    let folder = cgroups()?.join(path);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("cgroup.procs"), pid.to_string())?;
    let joined = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    check!(joined.contains(&format!("/{path}\n")), "it is in {joined}");
    Ok(folder)
}

fn processes_are_identified() -> Result<()> {
    let (client, server) = pair()?;
    let inode = own_socket(&server)?.0.inode;
    // It holds the only descriptor, as another user, in a pid namespace and a cgroup of its own.
    let held = server.try_clone()?;
    let mut child = Child::spawn_with(libc::CLONE_NEWPID as u64, None, move |link| {
        let _held = held;
        sys::become_nobody()?;
        link.send(&sys::getpid().to_string())?;
        link.wait().map(drop)
    })?;
    let inside = child.link.recv()?;
    check_eq!(inside, "1", "its pid inside");
    client.shutdown(Shutdown::Write)?;
    wait_state(&server, SkState::CloseWait)?;
    wait_state(&client, SkState::FinWait2)?;
    drop(server);
    let pid = child.pid;
    let scope = format!("docker-{ID}.scope");
    let folder = put(pid, &scope)?;

    let find = |words: &[&str]| -> Result<bool> {
        Ok(stuck_over(words)?.iter().any(|of| of["inode"] == inode))
    };
    let document: Value = serde_json::from_str(&run(&["--json"])?)?;
    let found = process(&document, pid)?;
    check_eq!(
        found["container"],
        serde_json::json!({"runtime": "docker", "id": ID, "pod": null}),
        "container"
    );
    check_eq!(found["unit"], scope.as_str(), "unit");
    check_eq!(
        found["ns_pids"],
        serde_json::json!([1]),
        "pids in namespaces"
    );
    check_eq!(
        (&found["uid"], &found["user"]),
        (&Value::from(65534), &Value::Null),
        "user of a container"
    );
    let own = fs::read("/proc/self/cmdline")?;
    let words: Vec<String> = own
        .strip_suffix(b"\0")
        .unwrap_or(&own)
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    check_eq!(
        found["command_line"],
        serde_json::json!(words),
        "command line"
    );
    let born = lineage(pid)?;
    let born = born.processes.iter().find(|of| of.pid == pid as u32);
    let born = born.context("not in its own lineage")?.born_ns;
    let started = found["started_ns"].as_u64().context("no start time")?;
    check!(
        (started..started + 10_000_000).contains(&born),
        "started {started}, born {born}"
    );
    let time = Command::new("date").args(["-u", "+%Y-%m-%d"]).output()?;
    let today = String::from_utf8(time.stdout)?;
    let said = found["started"].as_str().context("no time of day")?;
    check!(said.starts_with(today.trim()), "{said} on {today}");
    for (words, is) in [
        (["--container", &ID[..8]], true),
        (["--container", "ffff"], false),
        (["--unit", scope.as_str()], true),
        (["--unit", "web"], false),
        (["--user", "65534"], true),
        (["--user", "0"], false),
    ] {
        check_eq!(find(&words)?, is, "whether {words:?} shows it");
    }
    let text = run(&["--why", &inode.to_string(), "--wide"])?;
    let short = format!("container docker {}, pid 1 in its namespace", &ID[..12]);
    check!(
        text.contains(&short) && text.contains("uid 65534, "),
        "{text}"
    );
    check!(text.contains(&words.join(" ")), "{text}");

    // As a service of the machine, its user has a name.
    let service = put(pid, "ravel-test.slice/web.service")?;
    let sockets = json(&["sockets", "--json", &pid.to_string()])?;
    let waiters = json(&["sockets", "--waiters", "--json", &pid.to_string()])?;
    let name = Command::new("id").args(["-nu", "65534"]).output()?;
    let name = String::from_utf8(name.stdout)?;
    for document in [&sockets, &waiters] {
        let found = process(document, pid)?;
        check_eq!(
            (&found["unit"], &found["container"]),
            (&Value::from("web.service"), &Value::Null),
            "unit and container"
        );
        check_eq!(found["user"], name.trim(), "user");
    }
    check!(find(&["--unit", "web"])?, "not shown with its unit");
    check!(!find(&["--container", &ID[..8]])?, "still in the container");
    let table = run(&["--wide", "--all"])?;
    let row = table
        .lines()
        .find(|line| line.contains(&format!(" {inode} ")));
    let row = row.with_context(|| table.clone())?;
    check!(row.contains("web.service"), "{row}");
    child.kill()?;
    wait_for("the end", || Ok(of_ours(&client)?.is_some()))?;
    let slice = service.parent().context("no slice")?;
    for folder in [folder.as_path(), service.as_path(), slice] {
        wait_for("an empty cgroup", || Ok(fs::remove_dir(folder).is_ok()))?;
    }
    Ok(())
}
