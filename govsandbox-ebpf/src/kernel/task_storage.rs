//! Values that live and die with a task (`BPF_MAP_TYPE_TASK_STORAGE`); aya-ebpf has no type for it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type, task_struct},
    helpers::generated::bpf_task_storage_get,
};

/// BTF definition of the map; only its type matters, it holds nothing.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: a map is the kernel's; the pointers are never followed.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of `task`, null when it has none.
    ///
    /// # Safety
    /// `task` is a trusted pointer (a hook's argument or `bpf_get_current_task_btf`).
    #[inline(always)]
    pub unsafe fn get(&self, task: *mut task_struct) -> *mut T {
        // SAFETY: the caller vouches for `task`; a null value asks for no initial value.
        unsafe { bpf_task_storage_get(self.as_ptr(), task, ptr::null_mut(), 0) }.cast()
    }

    /// The value of `task`, zeroed when it is new; null when there was no memory.
    ///
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    pub unsafe fn get_or_create(&self, task: *mut task_struct) -> *mut T {
        let create = u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE);
        // SAFETY: as above.
        unsafe { bpf_task_storage_get(self.as_ptr(), task, ptr::null_mut(), create) }.cast()
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}
