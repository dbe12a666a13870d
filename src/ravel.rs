// SPDX-License-Identifier: GPL-2.0

//! ravel shows the chains that the kernel keeps behind a live process.
//!
//! An object of the kernel is held by a guard or a reference (`object`), read into plain values and
//! written down as records (`report`), and reaches the reader through debugfs (`interface`). What happens
//! meanwhile is kept in streams (`events`) for those who asked for it.

#![crate_name = "ravel"]

mod bindings;
mod events;
mod interface;
mod object;
mod report;

use kernel::prelude::*;

module! {
    type: Ravel,
    name: "ravel",
    authors: ["The ravel authors"],
    description: "Shows the anon_vma chains, sockets and sk_buffs of a process",
    license: "GPL v2",
}

struct Ravel {
    _interface: interface::Interface,
    // Behind that which makes streams, and so dropped after it.
    _ftrace: object::source::Ftrace,
}

impl kernel::Module for Ravel {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        object::layout::check()?;
        object::id::init();
        let ftrace = object::source::Ftrace;
        Ok(Self {
            _interface: interface::Interface::new()?,
            _ftrace: ftrace,
        })
    }
}
