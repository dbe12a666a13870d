//! Requests to the kernel by netlink, and their answers.

use std::io;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use ravel_records::SkState;

/// A connection to the kernel, in the network namespace of the thread that makes it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// Messages that could not be parsed.
    pub unparsed: u64,
}

impl Netlink {
    /// Connects.
    pub fn new(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            unparsed: 0,
        })
    }

    /// Makes a request, and calls a function for each message of the answer.
    pub fn ask<Q, A>(&mut self, flags: u16, request: Q, mut each: impl FnMut(A)) -> io::Result<()>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            if bytes.is_empty() {
                return Err(io::Error::other("the kernel closed the connection"));
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let invalid = |error| io::Error::other(format!("no netlink message: {error}"));
                let head = NetlinkBuffer::new_checked(rest).map_err(invalid)?;
                let (length, is_ours) = (
                    head.length() as usize,
                    head.sequence_number() == self.sequence,
                );
                // Messages are aligned to 4 bytes.
                let next = length.next_multiple_of(4).min(rest.len());
                let part = &rest[..length];
                rest = &rest[next..];
                if !is_ours {
                    continue;
                }
                match NetlinkMessage::<A>::deserialize(part).map(|message| message.payload) {
                    Ok(NetlinkPayload::Done(done)) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    Ok(NetlinkPayload::Done(_)) => return Ok(()),
                    Ok(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            Some(_) => Err(error.to_io()),
                            None => Ok(()),
                        };
                    }
                    Ok(NetlinkPayload::Overrun(_)) => {
                        return Err(io::Error::other("the kernel had no room for its answer"));
                    }
                    Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                    Ok(_) => {}
                    Err(_) => self.unparsed += 1,
                }
                // The answer to a request that is no dump is one message.
                if flags & netlink_packet_core::NLM_F_DUMP != netlink_packet_core::NLM_F_DUMP {
                    return Ok(());
                }
            }
        }
    }
}

/// A state of `net/tcp_states.h`.
pub fn state(number: u8) -> SkState {
    match number {
        1 => SkState::Established,
        2 => SkState::SynSent,
        3 => SkState::SynRecv,
        4 => SkState::FinWait1,
        5 => SkState::FinWait2,
        6 => SkState::TimeWait,
        7 => SkState::Close,
        8 => SkState::CloseWait,
        9 => SkState::LastAck,
        10 => SkState::Listen,
        11 => SkState::Closing,
        12 => SkState::NewSynRecv,
        13 => SkState::BoundInactive,
        other => SkState::Other(format!("state_{other}")),
    }
}
