// SPDX-License-Identifier: GPL-2.0
//! What is refused: requests that are none, processes that are not there, files used wrongly.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use anyhow::{Context, Result};
use ravel_records::{Attached, ProcessState, Version};

use crate::module::{
    self, Answer, BUFFER, DIR, REPORTS, attach, detach, open_query, query, read_file, state,
    write_errno, write_file,
};
use crate::process::{Child, Sleepers};
use crate::report::{anon, parse_anon};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests};

tests!("badinput":
    files_are_the_documented_ones_mode_0600_of_root,
    version_record,
    requests_that_are_none_are_einval,
    pids_that_are_none_are_einval,
    pids_of_nobody_are_esrch,
    one_megabyte_of_rubbish_is_einval,
    longest_request_is_63_bytes,
    bad_address_is_efault,
    read_without_request_is_enodata,
    kernel_thread_is_einval,
    zombie_is_esrch,
    exited_process_stays_in_its_folder_as_esrch,
    exit_between_request_and_read_is_esrch,
    number_used_again_is_not_the_old_process,
    attach_of_a_number_used_again_hands_over_the_folder,
    attach_twice_is_eexist_and_detach_twice_enoent,
    attach_limit_is_256,
    attached_lists_the_folders,
    files_used_the_wrong_way_are_einval,
    files_cannot_be_sought_in,
    unprivileged_user_cannot_open_anything,
);

/// The highest number that can be written for a pid; never given, since pid_max itself is not.
const LAST_PID: &str = "4194304";

fn files_are_the_documented_ones_mode_0600_of_root() -> Result<()> {
    let child = Child::idle()?;
    attach(child.pid)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(DIR)? {
        found.push(entry?.path());
    }
    let folder = format!("{DIR}/{}", child.pid);
    for entry in fs::read_dir(&folder)? {
        found.push(entry?.path());
    }
    found.retain(|path| path.is_file());
    found.sort();
    let mut want: Vec<_> = [
        "attach", "attached", "detach", "locks", "query", "sources", "streams", "version",
    ]
    .iter()
    .map(|name| format!("{DIR}/{name}").into())
    .chain(
        REPORTS
            .iter()
            .map(|name| std::path::PathBuf::from(format!("{folder}/{name}"))),
    )
    .collect();
    want.sort();
    check_eq!(found, want, "files");
    for path in found {
        let meta = fs::metadata(&path)?;
        check_eq!(
            meta.permissions().mode() & 0o7777,
            0o600,
            "mode of {}",
            path.display()
        );
        check_eq!(
            (meta.uid(), meta.gid()),
            (0, 0),
            "owner of {}",
            path.display()
        );
    }
    detach(child.pid)?;
    check!(!fs::exists(&folder)?, "the folder is there after detach");
    Ok(())
}

fn version_record() -> Result<()> {
    let text = read_file("version")?.whole()?;
    let version = Version::parse(&text)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    check_eq!(version.kernel.to_string(), release.trim(), "kernel");
    check_eq!(version.format, 1, "format");
    let module = fs::read_to_string("/sys/module/ravel/version")?;
    check_eq!(
        version.module.to_string(),
        module.trim(),
        "version of the module"
    );
    check_eq!(text.iter().filter(|b| **b == b'\n').count(), 1, "lines");
    Ok(())
}

/// Checks that a request is refused on `query` with one line that says so, and then works no more
/// than one that was never made; and that it changes nothing.
fn check_refused(request: &[u8], report: &str, pid: i64, errno: i32) -> Result<()> {
    let shown = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
    let before = state()?;
    let (written, answer) = query(request)?;
    check_eq!(written, errno, "errno of the write of {shown:?}");
    answer
        .check_error(report, pid, errno)
        .with_context(|| format!("answer to {shown:?}"))?;
    check_eq!(state()?, before, "attached and folders, after {shown:?}");
    Ok(())
}

fn requests_that_are_none_are_einval() -> Result<()> {
    let us = sys::getpid();
    for request in [
        "".into(),
        "\n".into(),
        " ".into(),
        format!("{us}"),
        "anon_vma".into(),
        "anon_vma ".into(),
        "anon_vma\n".into(),
        format!("anon_vma{us}"),
        format!("anonvma {us}"),
        format!("anon_vmas {us}"),
        format!("anon {us}"),
        format!("ANON_VMA {us}"),
        format!("socket {us}"),
        format!("version {us}"),
        format!("query {us}"),
        format!(" {us}"),
        format!(" anon_vma {us}"),
        format!("anon_vma  {us}"),
        format!("anon_vma\t{us}"),
        format!("anon_vma {us} "),
        format!("anon_vma {us} {us}"),
        format!("anon_vma {us}\n\n"),
        format!("anon_vma {us}\r\n"),
        format!("anon_vma {us}\nanon_vma {us}\n"),
        format!("anon_vma {us}\0"),
        format!("\0anon_vma {us}"),
        format!("anon_vma\0 {us}"),
        format!("anon_vma={us}"),
        format!("../anon_vma {us}"),
        "anon_vma \u{664}\u{665}".into(),
    ] {
        check_refused(request.as_bytes(), "query", 0, libc::EINVAL)?;
    }
    check_refused(b"\xff\xfe\x00\x80", "query", 0, libc::EINVAL)?;
    check_refused(&[0; 32], "query", 0, libc::EINVAL)
}

/// What is no pid, although some of it looks like one.
const NO_PIDS: &[&str] = &[
    "0",
    "-1",
    "-0",
    "+1",
    "4194305",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "4294967297",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "18446744073709551617",
    "99999999999999999999999999999999999999999999999999",
    "1.0",
    "1e3",
    "0x1",
    "1,2",
    "1 2",
    " 1",
    "1 ",
    "\t1",
    "1\t",
    "1\n\n",
    "\n1",
    "1\0",
    "one",
    "self",
    "self/1",
    "../1",
    "-",
    "",
    " ",
    "\n",
];

fn pids_that_are_none_are_einval() -> Result<()> {
    for pid in NO_PIDS {
        for report in REPORTS {
            check_refused(
                format!("{report} {pid}").as_bytes(),
                "query",
                0,
                libc::EINVAL,
            )?;
        }
        for file in ["attach", "detach"] {
            let before = state()?;
            check_eq!(
                write_file(file, pid.as_bytes())?,
                libc::EINVAL,
                "{pid:?} to {file}"
            );
            check_eq!(
                state()?,
                before,
                "attached and folders, after {pid:?} to {file}"
            );
        }
    }
    Ok(())
}

fn pids_of_nobody_are_esrch() -> Result<()> {
    let mut child = Child::idle()?;
    child.kill()?;
    for pid in [child.pid.to_string(), LAST_PID.into()] {
        for report in REPORTS {
            let request = format!("{report} {pid}\n");
            check_refused(request.as_bytes(), report, pid.parse()?, libc::ESRCH)?;
        }
        let before = state()?;
        check_eq!(
            write_file("attach", pid.as_bytes())?,
            libc::ESRCH,
            "attach {pid}"
        );
        check_eq!(
            write_file("detach", pid.as_bytes())?,
            libc::ENOENT,
            "detach {pid}"
        );
        check_eq!(state()?, before, "attached and folders");
    }
    Ok(())
}

fn one_megabyte_of_rubbish_is_einval() -> Result<()> {
    for byte in [b'1', b' ', b'\n', 0, 0xff] {
        let rubbish = vec![byte; 1 << 20];
        check_refused(&rubbish, "query", 0, libc::EINVAL)?;
        for file in ["attach", "detach"] {
            check_eq!(
                write_file(file, &rubbish)?,
                libc::EINVAL,
                "1 MB of {byte} to {file}"
            );
        }
    }
    let us = sys::getpid();
    let mut long = format!("anon_vma {us}\n").into_bytes();
    long.resize(1 << 20, b'x');
    check_refused(&long, "query", 0, libc::EINVAL)
}

fn longest_request_is_63_bytes() -> Result<()> {
    // 63 bytes that are no request and 64 that would be too long: both are refused, neither is cut
    // into something that is one.
    let us = sys::getpid();
    for len in [62, 63, 64, 65, 127, 128, 4095, 4096, 4097] {
        let mut request = format!("anon_vma {us}").into_bytes();
        request.resize(len, b' ');
        check_refused(&request, "query", 0, libc::EINVAL)?;
        let mut pid = us.to_string().into_bytes();
        pid.resize(len, b'\n');
        check_eq!(
            write_file("attach", &pid)?,
            libc::EINVAL,
            "attach with {len} bytes"
        );
    }
    Ok(())
}

fn bad_address_is_efault() -> Result<()> {
    let hole = sys::map_anon(2 * PAGE, libc::PROT_NONE)?;
    let before = state()?;
    for name in ["query", "attach", "detach"] {
        let file = OpenOptions::new()
            .write(true)
            .open(format!("{DIR}/{name}"))?;
        let error = sys::write_from_address(&file, hole, 12)
            .err()
            .context("it was taken")?;
        check_eq!(
            sys::errno(&error),
            libc::EFAULT,
            "errno of a write to {name}"
        );
    }
    check_eq!(state()?, before, "attached and folders");
    let file = File::open(format!("{DIR}/version"))?;
    let error = sys::read_to_address(&file, hole, 100)
        .err()
        .context("it was read")?;
    check_eq!(sys::errno(&error), libc::EFAULT, "errno of a read");
    Ok(())
}

fn read_without_request_is_enodata() -> Result<()> {
    let mut file = open_query()?;
    Answer::read(&mut file, BUFFER).check_error("query", 0, libc::ENODATA)?;
    // The descriptor is good for a request all the same.
    check_eq!(
        write_errno(&mut file, format!("anon_vma {}", sys::getpid()).as_bytes()),
        0,
        "write"
    );
    let text = Answer::read(&mut file, BUFFER).whole()?;
    check_eq!(parse_anon(&text)?.header.pid as Pid, sys::getpid(), "pid");
    Ok(())
}

fn kernel_thread_is_einval() -> Result<()> {
    check!(
        fs::read_link("/proc/2/exe").is_err(),
        "pid 2 is no kernel thread"
    );
    let before = state()?;
    for report in REPORTS {
        let (errno, answer) = query(format!("{report} 2\n").as_bytes())?;
        check!(
            errno == 0 || errno == libc::EINVAL,
            "{report} 2: write gave errno {errno}"
        );
        answer.check_error(report, 2, libc::EINVAL)?;
    }
    check_eq!(state()?, before, "attached and folders");
    match write_file("attach", b"2")? {
        0 => {
            for report in REPORTS {
                read_file(&format!("2/{report}"))?.check_error(report, 2, libc::EINVAL)?;
            }
            detach(2)?;
        }
        errno => check_eq!(errno, libc::EINVAL, "attach of a kernel thread"),
    }
    check_eq!(state()?, before, "attached and folders after the detach");
    Ok(())
}

fn zombie_is_esrch() -> Result<()> {
    let mut child = Child::idle()?;
    child.make_zombie()?;
    let before = state()?;
    check_eq!(
        write_file("attach", child.pid.to_string().as_bytes())?,
        libc::ESRCH,
        "attach"
    );
    for report in REPORTS {
        let (errno, answer) = query(format!("{report} {}", child.pid).as_bytes())?;
        check_eq!(errno, libc::ESRCH, "errno of the write of {report}");
        answer.check_error(report, child.pid.into(), libc::ESRCH)?;
    }
    check_eq!(state()?, before, "attached and folders");
    Ok(())
}

fn attached_record(pid: Pid) -> Result<ravel_records::AttachedProcess> {
    let list = Attached::parse(&read_file("attached")?.whole()?)?;
    let found = list.attached.into_iter().find(|a| a.pid as Pid == pid);
    found.with_context(|| format!("{pid} is not listed"))
}

fn check_folder_esrch(pid: Pid) -> Result<()> {
    for report in REPORTS {
        let answer = read_file(&format!("{pid}/{report}"))?;
        answer.check_error(report, pid.into(), libc::ESRCH)?;
    }
    let record = attached_record(pid)?;
    check_eq!(record.state, ProcessState::Exited, "state in `attached`");
    check_eq!(record.comm, "", "comm in `attached`");
    Ok(())
}

fn exited_process_stays_in_its_folder_as_esrch() -> Result<()> {
    let mut child = Child::idle()?;
    attach(child.pid)?;
    check_eq!(
        attached_record(child.pid)?.state,
        ProcessState::Live,
        "state before"
    );
    read_file(&format!("{}/anon_vma", child.pid))?.whole()?;
    // Opened while it lives, read when it does not.
    let mut open = File::open(format!("{DIR}/{}/sockets", child.pid))?;
    child.make_zombie()?;
    check_folder_esrch(child.pid).context("zombie")?;
    child.kill()?;
    check_folder_esrch(child.pid).context("reaped")?;
    Answer::read(&mut open, BUFFER).check_error("sockets", child.pid.into(), libc::ESRCH)?;
    drop(open);
    detach(child.pid)?;
    check_eq!(
        write_file("detach", child.pid.to_string().as_bytes())?,
        libc::ENOENT,
        "again"
    );
    Ok(())
}

fn exit_between_request_and_read_is_esrch() -> Result<()> {
    for report in REPORTS {
        let mut child = Child::idle()?;
        let mut file = open_query()?;
        check_eq!(
            write_errno(&mut file, format!("{report} {}", child.pid).as_bytes()),
            0,
            "write"
        );
        child.kill()?;
        let answer = Answer::read(&mut file, BUFFER);
        answer.check_error(report, child.pid.into(), libc::ESRCH)?;
        let mut again = [0; 100];
        let error = file
            .read(&mut again)
            .err()
            .context("a read after the error gave data")?;
        check_eq!(sys::errno(&error), libc::ESRCH, "errno of one more read");
    }
    Ok(())
}

fn number_used_again_is_not_the_old_process() -> Result<()> {
    let mut old = Child::idle()?;
    let pid = old.pid;
    attach(pid)?;
    let mut asked = open_query()?;
    check_eq!(
        write_errno(&mut asked, format!("anon_vma {pid}").as_bytes()),
        0,
        "write"
    );
    let mut open = File::open(format!("{DIR}/{pid}/skbs"))?;
    old.kill()?;
    let new = Child::idle_as(pid)?;
    check_eq!(
        anon(pid)?.header.pid as Pid,
        pid,
        "a query finds the new process"
    );
    check_folder_esrch(pid)?;
    Answer::read(&mut asked, BUFFER).check_error("anon_vma", pid.into(), libc::ESRCH)?;
    Answer::read(&mut open, BUFFER).check_error("skbs", pid.into(), libc::ESRCH)?;
    detach(pid)?;
    attach(pid)?;
    let text = read_file(&format!("{pid}/anon_vma"))?.whole()?;
    check_eq!(
        parse_anon(&text)?.header.pid as Pid,
        new.pid,
        "the new folder"
    );
    detach(pid)
}

fn attach_of_a_number_used_again_hands_over_the_folder() -> Result<()> {
    let mut old = Child::idle()?;
    let pid = old.pid;
    attach(pid)?;
    let mut of_old = File::open(format!("{DIR}/{pid}/anon_vma"))?;
    old.kill()?;
    let _new = Child::idle_as(pid)?;
    // The new process is not attached, though its number is: the folder becomes its own.
    attach(pid)?;
    check_eq!(
        attached_record(pid)?.state,
        ProcessState::Live,
        "state in `attached`"
    );
    parse_anon(&read_file(&format!("{pid}/anon_vma"))?.whole()?)?;
    // What was opened before is about the old process.
    Answer::read(&mut of_old, BUFFER).check_error("anon_vma", pid.into(), libc::ESRCH)?;
    drop(of_old);
    check_eq!(module::folders()?, [pid], "folders");
    check_eq!(
        write_file("attach", pid.to_string().as_bytes())?,
        libc::EEXIST,
        "attach once more"
    );
    detach(pid)
}

fn attach_twice_is_eexist_and_detach_twice_enoent() -> Result<()> {
    let child = Child::idle()?;
    let pid = child.pid.to_string();
    check_eq!(
        write_file("detach", pid.as_bytes())?,
        libc::ENOENT,
        "detach before any attach"
    );
    // With and without a newline; more than one write on one descriptor.
    let mut file = OpenOptions::new()
        .write(true)
        .open(format!("{DIR}/attach"))?;
    check_eq!(
        write_errno(&mut file, format!("{pid}\n").as_bytes()),
        0,
        "attach"
    );
    let before = state()?;
    check_eq!(
        write_errno(&mut file, pid.as_bytes()),
        libc::EEXIST,
        "attach again"
    );
    check_eq!(state()?, before, "attached and folders");
    let mut file = OpenOptions::new()
        .write(true)
        .open(format!("{DIR}/detach"))?;
    check_eq!(write_errno(&mut file, pid.as_bytes()), 0, "detach");
    check_eq!(
        write_errno(&mut file, pid.as_bytes()),
        libc::ENOENT,
        "detach again"
    );
    check_eq!(module::folders()?, Vec::<Pid>::new(), "folders at the end");
    Ok(())
}

fn attach_limit_is_256() -> Result<()> {
    let children = Sleepers::new(257)?;
    let pids = &children.pids;
    for pid in &pids[..256] {
        attach(*pid)?;
    }
    let list = Attached::parse(&read_file("attached")?.whole()?)?;
    check_eq!(
        (list.summary.attached, list.summary.limit),
        (256, 256),
        "attached, limit"
    );
    let before = state()?;
    let last = pids[256];
    check_eq!(
        write_file("attach", last.to_string().as_bytes())?,
        libc::ENOSPC,
        "the 257th"
    );
    check_eq!(
        write_file("attach", b"0")?,
        libc::EINVAL,
        "no pid, when all is full"
    );
    let first = pids[0];
    check_eq!(
        write_file("attach", first.to_string().as_bytes())?,
        libc::EEXIST,
        "one that is in"
    );
    check_eq!(state()?, before, "attached and folders");
    detach(first)?;
    attach(last)?;
    let report = parse_anon(&read_file(&format!("{last}/anon_vma"))?.whole()?)?;
    check_eq!(
        report.header.pid as Pid,
        last,
        "pid in the last one's report"
    );
    let mut want = pids[1..].to_vec();
    want.sort_unstable();
    check_eq!(module::folders()?, want, "folders");
    module::detach_all()
}

fn attached_lists_the_folders() -> Result<()> {
    let empty = Attached::parse(&read_file("attached")?.whole()?)?;
    check_eq!(
        (empty.attached.len(), empty.summary.attached),
        (0, 0),
        "attached at first"
    );
    let mut children = [Child::idle()?, Child::idle()?, Child::idle()?];
    for child in &children {
        attach(child.pid)?;
    }
    children[1].kill()?;
    let list = Attached::parse(&read_file("attached")?.whole()?)?;
    let comm = fs::read("/proc/self/comm")?;
    let mut found: Vec<_> = list
        .attached
        .iter()
        .map(|a| (a.pid as Pid, a.comm.as_bytes().to_vec(), a.state.clone()))
        .collect();
    found.sort();
    let live = |i: usize| {
        (
            children[i].pid,
            comm.trim_ascii_end().to_vec(),
            ProcessState::Live,
        )
    };
    let mut want = vec![
        live(0),
        (children[1].pid, Vec::new(), ProcessState::Exited),
        live(2),
    ];
    want.sort();
    check_eq!(found, want, "attached");
    let pids: Vec<Pid> = want.iter().map(|w| w.0).collect();
    check_eq!(module::folders()?, pids, "folders");
    module::detach_all()
}

fn files_used_the_wrong_way_are_einval() -> Result<()> {
    let child = Child::idle()?;
    attach(child.pid)?;
    let before = state()?;
    for name in ["attach", "detach"] {
        let mut file = File::open(format!("{DIR}/{name}"))?;
        let error = file
            .read(&mut [0; 10])
            .err()
            .with_context(|| format!("{name} was read"))?;
        check_eq!(sys::errno(&error), libc::EINVAL, "errno of reading {name}");
    }
    let reports = REPORTS.iter().map(|r| format!("{}/{r}", child.pid));
    for name in reports.chain(["version".into(), "attached".into()]) {
        for data in [b"1".as_slice(), b"", b"anon_vma 1\n"] {
            check_eq!(
                write_file(&name, data)?,
                libc::EINVAL,
                "writing {data:?} to {name}"
            );
        }
    }
    check_eq!(state()?, before, "attached and folders");
    detach(child.pid)
}

fn files_cannot_be_sought_in() -> Result<()> {
    attach(sys::getpid())?;
    let report = format!("{}/anon_vma", sys::getpid());
    for name in ["version", "attached", "query", &report] {
        let mut file = File::open(format!("{DIR}/{name}"))?;
        let error = file
            .seek(SeekFrom::Start(0))
            .err()
            .with_context(|| format!("{name}: sought"))?;
        check_eq!(sys::errno(&error), libc::ESPIPE, "errno of lseek in {name}");
        let error = file
            .read_at(&mut [0; 9], 5)
            .err()
            .with_context(|| format!("{name}: pread"))?;
        check_eq!(sys::errno(&error), libc::ESPIPE, "errno of pread in {name}");
    }
    detach(sys::getpid())
}

fn unprivileged_user_cannot_open_anything() -> Result<()> {
    let mut child = Child::spawn(|link| {
        sys::become_nobody()?;
        for name in ["version", "attached", "attach", "detach", "query"] {
            let path = format!("{DIR}/{name}");
            for mut options in [OpenOptions::new(), OpenOptions::new().write(true).clone()] {
                let error = options
                    .read(true)
                    .open(&path)
                    .err()
                    .context("it was opened")?;
                check_eq!(sys::errno(&error), libc::EACCES, "errno of opening {name}");
            }
        }
        link.send("done")
    })?;
    check_eq!(child.link.recv()?, "done", "what the child says");
    child.join()
}
