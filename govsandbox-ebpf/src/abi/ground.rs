//! `process.namespaces = "allow"`: where file systems lie on the machine, and what the allow-lists say of folders.

/// Room for the path of a mount point; a longer one is not held, and what lies below is refused.
pub const PREFIX_BYTES: usize = 256;
/// In the place of a tag: whatever `proc` there is. The sandbox has its own, and what it starts may mount more.
pub const PROC_TAG: u32 = u32::MAX;
/// Allow-lists of one kind at most: one of each layer of the policy, a bit for each.
pub const LISTS_MAX: usize = 16;

/// Allow-lists, a bit for each layer of the policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// `filesystem.read`, or `filesystem.write`, which implies it.
    pub read: u16,
    /// `filesystem.write`.
    pub write: u16,
}

impl Lists {
    /// No list has it.
    pub const NONE: Self = Self { read: 0, write: 0 };
    /// Every list has it.
    pub const ALL: Self = Self { read: u16::MAX, write: u16::MAX };

    /// What either has.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { read: self.read | other.read, write: self.write | other.write }
    }
}

/// What is known of one tagged inode, for one sandbox; the key is a [`super::rule::TagKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Lists that have the inode and everything below it.
    pub lists: Lists,
    /// 1: a mount of the machine begins here, at `prefix`.
    pub is_root: u16,
    /// Bytes of `prefix`.
    pub prefix_length: u16,
    /// Where, absolute; `/` is empty.
    pub prefix: [u8; PREFIX_BYTES],
}
const _: () = assert!(size_of::<Ground>() == 8 + PREFIX_BYTES);

impl Ground {
    /// Nothing is known.
    pub const NONE: Self =
        Self { lists: Lists::NONE, is_root: 0, prefix_length: 0, prefix: [0; PREFIX_BYTES] };
}
