// SPDX-License-Identifier: GPL-2.0
//! The test of VXLAN is about VRFs, too, and has bridges: the kernel that checks itself is built without.

use anyhow::Result;

use super::{are_there, passes_while_watched};
use crate::{tests, tier};

tests!("selftests" when has_bridges:
    net_vxlan_under_vrf [300 s],
);

fn has_bridges() -> bool {
    are_there() && !tier::is_debug()
}

fn net_vxlan_under_vrf() -> Result<()> {
    passes_while_watched(
        "vxlan under vrf",
        "./test_vxlan_under_vrf.sh",
        &["output", "queue", "transmit", "receive", "transport"],
    )
}
