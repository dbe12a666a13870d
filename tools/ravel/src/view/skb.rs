//! `ravel skb`: one sk_buff, its fields, its headers, and with `--draw` its buffer to scale.

use std::fmt::Write;

use ravel_records::decode::{Decoded, Layer, UNKNOWN, vlan_tag};
use ravel_records::{Flags, Skb};

use crate::packet::Found;
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, pad, plain};

/// Columns of a drawing where the screen does not say.
const WIDTH: usize = 100;

/// Writes all that is known of it.
pub fn draw(found: &Found, picture: bool, screen: &Screen) -> String {
    let skb = &found.skb;
    let mut text = format!(
        "{STRONG}sk_buff {}{STRONG:#}  {} bytes, position {} of {}\n",
        skb.id, skb.len, skb.pos, skb.queue
    );
    for holder in &found.holders {
        let comm = plain(&holder.comm);
        let _ = writeln!(
            text,
            "  fd {} of {NAME}{comm}{NAME:#} (pid {})",
            holder.fd, holder.pid
        );
    }
    if picture {
        text.push('\n');
        buffer(&mut text, found, screen);
    }
    text.push('\n');
    headers(&mut text, found);
    fields(&mut text, skb);
    text
}

/// The headers that its bytes have, and where offsets say something else.
fn headers(text: &mut String, found: &Found) {
    let Decoded {
        layers,
        disagreements,
    } = &found.decoded;
    let width = layers
        .iter()
        .map(|layer| layer.name.len())
        .max()
        .unwrap_or(0);
    for layer in layers {
        let name = pad(layer.name, width);
        let _ = writeln!(
            text,
            "  {:>5}  {STRONG}{name}{STRONG:#}  {:>3} bytes  {}",
            layer.offset, layer.len, layer.says
        );
    }
    if layers.is_empty() {
        let _ = writeln!(text, "  {DIM}no header that is known{DIM:#}");
    }
    for disagreement in disagreements {
        let _ = writeln!(text, "  {NOTE}{disagreement}{NOTE:#}");
    }
    text.push('\n');
}

fn fields(text: &mut String, skb: &Skb) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {DIM}{name:<12}{DIM:#}{value}");
    };
    line(
        "data",
        format!(
            "{} linear, {} paged; headroom {}, tailroom {}; truesize {}",
            skb.linear(),
            skb.data_len,
            skb.headroom(),
            skb.tailroom(),
            skb.truesize
        ),
    );
    let offsets = skb.offsets().map(|(name, offset)| match offset.get() {
        Some(at) if !skb.is_encapsulated() && name.starts_with("inner") => {
            format!("{name} {at} (stale)")
        }
        Some(at) if skb.holds(offset) => format!("{name} {at}"),
        Some(at) => format!("{name} {at} (outside)"),
        None => format!("{name} - ({})", offset.raw),
    });
    line("offsets", offsets.join(", "));
    line(
        "lengths",
        format!("mac_len {}, hdr_len {}", skb.mac_len, skb.hdr_len),
    );
    line(
        "sharing",
        format!(
            "cloned {}, fclone {}, users {}, dataref {}",
            yes(skb.cloned),
            skb.fclone,
            skb.users,
            skb.dataref
        ),
    );
    line(
        "packet",
        format!("{}, protocol {}", skb.pkt_type, skb.protocol),
    );
    let mut sum = format!("{}, level {}", skb.ip_summed, skb.csum_level);
    if let (Some(start), Some(offset)) = (skb.csum_start, skb.csum_offset) {
        let _ = write!(
            sum,
            ", from {start} on, to {}",
            start.saturating_add(offset)
        );
    }
    line("checksum", sum);
    if let Some(size) = skb.gso_size {
        let kinds = skb
            .gso_type
            .as_ref()
            .map_or_else(String::new, Flags::to_string);
        let segments = skb.gso_segs.unwrap_or(0);
        line(
            "GSO",
            format!("{size} bytes in each, {segments} segments, {kinds}"),
        );
    }
    if let (Some(proto), Some(tci)) = (skb.vlan_proto, skb.vlan_tci) {
        line(
            "VLAN",
            format!(
                "{}, {}, beside the bytes",
                proto
                    .name()
                    .map_or_else(|| proto.to_string(), str::to_owned),
                vlan_tag(tci.0)
            ),
        );
    }
    line(
        "marks",
        format!(
            "priority {}, mark {}, hash {}",
            skb.priority, skb.mark, skb.hash
        ),
    );
    if let Some(encap) = &skb.encap {
        line(
            "tunnel",
            format!("the datagram goes to a socket of {encap}"),
        );
    }
    if skb.iif > 0 {
        let name = skb.dev.as_ref().map_or_else(|| "-".to_owned(), plain);
        line("device", format!("{name} (index {})", skb.iif));
    }
    if let (Some(at), Some(clock), Some(age)) = (skb.tstamp, &skb.clock, skb.age_ns) {
        let age = age as f64 / 1e6;
        line("time", format!("{at} ns, {clock}: {age:.3} ms ago"));
    }
    line("flags", skb.flags.to_string());
    if let (Some(seq), Some(end)) = (skb.seq, skb.end_seq) {
        let flags = skb
            .tcp_flags
            .as_ref()
            .map_or_else(String::new, Flags::to_string);
        let mut tcp = format!("seq {seq} to {end}, {flags}");
        if let Some(sacked) = skb
            .sacked
            .as_ref()
            .filter(|flags| flags.iter().next().is_some())
        {
            let _ = write!(tcp, ", {sacked}");
        }
        line("TCP", tcp);
    }
    if let (Some(consumed), Some(fds)) = (skb.consumed, skb.fds) {
        line(
            "unix",
            format!("{consumed} bytes read, {fds} descriptors in flight"),
        );
    }
    if let (Some(errno), Some(origin)) = (skb.ee_errno, skb.ee_origin) {
        line("error", format!("errno {errno}, origin {origin}"));
    }
    for page in &skb.pages {
        let (size, offset) = (page.size, page.offset);
        line("page", format!("{size} bytes at {offset} of {}", page.page));
    }
    for part in &skb.parts {
        line("part", format!("{} bytes, sk_buff {}", part.len, part.id));
    }
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

/// What a column of the drawing stands for. Where several meet in one, the least comes last.
fn column(skb: &Skb, decoded: &Decoded, from: u64, to: u64) -> char {
    let meets = |start: u64, end: u64| start < to && from < end;
    let mut layers = decoded.layers.iter();
    let header = |layer: &Layer| meets(layer.offset, layer.end());
    if let Some(layer) = layers.find(|layer| header(layer)) {
        if layer.name == UNKNOWN { '?' } else { 'H' }
    } else if meets(skb.data, skb.tail) {
        '#'
    } else {
        '.'
    }
}

/// The buffer to scale, and below it every pointer at its place.
fn buffer(text: &mut String, found: &Found, screen: &Screen) {
    let (skb, decoded) = (&found.skb, &found.decoded);
    let width = screen
        .width
        .unwrap_or(WIDTH)
        .saturating_sub(4)
        .clamp(20, 200) as u64;
    // Nobody has a buffer of 4 GiB, but a saved report may say so.
    let end = skb.end.clamp(1, u32::MAX.into());
    let place = |at: u64| (at.min(end) * width / end).min(width - 1) as usize;
    let bar: String = (0..width)
        .map(|at| {
            column(
                skb,
                decoded,
                at * end / width,
                ((at + 1) * end).div_ceil(width),
            )
        })
        .collect();
    let _ = writeln!(text, "  {bar}");
    let mut pointers: Vec<(u64, String)> = vec![
        (0, format!("head 0, {} bytes of headroom", skb.headroom())),
        (skb.data, format!("data {}", skb.data)),
        (
            skb.tail,
            format!("tail {}, {} bytes of tailroom", skb.tail, skb.tailroom()),
        ),
        (skb.end, format!("end {}", skb.end)),
    ];
    for (name, offset) in skb.valid_offsets() {
        if let Some(at) = offset.get() {
            let what = match decoded.at(at.into()) {
                Some(layer) => layer.name,
                None if skb.holds(offset) => "no header that is known",
                None => "outside of the buffer",
            };
            pointers.push((at.into(), format!("{name} {at}: {what}")));
        }
    }
    pointers.sort();
    for (at, says) in pointers {
        let column = place(at);
        let room = width as usize - column;
        // Where there is no room on the right, it stands on the left.
        if says.len() + 2 <= room || column < says.len() + 1 {
            let _ = writeln!(text, "  {}^ {says}", " ".repeat(column));
        } else {
            let _ = writeln!(text, "  {}{says} ^", " ".repeat(column - says.len() - 1));
        }
    }
    for (index, page) in skb.pages.iter().enumerate() {
        let len = page.size.saturating_mul(width).div_ceil(end).min(width) as usize;
        let cut = if page.size > end {
            " (longer than the buffer)"
        } else {
            ""
        };
        let _ = writeln!(text, "  {}", "=".repeat(len.max(1)));
        let _ = writeln!(
            text,
            "  page {index}: {} bytes at {}{cut}",
            page.size, page.offset
        );
    }
    let unknown = match decoded.layers.iter().any(|layer| layer.name == UNKNOWN) {
        true => ", ? unknown",
        false => "",
    };
    let _ = writeln!(
        text,
        "  {DIM}H header{unknown}, # data in the linear part, . free, = data in a page; a column is {} bytes{DIM:#}",
        end.div_ceil(width)
    );
}
