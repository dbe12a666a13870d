// SPDX-License-Identifier: GPL-2.0
//! Reading: in what pieces one may read, and that every line keeps to the format.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result};

use crate::check::same_text;
use crate::module::{
    Answer, BUFFER, DIR, REPORTS, attach, detach, open_query, query, read_file, report_text,
    write_errno,
};
use crate::process::{Area, Puppet, Stage};
use crate::report::{parse_anon, vma};
use crate::sys::{self, PAGE};
use crate::{check, check_eq, tests};

tests!("reading":
    every_buffer_size_gives_the_same_text,
    folder_and_query_give_the_same_text,
    read_after_the_end_gives_nothing,
    second_request_discards_the_first,
    refused_request_replaces_the_answer,
    bad_address_loses_nothing,
    two_descriptors_do_not_disturb_each_other,
    descriptor_shared_by_fork_reads_on,
    report_longer_than_many_buffers,
    every_line_keeps_to_the_format,
    reading_does_not_change_the_memory_map,
);

/// A puppet with something in each report, that stands still.
struct Scene {
    puppet: Puppet,
    area: Area,
    _kept: (
        UdpSocket,
        UdpSocket,
        TcpStream,
        TcpStream,
        UnixDatagram,
        UnixDatagram,
    ),
}

impl Scene {
    /// An epoll set that watches one of the sockets, which has an owner from then on.
    fn watched(&self) -> Result<OwnedFd> {
        sys::set_owner(&self._kept.0, sys::Owner::Process(sys::getpid()))?;
        Ok(sys::epoll_of(&self._kept.0)?)
    }

    fn new() -> Result<Self> {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0")?,
            UdpSocket::bind("127.0.0.1:0")?,
        );
        a.send_to(&[1; 100], b.local_addr()?)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut c = TcpStream::connect(listener.local_addr()?)?;
        let (d, _) = listener.accept()?;
        c.write_all(b"unread")?;
        let (e, f) = UnixDatagram::pair()?;
        e.send(b"datagram")?;
        // What was sent has arrived when the receiver can look at it.
        check_eq!(b.peek(&mut [0; 200])?, 100, "bytes of the datagram");
        check_eq!(d.peek(&mut [0; 200])?, 6, "bytes in the stream");
        for fd in [
            a.as_fd(),
            b.as_fd(),
            c.as_fd(),
            d.as_fd(),
            e.as_fd(),
            f.as_fd(),
        ] {
            sys::keep_over_exec(&fd, true)?;
        }
        let mut puppet = Stage::new(2)?.start()?;
        // Else its report would tell of the test's memory too, which does not stand still.
        puppet.exec()?;
        let area = puppet.map(4)?;
        puppet.write(area)?;
        puppet.protect(area.pages(1, 1), libc::PROT_READ)?;
        puppet.settle()?;
        Ok(Self {
            puppet,
            area,
            _kept: (a, b, c, d, e, f),
        })
    }

    fn request(&self, report: &str) -> Vec<u8> {
        format!("{report} {}\n", self.puppet.pid).into_bytes()
    }
}

fn every_buffer_size_gives_the_same_text() -> Result<()> {
    let scene = Scene::new()?;
    for report in REPORTS {
        let whole = report_text(report, scene.puppet.pid)?;
        check!(whole.len() > 500, "{report}: only {} bytes", whole.len());
        for size in [1, 2, 3, 7, 64, 100, 511, 4095, 4096, 4097, 1 << 20] {
            let mut file = open_query()?;
            check_eq!(write_errno(&mut file, &scene.request(report)), 0, "write");
            let text = Answer::read(&mut file, size).whole()?;
            same_text(&text, &whole, format_args!("{report} read by {size} bytes"))?;
        }
    }
    attach(scene.puppet.pid)?;
    for name in ["version", "attached"] {
        let whole = read_file(name)?.whole()?;
        let text = Answer::read(&mut File::open(format!("{DIR}/{name}"))?, 1).whole()?;
        check!(!text.is_empty(), "{name} is empty");
        same_text(&text, &whole, format_args!("{name} read by single bytes"))?;
    }
    // An error's line, too, comes in any pieces, and the errno only after it.
    let mut file = open_query()?;
    let whole = Answer::read(&mut open_query()?, BUFFER);
    check_eq!(
        Answer::read(&mut file, 1),
        whole,
        "the error of an empty query, byte by byte"
    );
    detach(scene.puppet.pid)
}

fn folder_and_query_give_the_same_text() -> Result<()> {
    let scene = Scene::new()?;
    attach(scene.puppet.pid)?;
    for report in REPORTS {
        let by_query = report_text(report, scene.puppet.pid)?;
        let by_folder = read_file(&format!("{}/{report}", scene.puppet.pid))?.whole()?;
        same_text(&by_folder, &by_query, report)?;
        let by_cat = fs::read(format!("{DIR}/{}/{report}", scene.puppet.pid))?;
        same_text(&by_cat, &by_query, format_args!("{report}, read by std"))?;
    }
    detach(scene.puppet.pid)
}

fn read_after_the_end_gives_nothing() -> Result<()> {
    let scene = Scene::new()?;
    for report in REPORTS {
        let mut file = open_query()?;
        check_eq!(write_errno(&mut file, &scene.request(report)), 0, "write");
        check!(
            !Answer::read(&mut file, BUFFER).whole()?.is_empty(),
            "nothing at first"
        );
        for _ in 0..3 {
            check_eq!(
                file.read(&mut [0; 100])?,
                0,
                "bytes after the end of {report}"
            );
        }
        // A new request on the same descriptor gives a new answer.
        check_eq!(write_errno(&mut file, &scene.request(report)), 0, "write");
        let text = Answer::read(&mut file, BUFFER).whole()?;
        // Who asks has no more descriptors then, which lineage tells of.
        drop(file);
        same_text(&text, &report_text(report, scene.puppet.pid)?, report)?;
    }
    Ok(())
}

fn second_request_discards_the_first() -> Result<()> {
    let scene = Scene::new()?;
    let whole = report_text("anon_vma", scene.puppet.pid)?;
    for read_before in [0, 1, 100] {
        let mut file = open_query()?;
        check_eq!(write_errno(&mut file, &scene.request("skbs")), 0, "write");
        let mut part = vec![0; read_before];
        file.read_exact(&mut part)?;
        check_eq!(
            write_errno(&mut file, &scene.request("anon_vma")),
            0,
            "write"
        );
        let text = Answer::read(&mut file, BUFFER).whole()?;
        same_text(
            &text,
            &whole,
            format_args!("after {read_before} bytes of another report"),
        )?;
    }
    Ok(())
}

fn refused_request_replaces_the_answer() -> Result<()> {
    let scene = Scene::new()?;
    let mut file = open_query()?;
    check_eq!(
        write_errno(&mut file, &scene.request("anon_vma")),
        0,
        "write"
    );
    file.read_exact(&mut [0; 10])?;
    check_eq!(
        write_errno(&mut file, b"rubbish"),
        libc::EINVAL,
        "write of rubbish"
    );
    Answer::read(&mut file, BUFFER).check_error("query", 0, libc::EINVAL)?;
    check_eq!(
        write_errno(&mut file, &scene.request("anon_vma")),
        0,
        "write after it"
    );
    let text = Answer::read(&mut file, BUFFER).whole()?;
    check!(
        text == report_text("anon_vma", scene.puppet.pid)?,
        "the answer after it differs"
    );
    Ok(())
}

fn bad_address_loses_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let whole = report_text("anon_vma", scene.puppet.pid)?;
    let hole = sys::map_anon(4 * PAGE, libc::PROT_NONE)?;
    sys::protect(hole, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    let mut file = open_query()?;
    check_eq!(
        write_errno(&mut file, &scene.request("anon_vma")),
        0,
        "write"
    );
    let mut text = Vec::new();
    for room in [0, 0, 1, 10, 100, 0] {
        // `room` bytes can be stored, what comes after them cannot.
        let to = hole + PAGE - room;
        match sys::read_to_address(&file, to, 2000) {
            Ok(read) => {
                check!(read <= room, "{read} bytes read where {room} have room");
                text.extend((to..to + read).map(sys::peek));
            }
            Err(error) => check_eq!(sys::errno(&error), libc::EFAULT, "errno"),
        }
        let mut part = [0; 33];
        let read = file.read(&mut part)?;
        text.extend_from_slice(&part[..read]);
    }
    text.extend(Answer::read(&mut file, BUFFER).whole()?);
    same_text(&text, &whole, "after reads that failed")
}

fn two_descriptors_do_not_disturb_each_other() -> Result<()> {
    let (one, two) = (Scene::new()?, Scene::new()?);
    let (mut a, mut b) = (open_query()?, open_query()?);
    check_eq!(write_errno(&mut a, &one.request("anon_vma")), 0, "write");
    check_eq!(write_errno(&mut b, &two.request("sockets")), 0, "write");
    let mut texts = [Vec::new(), Vec::new()];
    let mut part = [0; 50];
    for _ in 0..5 {
        for (file, text) in [&mut a, &mut b].into_iter().zip(&mut texts) {
            let read = file.read(&mut part)?;
            text.extend_from_slice(&part[..read]);
        }
    }
    texts[0].extend(Answer::read(&mut a, BUFFER).whole()?);
    texts[1].extend(Answer::read(&mut b, BUFFER).whole()?);
    check!(
        texts[0] == report_text("anon_vma", one.puppet.pid)?,
        "the first differs"
    );
    let second = report_text("sockets", two.puppet.pid)?;
    same_text(&texts[1], &second, "the second")?;
    Ok(())
}

fn descriptor_shared_by_fork_reads_on() -> Result<()> {
    // Of a process that has no memory in common with the child forked below: that one would come and go
    // in the report.
    let whole = report_text("anon_vma", 1)?;
    let mut file = open_query()?;
    check_eq!(write_errno(&mut file, b"anon_vma 1"), 0, "write");
    let mut text = vec![0; 40];
    file.read_exact(&mut text)?;
    let mut theirs = file.try_clone()?;
    let mut child = crate::process::Child::spawn(move |link| {
        let mut part = [0; 40];
        theirs.read_exact(&mut part)?;
        link.send(std::str::from_utf8(&part)?.replace('\n', "\\n").as_str())
    })?;
    text.extend(child.link.recv()?.replace("\\n", "\n").into_bytes());
    child.join()?;
    text.extend(Answer::read(&mut file, BUFFER).whole()?);
    same_text(&text, &whole, "what parent and child read")?;
    Ok(())
}

fn report_longer_than_many_buffers() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let areas = puppet.map_written(400, 1)?;
    let text = report_text("anon_vma", puppet.pid)?;
    check!(text.len() > 4 * BUFFER / 3, "only {} bytes", text.len());
    let report = parse_anon(&text)?;
    for area in areas {
        vma(&report, area)?;
    }
    check_eq!(
        report.summary.anon_vmas as usize,
        report.anon_vmas.len(),
        "anon_vmas"
    );
    Ok(())
}

fn reading_does_not_change_the_memory_map() -> Result<()> {
    let scene = Scene::new()?;
    let before = crate::maps::of(scene.puppet.pid)?;
    for report in REPORTS {
        report_text(report, scene.puppet.pid)?;
    }
    check_eq!(
        crate::maps::of(scene.puppet.pid)?,
        before,
        "smaps after all reports"
    );
    check_eq!(
        before
            .iter()
            .filter(|m| m.start == scene.area.start)
            .count(),
        1,
        "the area"
    );
    Ok(())
}

/// What a value looks like; see FORMAT.md.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Number,
    Hex,
    Id,
    Word,
    Text,
    Flag,
    Offset,
    Linger,
}

/// The description of the format.
const FORMAT: &str = include_str!("../../../../src/report/FORMAT.md");

/// The records of format 1 and their keys, written down here a second time.
const RECORDS: &[(&str, &str)] = &[
    ("report", "name:w format:n pid:n comm:s kernel:s"),
    ("error", "report:w pid:n errno:w message:s"),
    ("version", "module:s kernel:s format:n schema:i"),
    ("attached", "pid:n comm:s state:w"),
    ("lock", "name:w longest_ns:n"),
    (
        "page",
        "address:h kind:w pfn:n order:n place:n index:h mapcount:n folio_mapcount:n exclusive:f \
         huge:f writable:f dirty:f accessed:f mapping:i flags:w walked:f visited:n found:n moved:f",
    ),
    (
        "mapper",
        "page:h pid:n comm:s state:w mm:i relation:w at:h writable:f dirty:f accessed:f",
    ),
    (
        "cow",
        "start:h end:h perms:w anon:n exclusive:n shared:n own:n unknown:n inherited:n huge:n file:n zero:n \
         ksm:n swap:n migration:n other:n moved:n name:s",
    ),
    (
        "share",
        "vma:h pid:n comm:s state:w mm:i relation:w pages:n",
    ),
    (
        "chain",
        "start:h end:h perms:w anon_pgoff:h anon_vma:i root:i links:n name:s",
    ),
    (
        "link",
        "vma:h anon_vma:i own:f parent:i depth:n children:n active_vmas:n refcount:n",
    ),
    ("run", "vma:h address:h pages:n anon_vma:i mapcount:n"),
    (
        "process",
        "pid:n role:w generation:n comm:s state:w parent:n tracer:n ns_pid:n threads:n born_ns:n \
         exec:f vfork:f init:f subreaper:f same_vm:f same_files:f same_fs:f",
    ),
    (
        "namespaces",
        "pid:n cgroup_ns:n ipc_ns:n net_ns:n pid_ns:n pid_ns_for_children:n time_ns:n \
         time_ns_for_children:n user_ns:n uts_ns:n",
    ),
    ("shared", "pid:n fds:n files:n sockets:n cut:n"),
    ("thread", "tid:n comm:s"),
    (
        "vma",
        "start:h end:h perms:w pgoff:h anon_pgoff:h anon_vma:i chain:n name:s",
    ),
    ("avc", "vma:h anon_vma:i own:f here:f"),
    (
        "anon_vma",
        "id:i root:i parent:i depth:n children:n active_vmas:n refcount:n members:n",
    ),
    (
        "member",
        "anon_vma:i pid:n comm:s state:w mm:i start:h end:h anon_pgoff:h relation:w",
    ),
    (
        "socket",
        "fd:n id:i inode:n netns:n family:w type:w protocol:w socket_state:w sk_state:w \
         shutdown:w local:s remote:s linger:l err:n soft_err:n file_refs:n rx_bytes:n rx_packets:n \
         tx_bytes:n tx_packets:n wmem:n sndbuf:n rmem:n rcvbuf:n drops:n inq:n outq:n busy:f",
    ),
    ("queue", "fd:n name:w packets:n shown:n"),
    ("signal", "fd:n async:f to:w pid:n signal:n"),
    (
        "waiter",
        "fd:n queue:w pos:n by:w function:s module:s exclusive:f",
    ),
    (
        "skb",
        "fd:n queue:w pos:n id:i len:n data_len:n truesize:n data:n tail:n end:n mac:o network:o \
         transport:o inner_mac:o inner_network:o inner_transport:o mac_len:n hdr_len:n protocol:h \
         cloned:f fclone:w users:n dataref:n flags:w frags:n frag_list:f pkt_type:w ip_summed:w \
         csum_level:n priority:n mark:h hash:h iif:n",
    ),
    ("frag", "fd:n queue:w pos:n index:n page:i offset:n size:n"),
    ("part", "fd:n queue:w pos:n index:n id:i len:n data_len:n"),
    ("header", "fd:n queue:w pos:n offset:n bytes:w"),
];

/// The keys of each summary.
const SUMMARIES: &[(&str, &str)] = &[
    (
        "anon_vma",
        "report:w vmas:n chained:n avcs:n anon_vmas:n members:n moved:n cut:n",
    ),
    ("sockets", "report:w fds:n sockets:n busy:n cut:n"),
    (
        "skbs",
        "report:w fds:n sockets:n queues:n skbs:n busy:n cut:n",
    ),
    ("waiters", "report:w fds:n sockets:n waiters:n busy:n cut:n"),
    (
        "lineage",
        "report:w ancestors:n descendants:n others:n threads:n fds:n moved:n cut:n",
    ),
    ("attached", "report:w attached:n limit:n cut:n"),
    ("locks", "report:w locks:n cut:n"),
    (
        "page",
        "report:w pages:n empty:n unmapped:n hugetlb:n mappers:n moved:n cut:n",
    ),
    (
        "cow",
        "report:w vmas:n told:n public:n hugetlb:n anon:n exclusive:n shared:n own:n unknown:n inherited:n \
         huge:n file:n zero:n ksm:n swap:n migration:n other:n moved:n cut:n",
    ),
    (
        "chains",
        "report:w mm:i vmas:n chained:n links:n runs:n pages:n other:n hugetlb:n \
         anon_vma_bytes:n avc_bytes:n moved:n cut:n",
    ),
];

fn keys(list: &str) -> BTreeMap<&str, Kind> {
    list.split_whitespace()
        .filter_map(|word| word.split_once(':'))
        .map(|(key, kind)| {
            let kind = match kind {
                "n" => Kind::Number,
                "h" => Kind::Hex,
                "i" => Kind::Id,
                "w" => Kind::Word,
                "s" => Kind::Text,
                "f" => Kind::Flag,
                "o" => Kind::Offset,
                _ => Kind::Linger,
            };
            (key, kind)
        })
        .collect()
}

fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = digits == "0" || !digits.starts_with('0');
    plain && value != "-0" && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_lower_hex(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_kind(value: &str, kind: Kind) -> bool {
    match kind {
        Kind::Number => is_number(value),
        Kind::Hex => value.strip_prefix("0x").is_some_and(is_lower_hex),
        Kind::Id => value.len() == 16 && is_lower_hex(value),
        Kind::Word => {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-,.:".contains(&b);
            !value.is_empty() && value.bytes().all(allowed)
        }
        Kind::Flag => matches!(value, "0" | "1"),
        Kind::Offset => value
            .split_once(':')
            .is_some_and(|(raw, mark)| is_number(raw) && matches!(mark, "set" | "unset")),
        Kind::Linger => value == "off" || is_number(value),
        Kind::Text => is_quoted(value),
    }
}

fn is_quoted(value: &str) -> bool {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let Some(mut rest) = inner.filter(|_| value.len() >= 2) else {
        return false;
    };
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return false,
            ' '..='~' if c != '\\' => {}
            '\\' => match rest.as_bytes() {
                [b'"' | b'\\', ..] => rest = &rest[1..],
                [b'x', _, _, ..] if u8::from_str_radix(&rest[1..3], 16).is_ok() => {
                    rest = &rest[3..];
                }
                _ => return false,
            },
            _ => return false,
        }
    }
    true
}

/// The pairs of a line: blanks within quotes do not part them.
fn pairs(line: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (i, b) in line.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted => {
                parts.push(&line[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&line[start..]);
    parts
}

/// Checks one line: a known kind, each of its keys once, each value of its kind. Gives the kind.
fn check_line(line: &str) -> Result<&str> {
    let parts = pairs(line);
    let (kind, parts) = parts.split_first().context("an empty line")?;
    let mut found = BTreeMap::new();
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .with_context(|| format!("no pair: {part:?}"))?;
        check!(found.insert(key, value).is_none(), "key {key} twice");
    }
    let list = if *kind == "summary" {
        let name = found.get("report").context("no report=")?;
        SUMMARIES.iter().find(|s| s.0 == *name)
    } else {
        RECORDS.iter().find(|r| r.0 == *kind)
    };
    let mut keys = keys(
        list.with_context(|| format!("an undocumented kind: {kind}"))?
            .1,
    );
    if found.contains_key("seq") {
        keys.extend([("seq", Kind::Number), ("end_seq", Kind::Number)]);
    }
    let missing: Vec<_> = keys
        .keys()
        .filter(|key| !found.contains_key(**key))
        .collect();
    check!(missing.is_empty(), "keys are missing: {missing:?}");
    for (key, value) in found {
        match keys.get(key) {
            Some(kind) => check!(is_kind(value, *kind), "{key}={value} is no {kind:?}"),
            // A later key: it must be in the document all the same.
            None => check!(
                FORMAT.contains(&format!("`{key}`")),
                "undocumented key {key}"
            ),
        }
    }
    Ok(kind)
}

/// Checks a text: only ASCII lines as documented, the first kind, and one summary, at the end.
fn check_text(text: &[u8], first: &str) -> Result<BTreeMap<String, usize>> {
    check!(text.ends_with(b"\n"), "no newline at the end");
    let text = std::str::from_utf8(text)?;
    check!(text.is_ascii(), "not ASCII");
    let mut kinds = BTreeMap::new();
    let count = text.lines().count();
    for (i, line) in text.lines().enumerate() {
        let kind = check_line(line).with_context(|| format!("line {}: {line}", i + 1))?;
        check_eq!(
            kind == "summary",
            i + 1 == count,
            "a summary in line {} of {count}",
            i + 1
        );
        check!(i > 0 || kind == first, "first line: {line}");
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(kinds)
}

fn every_line_keeps_to_the_format() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.puppet.set_comm(b"\"\\ \n\xff= report")?;
    let _child = scene.puppet.fork()?;
    attach(scene.puppet.pid)?;
    let kinds = check_text(&report_text("anon_vma", scene.puppet.pid)?, "report")?;
    for kind in ["report", "vma", "avc", "anon_vma", "member"] {
        check!(
            kinds.contains_key(kind),
            "anon_vma has no {kind}: {kinds:?}"
        );
    }
    let kinds = check_text(&report_text("sockets", scene.puppet.pid)?, "report")?;
    check_eq!(kinds.get("socket"), Some(&6), "socket records");
    let kinds = check_text(&report_text("skbs", scene.puppet.pid)?, "report")?;
    for kind in ["socket", "queue", "skb"] {
        check!(kinds.contains_key(kind), "skbs has no {kind}: {kinds:?}");
    }
    let watched = scene.watched()?;
    let kinds = check_text(&report_text("waiters", scene.puppet.pid)?, "report")?;
    for kind in ["socket", "signal", "waiter"] {
        check!(kinds.contains_key(kind), "waiters has no {kind}: {kinds:?}");
    }
    drop(watched);
    let kinds = check_text(&report_text("cow", scene.puppet.pid)?, "report")?;
    for kind in ["cow", "share"] {
        check!(kinds.contains_key(kind), "cow has no {kind}: {kinds:?}");
    }
    let kinds = check_text(&report_text("chains", scene.puppet.pid)?, "report")?;
    for kind in ["chain", "link", "run"] {
        check!(kinds.contains_key(kind), "chains has no {kind}: {kinds:?}");
    }
    let kinds = check_text(&report_text("lineage", scene.puppet.pid)?, "report")?;
    for kind in ["process", "namespaces", "shared", "thread"] {
        check!(kinds.contains_key(kind), "lineage has no {kind}: {kinds:?}");
    }
    let area = scene.area;
    let request = format!(
        "page {} {:#x} {:#x}",
        scene.puppet.pid,
        area.start,
        area.end()
    );
    let kinds = check_text(&query(request.as_bytes())?.1.whole()?, "report")?;
    for kind in ["page", "mapper"] {
        check!(kinds.contains_key(kind), "page has no {kind}: {kinds:?}");
    }
    check_text(&read_file("attached")?.whole()?, "attached")?;
    detach(scene.puppet.pid)?;
    check_text(&read_file("attached")?.whole()?, "summary")?;
    let kinds = check_text(&read_file("locks")?.whole()?, "lock")?;
    check_eq!(kinds.get("lock"), Some(&9), "lock records");
    let version = read_file("version")?.whole()?;
    check_eq!(
        check_line(std::str::from_utf8(&version)?.trim_end())?,
        "version",
        "kind"
    );
    for request in ["rubbish", "anon_vma 2", "anon_vma 4194304", "sockets 0"] {
        let (_, answer) = query(request.as_bytes())?;
        let line = std::str::from_utf8(&answer.text)?.trim_end();
        check_eq!(
            check_line(line).with_context(|| line.to_owned())?,
            "error",
            "kind"
        );
    }
    for report in REPORTS {
        check_text(&report_text(report, 1)?, "report")
            .with_context(|| format!("{report} of init"))?;
    }
    Ok(())
}
