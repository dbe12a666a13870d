// SPDX-License-Identifier: GPL-2.0

//! ravel shows the chains that the kernel keeps behind a live process.
//!
//! An object of the kernel is held by a guard or a reference (`object`), read into plain values and
//! written down as records (`report`), and reaches the reader through debugfs (`interface`). What
//! happens meanwhile is kept in streams (`events`) for those who asked for it.

#![crate_name = "ravel"]

mod arch;
mod bindings;
mod events;
mod interface;
mod object;
mod records;
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
    _ftrace: object::trace::functions::Ftrace,
    // Behind everything that opens files.
    _releases: object::net::release::Releases,
}

impl kernel::Module for Ravel {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        arch::init();
        object::sync::id::init();
        object::net::owner::init();
        object::net::sharers::init();
        let releases = object::net::release::Releases::new()?;
        let ftrace = object::trace::functions::Ftrace::new()?;
        Ok(Self {
            _interface: interface::Interface::new()?,
            _ftrace: ftrace,
            _releases: releases,
        })
    }
}
