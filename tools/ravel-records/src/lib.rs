//! Typed records of the reports that the ravel kernel module makes.
//!
//! The text format is described in `src/report/FORMAT.md` of the module; names here are its names.
//! A report is parsed from its bytes, and is whole or an [`Error`]:
//!
//! ```
//! # let text = b"report name=sockets format=1 pid=7 comm=\"sh\" kernel=\"7.3.4\"\n\
//! #     summary report=sockets fds=3 sockets=0 waiting=0 busy=0 cut=0\n";
//! use ravel_records::SocketsReport;
//!
//! let report = SocketsReport::parse(text)?;
//! assert_eq!(report.header.comm.to_string(), "sh");
//! # Ok::<(), ravel_records::Error>(())
//! ```
//!
//! [`client::Client`] asks a loaded module for one. Kinds of records and keys which this version
//! does not know are passed over, as the format asks of its readers; a key that it does know and
//! does not find is an error.
//!
//! # As JSON
//!
//! Every type is `Serialize` and `Deserialize` under the keys of the format. Numbers are numbers,
//! booleans booleans, words strings in lower case, sets of flags arrays of such strings. What does not
//! exist is null: an id that names no object, a timer that is off, an empty string, the word `none`, an
//! ioctl() that fails. Ids and hex values are strings as they stand in the report, since JSON readers
//! lose digits above 2^53; an offset is `{"raw": 82, "set": true}`. Bytes that are not UTF-8 become
//! U+FFFD: only [`Text`] itself keeps every byte. [`json`] writes documents that are safe to print.

mod anon;
mod binary;
mod body;
mod chains;
pub mod client;
mod control;
mod cow;
pub mod decode;
pub mod describe;
mod error;
mod events;
mod events_client;
pub mod json;
mod line;
mod lineage;
mod netevents;
mod page;
#[path = "../../../src/records.rs"]
pub mod records;
mod sharers;
mod skbs;
mod sockets;
mod tree;
mod value;
pub mod verdict;
mod waiters;
pub mod walks;
mod words;

pub use anon::{AnonVma, AnonVmaReport, AnonVmaSummary, Avc, Member, Vma};
pub use body::{FORMAT, Header};
pub use chains::{Chain, ChainsReport, ChainsSummary, Link, Run};
pub use control::{Attached, AttachedProcess, AttachedSummary, Version};
pub use cow::{Cow, CowReport, CowSummary, PageCounts, Share};
pub use error::{Error, ReportError};
pub use events::{
    Batch, BatchHeader, BatchSummary, Event, Exec, Exit, Failed, FailedHeader, FailedSummary, Fork,
    Loss, Source, Sources, Stream, Streams, StreamsSummary,
};
pub use events_client::{HeldStream, Reader};
pub use line::{Line, Quoted, Value};
pub use lineage::{Kin, LineageReport, LineageSummary, Namespaces, Shared, Thread};
pub use netevents::{Close, Dropped, Packet, Release, Reset, Shut, TcpState};
pub use page::{Mapper, Page, PageReport, PageSummary};
pub use sharers::{SharedFile, Sharer, SharersReport, SharersSummary};
pub use skbs::{Frag, HeaderBytes, Part, Queue, Skb, SkbsReport, SkbsSummary, SocketQueues};
pub use sockets::{
    PacketRing, Peer, Socket, SocketDetail, SocketMemory, SocketsReport, SocketsSummary, Sockmap,
    Tcp, Waiting,
};
pub use tree::{Edge, Tree};
pub use value::{
    Bytes, EtherType, Flags, Hex, Id, Linger, Offset, Text, Timer, is_active, visible,
};
pub use verdict::{Effect, Operation, PeerSees, Reads, Verdict, Why, WriteFirst};
pub use waiters::{Signal, SocketWaiters, Waiter, WaitersReport, WaitersSummary};
pub use words::{
    Agreement, Checksum, Clock, Encap, Family, Fclone, Fin, Holds, MemberState, PacketType,
    PageKind, Point, ProcessState, Protocol, QueueName, Reason, Relation, ReportName, RingVersion,
    Role, Scope, Shutdown, SignalTo, SkState, SocketKind, SocketState, TcpTimer, WaitQueue,
    WaitsBy, Way,
};
