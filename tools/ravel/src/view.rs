//! Reports for people.

pub mod anon;
mod remarks;
pub mod skbs;
pub mod sockets;
mod table;

use ravel_records::Header;

use crate::screen::{DIM, NAME, NOTE, STRONG, plain};

/// The first line of every report: whose it is, and where.
fn heading(subject: &str, header: &Header) -> String {
    let comm = plain(&header.comm);
    let pid = header.pid;
    let kernel = plain(&header.kernel);
    format!(
        "{STRONG}{subject}{STRONG:#} of {NAME}{comm}{NAME:#} (pid {pid}), {DIM}Linux {kernel}{DIM:#}\n"
    )
}

/// What a bound of the module left out, if it did.
fn left_out(cut: u64) -> String {
    match cut {
        0 => String::new(),
        cut => format!(
            "{NOTE}{} left out: the module bounds them.{NOTE:#}\n",
            crate::screen::count(cut, "record", "records")
        ),
    }
}
