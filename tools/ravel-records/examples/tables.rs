//! Writes the tables of documents anew, from the definitions of records: `tables FILE...`.

use std::error::Error;
use std::{env, fs};

use ravel_records::describe::with_tables;

fn main() -> Result<(), Box<dyn Error>> {
    for path in env::args_os().skip(1) {
        let document = fs::read_to_string(&path)?;
        fs::write(&path, with_tables(&document)?)?;
    }
    Ok(())
}
