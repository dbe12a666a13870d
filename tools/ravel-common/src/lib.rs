//! What the commands of ravel share: output, explanations of errors, signals, streams of events.

pub mod kernel;
pub mod machine;
pub mod origin;
pub mod output;
pub mod queue_cli;
pub mod remedy;
pub mod screen;
pub mod stop;
pub mod streams;
pub mod table;
