//! `bpf(2)` where aya has no type: task storage, maps within maps, ring buffers made at run time.
#![expect(unsafe_code, reason = "one raw syscall")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// `union bpf_attr` of the map element commands (include/uapi/linux/bpf.h).
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_MAP_CREATE`, as far as it is used.
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Writes one element; key and value as bytes, of the map's sizes.
///
/// # Errors
/// What the kernel answers.
pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the attribute is of the size that is given, and its pointers outlive the call; the caller gives key and
    // value of the map's sizes.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Reads one element into `value`; key and value as bytes, of the map's sizes. `false`: it is not there.
///
/// # Errors
/// What the kernel answers.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: as in `map_update`, and the value may be written.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Id of the map that stands in a map of maps; `None`: there is none.
///
/// # Errors
/// What the kernel answers.
pub fn inner_id(outer: BorrowedFd<'_>, key: u32) -> io::Result<Option<u32>> {
    // Of a map of maps with `u32` keys both have four bytes.
    let mut id = [0_u8; 4];
    Ok(map_lookup(outer, &key.to_ne_bytes(), &mut id)?.then(|| u32::from_ne_bytes(id)))
}

/// All entries of a hash map with keys of four bytes, whatever its values are; they come as bytes. What is changed
/// meanwhile may be missing.
///
/// # Errors
/// What the kernel answers.
pub fn map_entries(map: BorrowedFd<'_>, value_size_bytes: u32) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let mut entries = Vec::new();
    let mut key: Option<u32> = None;
    loop {
        let mut next = 0_u32;
        let attr = ElementAttr {
            map_fd: map.as_raw_fd() as u32,
            _pad: 0,
            key: key.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64),
            value: &raw mut next as u64,
            flags: 0,
        };
        // SAFETY: the attribute is of the size that is given; key and next key are of four bytes each, as the caller vouches.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &attr) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(entries),
            answer => answer.map(drop)?,
        }
        let mut value = vec![0_u8; value_size_bytes as usize];
        // Else it was removed just now.
        if map_lookup(map, &next.to_ne_bytes(), &mut value)? {
            entries.push((next, value));
        }
        key = Some(next);
    }
}

/// Makes a ring buffer of that many bytes (a power of two, whole pages).
///
/// # Errors
/// What the kernel answers.
pub fn create_ring_buffer(size_bytes: u32) -> io::Result<OwnedFd> {
    create(CreateAttr {
        map_type: BPF_MAP_TYPE_RINGBUF,
        key_size: 0,
        value_size: 0,
        max_entries: size_bytes,
        map_flags: 0,
    })
}

/// Makes an array of one element; `mapped`: for [`write_mapped`].
///
/// # Errors
/// What the kernel answers.
pub fn create_array_of_one(value_size: u32, mapped: bool) -> io::Result<OwnedFd> {
    let map_flags = if mapped { BPF_F_MMAPABLE } else { 0 };
    create(CreateAttr { map_type: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size, max_entries: 1, map_flags })
}

/// Writes parts of the only element of an array by way of its memory: each an offset in bytes, and what comes there.
///
/// # Errors
/// What the kernel answers; `EINVAL`: a part goes beyond the element.
pub fn write_mapped(array: BorrowedFd<'_>, size_bytes: usize, parts: &[(usize, &[u8])]) -> io::Result<()> {
    let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, array.as_raw_fd());
    // SAFETY: a new mapping, wherever the kernel has room.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size_bytes, access, libc::MAP_SHARED, fd, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let fits =
        |(at, bytes): &(usize, &[u8])| at.checked_add(bytes.len()).is_some_and(|end| end <= size_bytes);
    let all_fit = parts.iter().all(fits);
    for (at, bytes) in parts.iter().filter(|_| all_fit) {
        // SAFETY: the part lies within the mapping, which nothing else of this process knows of.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast::<u8>().add(*at), bytes.len()) };
    }
    // SAFETY: the mapping made above; nothing refers to it any more.
    unsafe { libc::munmap(memory, size_bytes) };
    if all_fit { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// One instruction: code, destination and source, offset, number (Documentation/bpf/standardization).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction(pub u8, pub u8, pub i16, pub i32);

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct ProgramAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    _log: [u32; 4],
    _version_and_flags: [u32; 2],
    name: [u8; 16],
    _device: u32,
    attach_type: u32,
}

/// `union bpf_attr` of `BPF_LINK_CREATE` and `BPF_OBJ_PIN`.
#[repr(C)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct PinAttr {
    path: u64,
    object: u32,
    flags: u32,
}

/// Loads a program on socket addresses, attaches it to a cgroup and pins the link.
///
/// # Errors
/// What the kernel answers; `EINVAL`: it knows no such attach type.
pub fn attach_to_addresses(
    instructions: &[Instruction],
    attach_type: u32,
    cgroup: BorrowedFd<'_>,
    pin: &CStr,
) -> io::Result<()> {
    let attr = ProgramAttr {
        kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        _log: [0; 4],
        _version_and_flags: [0; 2],
        name: [0; 16],
        _device: 0,
        attach_type,
    };
    // SAFETY: the attribute is of the size that is given, and its pointers outlive the call; likewise below. Descriptors
    // are new, and nobody else's.
    unsafe {
        let loaded = OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &attr)?);
        let [program, target] = [loaded.as_raw_fd(), cgroup.as_raw_fd()].map(|fd| fd as u32);
        let link = LinkAttr { program, target, attach_type, flags: 0 };
        let link = OwnedFd::from_raw_fd(bpf(BPF_LINK_CREATE, &link)?);
        let object = link.as_raw_fd() as u32;
        bpf(BPF_OBJ_PIN, &PinAttr { path: pin.as_ptr() as u64, object, flags: 0 }).map(drop)
    }
}

/// Puts a map into a map of maps.
///
/// # Errors
/// What the kernel answers.
pub fn insert_inner(outer: BorrowedFd<'_>, key: u32, inner: impl AsFd) -> io::Result<()> {
    map_update(outer, &key.to_ne_bytes(), &inner.as_fd().as_raw_fd().to_ne_bytes())
}

fn create(attr: CreateAttr) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is of the size that is given and has no pointers.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// The attribute is what the command expects, its pointers are valid for it.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: the caller vouches for the attribute.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
