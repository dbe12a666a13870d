// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that can be removed safely, with state of their own for each open descriptor.
//!
//! The kernel crate's debugfs files name no owner: a module can be removed while one is open, and closing
//! it then runs freed code. They cannot fail either, nor stream. So these are made here.
//!
//! Naming an owner has a gap of its own: delete_module() takes the module's last reference before it marks
//! the module as going, and debugfs WARNs of an open() in between. So the operations name no owner, and each
//! open descriptor holds the module by a second file, which nobody sees and whose operations do name it
//! ([`ModuleRef`]).
//!
//! debugfs keeps a file's operations from running while, and after, the file is removed; only `release`
//! still runs, for descriptors that were open. So what an open descriptor needs, it owns.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::gfp;
use crate::bindings;
use core::{marker::PhantomData, mem, pin::Pin, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    ffi::{c_char, c_int, c_void},
    new_mutex,
    prelude::*,
    str::CStrExt,
    sync::{Arc, Mutex},
    types::ForeignOwnable,
    uaccess::{UserPtr, UserSlice, UserSliceReader, UserSliceWriter},
    ModuleMetadata,
};

/// The mode of all files: root reads and writes.
const MODE: bindings::umode_t = 0o600;

/// What a file does. The implementor is what all descriptors of the file share.
pub(crate) trait FileOps: Send + Sync + Sized + 'static {
    /// What each descriptor has for itself.
    type Open: Send + Unpin;

    /// Begins a descriptor.
    fn open(&self) -> Result<Self::Open>;

    /// Reads what comes next; 0 at the end.
    fn read(open: &mut Self::Open, to: &mut UserSliceWriter) -> Result<usize>;

    /// Takes one write, all of it or none.
    fn write(open: &mut Self::Open, from: UserSliceReader) -> Result<()>;

    /// Whether [`Self::poll`] is to be asked; else poll() says that the file is always ready.
    const POLLS: bool = false;

    /// Whether there is something to read now. Whatever will change that is joined first.
    fn poll(_open: &mut Self::Open, _wait: &PollWait<'_>) -> bool {
        true
    }
}

/// A poll() under way, for what it is to wait for.
///
/// # Invariants
///
/// The file is open; the table is null or valid. Both for the lifetime.
pub(crate) struct PollWait<'a> {
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
    _lifetime: PhantomData<&'a ()>,
}

impl PollWait<'_> {
    /// The file and the table.
    pub(super) fn raw(&self) -> (*mut bindings::file, *mut bindings::poll_table_struct) {
        (self.file, self.table)
    }
}

/// A folder, there as long as this is.
///
/// # Invariants
///
/// `dentry` was made by debugfs and not yet removed. Its parent is kept.
pub(crate) struct Dir {
    dentry: NonNull<bindings::dentry>,
    _parent: Option<Arc<Dir>>,
}

// SAFETY: debugfs' functions can be called from any thread.
unsafe impl Send for Dir {}
// SAFETY: As above, and debugfs locks.
unsafe impl Sync for Dir {}

impl Dir {
    /// Makes a folder in `parent`, or at debugfs' top.
    pub(crate) fn new(name: &CStr, parent: Option<Arc<Dir>>) -> Result<Arc<Self>> {
        let above = parent
            .as_ref()
            .map_or(core::ptr::null_mut(), |dir| dir.dentry.as_ptr());
        // SAFETY: `name` is a string, and `above` null or a folder by the type's invariant.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), above) };
        // INVARIANT: Just made.
        let dir = Self {
            dentry: NonNull::new(from_err_ptr(dentry)?).ok_or(ENODEV)?,
            _parent: parent,
        };
        Ok(Arc::new(dir, gfp())?)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. The parent, which is dropped after this, keeps it valid.
        unsafe { bindings::debugfs_remove(self.dentry.as_ptr()) };
    }
}

/// A file, there as long as this is.
///
/// # Invariants
///
/// `dentry` was made by debugfs with `data` as its data, and not yet removed. Its folder is kept.
pub(crate) struct File<T: FileOps> {
    dentry: NonNull<bindings::dentry>,
    _data: Arc<T>,
    _dir: Arc<Dir>,
}

// SAFETY: debugfs' functions can be called from any thread, and `T` may be shared.
unsafe impl<T: FileOps> Send for File<T> {}
// SAFETY: As above, and debugfs locks.
unsafe impl<T: FileOps> Sync for File<T> {}

impl<T: FileOps> File<T> {
    /// Makes a file in `dir`.
    pub(crate) fn new(name: &CStr, dir: &Arc<Dir>, data: T) -> Result<Self> {
        let data = Arc::new(data, gfp())?;
        // SAFETY: `name` is a string and `dir` a folder. `data` lives until the file is removed, since
        // this keeps it; the operations live as long as the module, which open descriptors keep.
        let dentry = from_err_ptr(unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                MODE,
                dir.dentry.as_ptr(),
                Arc::as_ptr(&data).cast_mut().cast(),
                core::ptr::null(),
                &Table::<T>::OPS,
            )
        })?;
        // INVARIANT: Just made.
        Ok(Self {
            dentry: NonNull::new(dentry).ok_or(ENODEV)?,
            _data: data,
            _dir: dir.clone(),
        })
    }
}

impl<T: FileOps> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. This waits for operations that run; the data is dropped after.
        unsafe { bindings::debugfs_remove(self.dentry.as_ptr()) };
    }
}

/// A reference to this module, which can be given up by code of the module's own.
///
/// module_put() could not: the module might be freed before that code has returned. fput() leaves the last
/// step, and with it module_put(), to the kernel's: to task work, which runs after the work at hand, that is
/// after debugfs is done with the file being released. (Kernel threads have no task work: theirs is put off
/// by a tick, and by the grace period that freeing a module takes. None is known to open these files.)
///
/// # Invariants
///
/// A reference to the file is owned, and its operations name this module as their owner.
struct ModuleRef(NonNull<bindings::file>);

// SAFETY: The file is only ever put, which can be done from any thread.
unsafe impl Send for ModuleRef {}

impl ModuleRef {
    const OPS: bindings::file_operations = bindings::file_operations {
        owner: crate::LocalModule::THIS_MODULE.as_ptr(),
        // SAFETY: All zeroes is a table of operations without any.
        ..unsafe { mem::MaybeUninit::zeroed().assume_init() }
    };

    /// Fails without a word if the module is being removed.
    fn new() -> Result<Self> {
        // SAFETY: The name is a string, and the operations live as long as the module, which they keep.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                c"[ravel]".as_char_ptr(),
                &Self::OPS,
                core::ptr::null_mut(),
                0,
            )
        })?;
        // INVARIANT: Just made.
        NonNull::new(file).map(Self).ok_or(ENODEV)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// The operations as C calls them.
struct Table<T>(PhantomData<T>);

/// An open descriptor.
#[pin_data]
struct Descriptor<O> {
    #[pin]
    open: Mutex<O>,
    _module: ModuleRef,
}

/// An open descriptor's own state.
type Private<T> = Pin<KBox<Descriptor<<T as FileOps>::Open>>>;

impl<T: FileOps> Table<T> {
    const OPS: bindings::file_operations = bindings::file_operations {
        open: Some(Self::open),
        release: Some(Self::release),
        read: Some(Self::read),
        write: Some(Self::write),
        poll: if T::POLLS { Some(Self::poll) } else { None },
        // SAFETY: All zeroes is a table of operations without any.
        ..unsafe { mem::MaybeUninit::zeroed().assume_init() }
    };

    /// # Safety
    ///
    /// Called by debugfs to open a file made by [`File::new`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // The mode lets in whoever is uid 0: the root of a user namespace that maps it, too.
        // SAFETY: Looks at the current task only.
        if !unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
            return EPERM.to_errno();
        }
        // SAFETY: debugfs keeps the file from being removed during this call, and so its data alive.
        let data = unsafe { &*(*inode).i_private.cast::<T>() };
        let private = match Self::begin(data) {
            Ok(private) => private,
            Err(err) => return err.to_errno(),
        };
        // SAFETY: `file` is being opened: its private data is ours to set.
        unsafe { (*file).private_data = Private::<T>::into_foreign(private) };
        // What is read is made while it is read, and lies at no offset.
        // SAFETY: Both are valid and being opened.
        unsafe { bindings::stream_open(inode, file) }
    }

    fn begin(data: &T) -> Result<Private<T>> {
        // First of all: from here on the module stays. That its code runs until then is due to debugfs,
        // which has the module's exit wait for open() to return before the file is removed.
        let module = ModuleRef::new().map_err(|err| if err == ENOENT { ENXIO } else { err })?;
        let open = data.open()?;
        KBox::pin_init(
            pin_init!(Descriptor {
                open <- new_mutex!(open),
                _module: module,
            }),
            gfp(),
        )
    }

    /// # Safety
    ///
    /// Called once, for a file that [`Self::open`] opened, after all other calls.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: open() set the private data, and nothing uses it any more.
        drop(unsafe { Private::<T>::from_foreign((*file).private_data) });
        0
    }

    /// # Safety
    ///
    /// Called for an open file, with a user's buffer of `len` bytes.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buf: *mut c_char,
        len: usize,
        _pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: open() set the private data; release() comes after this call.
        let this = unsafe { Private::<T>::borrow((*file).private_data) };
        let mut to = UserSlice::new(UserPtr::from_ptr(buf.cast::<c_void>()), len).writer();
        let result = T::read(&mut this.open.lock(), &mut to);
        match result {
            Ok(read) => read as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called for an open file, with a user's buffer of `len` bytes.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buf: *const c_char,
        len: usize,
        _pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: open() set the private data; release() comes after this call.
        let this = unsafe { Private::<T>::borrow((*file).private_data) };
        let ptr = UserPtr::from_ptr(buf.cast_mut().cast::<c_void>());
        let result = T::write(&mut this.open.lock(), UserSlice::new(ptr, len).reader());
        match result {
            Ok(()) => len as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called for an open file.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: open() set the private data; release() comes after this call.
        let this = unsafe { Private::<T>::borrow((*file).private_data) };
        // INVARIANT: Both are valid during this call.
        let wait = PollWait {
            file,
            table,
            _lifetime: PhantomData,
        };
        let writable = bindings::POLLOUT | bindings::POLLWRNORM;
        if T::poll(&mut this.open.lock(), &wait) {
            bindings::POLLIN | bindings::POLLRDNORM | writable
        } else {
            writable
        }
    }
}
