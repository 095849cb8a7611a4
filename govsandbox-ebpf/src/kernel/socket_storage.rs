//! Values that live and die with a socket (`BPF_MAP_TYPE_SK_STORAGE`), and that a connection inherits from the socket that
//! is listened on; aya-ebpf's type does not let them.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
    },
    helpers::generated::bpf_sk_storage_get,
};

/// BTF definition of the map; only its type matters, it holds nothing.
#[repr(C)]
pub struct SocketStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: a map is the kernel's; the pointers are never followed.
unsafe impl<T> Sync for SocketStorage<T> {}

impl<T> SocketStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of a socket, null when it has none.
    ///
    /// # Safety
    /// `socket` is one to the verifier, and not null.
    #[inline(always)]
    pub unsafe fn get<S>(&self, socket: *mut S) -> *mut T {
        // SAFETY: the caller vouches for `socket`; a null value asks for no initial value.
        unsafe { bpf_sk_storage_get(self.as_ptr(), socket.cast(), ptr::null_mut(), 0) }.cast()
    }

    /// The value of a socket, zeroed when it is new; null when there was no memory.
    ///
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    pub unsafe fn get_or_create<S>(&self, socket: *mut S) -> *mut T {
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: as above.
        unsafe { bpf_sk_storage_get(self.as_ptr(), socket.cast(), ptr::null_mut(), create) }.cast()
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}
