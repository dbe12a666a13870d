// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that can be removed safely, with state of their own for each open descriptor.
//!
//! The kernel crate's debugfs files name no owner: a module can be removed while one is open, and
//! closing it then runs freed code. They cannot fail either, nor stream. So these are made here.
//!
//! Naming an owner has a gap of its own: delete_module() takes the module's last reference before
//! it marks the module as going, and debugfs WARNs of an open() in between. So the operations name
//! no owner, and each open descriptor holds the module by a second file, which nobody sees and
//! whose operations do name it ([`ModuleRef`]).
//!
//! debugfs could also keep all operations from running while, and after, a file is removed. It
//! would then wait for each that runs, and a read() can block for ever in a fault on its buffer:
//! one reader could stop whoever removes the file. So only open() is protected by debugfs. What an
//! open descriptor needs, it owns, and each operation begins by looking whether the file was
//! removed.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use crate::bindings;
use crate::object::{compat::this_module, gfp};
use core::{marker::PhantomData, mem, pin::Pin, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    ffi::{c_char, c_int, c_void},
    new_mutex,
    prelude::*,
    str::CStrExt,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
    types::ForeignOwnable,
    uaccess::{UserPtr, UserSlice, UserSliceReader, UserSliceWriter},
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

    /// Returns whether there is something to read now; an error if there will never be, as poll()
    /// reports by POLLHUP. Registers for whatever changes that before it looks.
    fn poll(_open: &mut Self::Open, _wait: &PollWait<'_>) -> Result<bool> {
        Ok(true)
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
    pub(in crate::object) fn raw(&self) -> (*mut bindings::file, *mut bindings::poll_table_struct) {
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
    data: Arc<Data<T>>,
    _dir: Arc<Dir>,
}

/// What a file's inode refers to.
struct Data<T> {
    ops: T,
    removed: Removed,
}

/// Whether a file was removed: its own view, and that of each descriptor that is open.
#[derive(Clone)]
struct Removed(Arc<Atomic<i32>>);

impl Removed {
    fn new() -> Result<Self> {
        Ok(Self(Arc::new(Atomic::new(0), gfp())?))
    }

    fn set(&self) {
        self.0.store(1, Relaxed);
    }

    /// Fails with `EIO` once the file was removed.
    fn check(&self) -> Result {
        match self.0.load(Relaxed) {
            0 => Ok(()),
            _ => Err(EIO),
        }
    }
}

// SAFETY: debugfs' functions can be called from any thread, and `T` may be shared.
unsafe impl<T: FileOps> Send for File<T> {}
// SAFETY: As above, and debugfs locks.
unsafe impl<T: FileOps> Sync for File<T> {}

impl<T: FileOps> File<T> {
    /// Makes a file in `dir`.
    pub(crate) fn new(name: &CStr, dir: &Arc<Dir>, data: T) -> Result<Self> {
        let data = Data {
            ops: data,
            removed: Removed::new()?,
        };
        let data = Arc::new(data, gfp())?;
        // SAFETY: `name` is a string and `dir` a folder. `data` lives until the file is removed,
        // since this keeps it; the operations live as long as the module, which open descriptors
        // keep.
        let dentry = from_err_ptr(unsafe {
            bindings::debugfs_create_file_unsafe(
                name.as_char_ptr(),
                MODE,
                dir.dentry.as_ptr(),
                Arc::as_ptr(&data).cast_mut().cast(),
                &Table::<T>::OPS,
            )
        })?;
        // INVARIANT: Just made.
        Ok(Self {
            dentry: NonNull::new(dentry).ok_or(ENODEV)?,
            data,
            _dir: dir.clone(),
        })
    }
}

impl<T: FileOps> Drop for File<T> {
    fn drop(&mut self) {
        self.data.removed.set();
        // SAFETY: By the type's invariant. This waits for open() where it runs; the data is dropped
        // after.
        unsafe { bindings::debugfs_remove(self.dentry.as_ptr()) };
    }
}

/// A reference to this module, which can be given up by code of the module's own.
///
/// module_put() could not: the module might be freed before that code has returned. fput() leaves
/// the last step, and with it module_put(), to the kernel's: to task work, which runs after the
/// current work, that is after debugfs is done with the file being released. (Kernel threads have
/// no task work: theirs is put off by a tick, and by the grace period that freeing a module takes.
/// None is known to open these files.)
///
/// # Invariants
///
/// A reference to the file is owned, and its operations name this module as their owner.
struct ModuleRef(NonNull<bindings::file>);

// SAFETY: The file is only ever put, which can be done from any thread.
unsafe impl Send for ModuleRef {}

impl ModuleRef {
    const OPS: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        // SAFETY: All zeroes is a table of operations without any.
        ..unsafe { mem::MaybeUninit::zeroed().assume_init() }
    };

    /// Fails without a word if the module is being removed.
    fn new() -> Result<Self> {
        // SAFETY: The name is a string, and the operations live as long as the module, which they
        // keep.
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
    removed: Removed,
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
        poll: Some(Self::poll),
        // SAFETY: All zeroes is a table of operations without any.
        ..unsafe { mem::MaybeUninit::zeroed().assume_init() }
    };

    /// # Safety
    ///
    /// Called by debugfs to open a file made by [`File::new`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By this function's contract.
        let result = unsafe { Self::try_open(inode, file) };
        if let Err(err) = result {
            // SAFETY: `file` is being opened. debugfs' own operations take the place of the
            // module's, which may be removed before the kernel puts the file.
            unsafe { Self::forget_module(inode, file) };
            return err.to_errno();
        }
        // What is read is made while it is read, and lies at no offset.
        // SAFETY: Both are valid and being opened.
        unsafe { bindings::stream_open(inode, file) }
    }

    /// # Safety
    ///
    /// As for [`Self::open`].
    unsafe fn try_open(inode: *mut bindings::inode, file: *mut bindings::file) -> Result {
        // The mode lets in whoever is uid 0: the root of a user namespace that maps it, too.
        // SAFETY: Looks at the current task only.
        if !unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
            return Err(EPERM);
        }
        // SAFETY: debugfs keeps the file from being removed during this call, and so its data
        // alive.
        let data = unsafe { &*(*inode).i_private.cast::<Data<T>>() };
        let private = Self::begin(data)?;
        // SAFETY: `file` is being opened: its private data is ours to set.
        unsafe { (*file).private_data = Private::<T>::into_foreign(private) };
        Ok(())
    }

    /// Gives a file the operations of its inode, which are debugfs' own.
    ///
    /// # Safety
    ///
    /// The file is of this inode, and is being opened or released.
    unsafe fn forget_module(inode: *mut bindings::inode, file: *mut bindings::file) {
        // SAFETY: Nobody else uses the file, by this function's contract. Neither table has an
        // owner to be counted.
        unsafe { (*file).f_op = (*inode).__bindgen_anon_3.i_fop };
    }

    fn begin(data: &Data<T>) -> Result<Private<T>> {
        // First of all: from here on the module stays. That its code runs until then is due to
        // debugfs, which has the module's exit wait for open() to return before the file is
        // removed.
        let module = ModuleRef::new().map_err(|err| if err == ENOENT { ENXIO } else { err })?;
        let open = data.ops.open()?;
        KBox::pin_init(
            pin_init!(Descriptor {
                open <- new_mutex!(open),
                removed: data.removed.clone(),
                _module: module,
            }),
            gfp(),
        )
    }

    /// # Safety
    ///
    /// Called once, for a file that [`Self::open`] opened, after all other calls.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The file is being released.
        unsafe { Self::forget_module(inode, file) };
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
        let mut read = || {
            this.removed.check()?;
            T::read(&mut this.open.lock(), &mut to)
        };
        match read() {
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
        let write = || {
            this.removed.check()?;
            T::write(&mut this.open.lock(), UserSlice::new(ptr, len).reader())
        };
        match write() {
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
        // Registers in any case: once the file was removed, nobody calls T::poll() any more.
        let ready = T::poll(&mut this.open.lock(), &wait);
        match this.removed.check().and(ready) {
            Ok(true) => bindings::POLLIN | bindings::POLLRDNORM | writable,
            Ok(false) => writable,
            Err(_) => bindings::POLLHUP,
        }
    }
}
