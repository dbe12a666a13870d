// SPDX-License-Identifier: GPL-2.0

//! Control blocks: what the owner of a queue keeps in an sk_buff (`sk_buff.cb`).

use crate::bindings;
use core::ptr::NonNull;

/// Whose a control block is, by the queue that the sk_buff is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::object) enum ControlKind {
    /// Somebody's that is not read.
    None,
    /// `struct tcp_skb_cb`, of what was received.
    TcpIncoming,
    /// `struct tcp_skb_cb`, of what is sent.
    TcpOutgoing,
    /// `struct unix_skb_parms`.
    Unix,
    /// `struct sock_exterr_skb`.
    Error,
}

/// What a control block says.
#[derive(Clone, Copy)]
pub(crate) enum Control {
    None,
    TcpIncoming {
        seq: u32,
        end_seq: u32,
        ack_seq: u32,
        flags: u16,
    },
    TcpOutgoing {
        seq: u32,
        end_seq: u32,
        flags: u16,
        sacked: u8,
    },
    Unix {
        /// Bytes that were read already.
        consumed: u32,
        /// Descriptors.
        fds: u32,
    },
    Error {
        errno: u32,
        info: u32,
        data: u32,
        origin: u8,
        type_: u8,
        code: u8,
    },
}

impl ControlKind {
    /// Reads a control block.
    ///
    /// # Safety
    ///
    /// The sk_buff is in a queue whose lock is held, and its control block is of this kind.
    pub(super) unsafe fn read(self, skb: *const bindings::sk_buff) -> Control {
        // SAFETY: The sk_buff stays, by the caller, and so does what this is cast to.
        unsafe {
            let block = &raw const (*skb).cb;
            match self {
                Self::None => Control::None,
                Self::TcpIncoming => {
                    let block = block.cast::<bindings::tcp_skb_cb>();
                    Control::TcpIncoming {
                        seq: (*block).seq,
                        end_seq: (*block).end_seq,
                        ack_seq: (*block).ack_seq,
                        flags: (*block).tcp_flags,
                    }
                }
                Self::TcpOutgoing => {
                    let block = block.cast::<bindings::tcp_skb_cb>();
                    Control::TcpOutgoing {
                        seq: (*block).seq,
                        end_seq: (*block).end_seq,
                        flags: (*block).tcp_flags,
                        sacked: (*block).sacked,
                    }
                }
                Self::Unix => {
                    // A stream's reader takes the descriptors away without the queue's lock, but
                    // takes that lock before it frees their list.
                    let list = NonNull::new(bindings::unix_skb_fp(skb));
                    Control::Unix {
                        consumed: bindings::unix_skb_consumed(skb),
                        fds: list.map_or(0, |list| (*list.as_ptr()).count.max(0) as u32),
                    }
                }
                Self::Error => {
                    let block = block.cast::<bindings::sock_exterr_skb>();
                    Control::Error {
                        errno: (*block).ee.ee_errno,
                        info: (*block).ee.ee_info,
                        data: *(*block).ee.__bindgen_anon_1.ee_data,
                        origin: (*block).ee.ee_origin,
                        type_: (*block).ee.ee_type,
                        code: (*block).ee.ee_code,
                    }
                }
            }
        }
    }
}
