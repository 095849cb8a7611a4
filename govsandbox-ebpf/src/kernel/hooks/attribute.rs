//! Attributes that change past the hooks on paths: times, flags of the file system, access lists, length by descriptor.

use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::abi::event::RecordAction;

use super::change::{Name, judge, one_object};
use crate::kernel::{
    offsets::{self, typed},
    subject,
};

/// `ia_valid` of utimes(2) and its like (include/linux/fs.h): times that are given, and the current time. Mode, owner and
/// length were judged by path.
const ATTR_TIMES_SET: u32 = 1 << 16;
const ATTR_TOUCH: u32 = 1 << 17;

/// Commands of ioctl(2) that change what a file is, though its descriptor is open for reading only
/// (include/uapi/linux/fs.h): immutable and append-only, no copy on write, project, version, fs-verity, encryption.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FS_IOC_SETVERSION: u32 = 0x4008_7602;
const FS_IOC32_SETVERSION: u32 = 0x4004_7602;
/// The same of ext4 (fs/ext4/ext4.h), and attributes of FAT (include/uapi/linux/msdos_fs.h).
const EXT4_IOC_SETVERSION: u32 = 0x4008_6604;
const EXT4_IOC32_SETVERSION: u32 = 0x4004_6604;
const FAT_IOCTL_SET_ATTRIBUTES: u32 = 0x4004_7211;
const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800c_6613;

one_object!(
    inode_set_acl: Xattr, |ctx| Name::dentry(ctx.arg(1));
    inode_remove_acl: Xattr, |ctx| Name::dentry(ctx.arg(1));
    file_truncate: Truncate, |ctx| of_file(ctx.arg(0));
);

/// `inode_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)`, from Linux 6.9 on.
#[lsm]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe { set_times(&ctx, ctx.arg(1), ctx.arg(2)) }
}

/// `inode_setattr(struct dentry *dentry, struct iattr *attr)`, before.
#[lsm]
pub fn inode_setattr_to_6_8(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe { set_times(&ctx, ctx.arg(0), ctx.arg(1)) }
}

/// `file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`.
#[lsm]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe { set_flags(&ctx, ctx.arg(0), ctx.arg(1)) }
}

/// The same for 32-bit callers.
#[lsm]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    // SAFETY: the arguments are those of the hook.
    unsafe { set_flags(&ctx, ctx.arg(0), ctx.arg(1)) }
}

#[inline(always)]
unsafe fn set_times<C: EbpfContext>(ctx: &C, dentry: *const u8, attributes: *const u8) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: the caller's pointers are the hook's arguments.
    unsafe {
        let valid: u32 = typed(attributes, &offsets::IATTR_IA_VALID);
        if valid & (ATTR_TIMES_SET | ATTR_TOUCH) == 0 {
            return 0;
        }
        judge(ctx, &subject, RecordAction::Chmod, Name::dentry(dentry), None)
    }
}

#[inline(always)]
unsafe fn set_flags<C: EbpfContext>(ctx: &C, file: *const u8, command: u32) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    match command {
        FS_IOC_SETFLAGS
        | FS_IOC32_SETFLAGS
        | FS_IOC_FSSETXATTR
        | FS_IOC_SETVERSION
        | FS_IOC32_SETVERSION
        | EXT4_IOC_SETVERSION
        | EXT4_IOC32_SETVERSION
        | FAT_IOCTL_SET_ATTRIBUTES
        | FS_IOC_ENABLE_VERITY
        | FS_IOC_SET_ENCRYPTION_POLICY => {}
        _ => return 0,
    }
    // SAFETY: the file is the hook's.
    unsafe { judge(ctx, &subject, RecordAction::Chmod, of_file(file), None) }
}

/// The object of an open file.
#[inline(always)]
unsafe fn of_file(file: *const u8) -> Name {
    // SAFETY: the caller's pointer is a hook's argument of that type.
    unsafe { Name::path(file.add(offsets::FILE_F_PATH.load() as usize)) }
}
