// SPDX-License-Identifier: GPL-2.0

//! Do Rust and the C compiler agree on where the fields are?
//!
//! bindgen asks libclang, the kernel was built by gcc: its layout tests, at build time, cannot see where
//! those two differ. This compares with gcc's own word, when the module is loaded.

use crate::bindings;
use core::mem::{offset_of, size_of};
use kernel::{prelude::*, str::CStrExt};

/// Fails with `EINVAL`, naming each field in the log, unless both compilers agree.
pub(crate) fn check() -> Result {
    let mut c = bindings::ravel_layout::default();
    // SAFETY: `c` is valid for writing.
    unsafe { bindings::ravel_layout(&mut c) };

    macro_rules! size {
        ($name:ident, $field:ident) => {
            (
                concat!("sizeof(", stringify!($name), ")"),
                size_of::<bindings::$name>(),
                c.$field,
            )
        };
    }
    macro_rules! offset {
        ($name:ident . $member:ident, $field:ident) => {
            (
                concat!(stringify!($name), ".", stringify!($member)),
                offset_of!(bindings::$name, $member),
                c.$field,
            )
        };
    }

    let all = [
        size!(anon_vma, anon_vma_size),
        offset!(anon_vma.root, anon_vma_root),
        offset!(anon_vma.rwsem, anon_vma_rwsem),
        offset!(anon_vma.refcount, anon_vma_refcount),
        offset!(anon_vma.num_children, anon_vma_num_children),
        offset!(anon_vma.num_active_vmas, anon_vma_num_active_vmas),
        offset!(anon_vma.parent, anon_vma_parent),
        offset!(anon_vma.rb_root, anon_vma_rb_root),
        size!(anon_vma_chain, avc_size),
        offset!(anon_vma_chain.vma, avc_vma),
        offset!(anon_vma_chain.anon_vma, avc_anon_vma),
        offset!(anon_vma_chain.same_vma, avc_same_vma),
        offset!(anon_vma_chain.rb, avc_rb),
        offset!(anon_vma_chain.rb_subtree_last, avc_rb_subtree_last),
        size!(vm_area_struct, vma_size),
        offset!(vm_area_struct.vm_mm, vma_vm_mm),
        offset!(vm_area_struct.anon_vma_chain, vma_anon_vma_chain),
        offset!(vm_area_struct.anon_vma, vma_anon_vma),
        offset!(vm_area_struct.vm_file, vma_vm_file),
        size!(task_struct, task_size),
        offset!(task_struct.real_parent, task_real_parent),
        offset!(task_struct.group_leader, task_group_leader),
        offset!(task_struct.signal, task_signal),
        offset!(task_struct.comm, task_comm),
        offset!(task_struct.tgid, task_tgid),
        size!(ravel_sock, ravel_sock_size),
        offset!(ravel_sock.last, ravel_sock_last),
        size!(ravel_waiting, ravel_waiting_size),
        size!(ravel_skb, ravel_skb_size),
        offset!(ravel_skb.last, ravel_skb_last),
        size!(ravel_frag, ravel_frag_size),
    ];
    let mut agreed = true;
    for (what, rust, gcc) in all {
        if rust != gcc as usize {
            pr_err!("{} is {} for Rust and {} for C\n", what, rust, gcc);
            agreed = false;
        }
    }
    if agreed {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// The running kernel's release, as `uname -r` tells it.
pub(crate) fn kernel_release() -> &'static [u8] {
    // SAFETY: The initial namespace's name is a string, is never freed, and its release never changes.
    unsafe { CStr::from_char_ptr(bindings::ravel_kernel_release()) }.to_bytes()
}
