//! The commands that show one answer, by subject.

pub mod machine;
pub mod memory;
pub mod sockets;
