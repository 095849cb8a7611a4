//! Where the running kernel keeps a member of a structure, from its own BTF (Documentation/bpf/btf.rst).

use std::{collections::HashMap, io, path::Path};

/// The kernel's type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const HEADER_BYTES: usize = 24;
const MAGIC: u16 = 0xeb9f;
/// Kinds of types, of which only these have members or lead to them.
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_INT: u32 = 1;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Why a member's place is not known.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BtfError {
    /// No file.
    #[error("cannot read the kernel's type information {path}")]
    #[diagnostic(help("govsandbox needs a kernel built with CONFIG_DEBUG_INFO_BTF=y"))]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not BTF, or cut.
    #[error("the kernel's type information is damaged at byte {at}")]
    Damaged {
        /// Offset in the file.
        at: usize,
    },
    /// This kernel has no such thing.
    #[error("this kernel has no `{structure}.{member}`")]
    #[diagnostic(help("its structures changed; a newer govsandbox may know them"))]
    Missing {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
    },
}

/// Members of all structures.
pub struct KernelBtf {
    data: Vec<u8>,
    strings_at: usize,
    /// Place of each type's header, by type id.
    types: Vec<usize>,
    structures: HashMap<Vec<u8>, u32>,
}

impl KernelBtf {
    /// Reads and indexes it.
    ///
    /// # Errors
    /// When the file can't be read or is not BTF.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path)
            .map_err(|source| BtfError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(data)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| word(&data, at);
        if u32::from(MAGIC) != word(0)? & 0xffff {
            return Err(BtfError::Damaged { at: 0 });
        }
        let header = word(4)? as usize;
        if header < HEADER_BYTES {
            return Err(BtfError::Damaged { at: 4 });
        }
        let mut at = header + word(8)? as usize;
        let end = at + word(12)? as usize;
        let strings_at = header + word(16)? as usize;
        let mut btf = Self { types: vec![0], structures: HashMap::new(), strings_at, data: Vec::new() };
        while at < end {
            let info = word(at + 4)?;
            let (members, kind) = ((info & 0xffff) as usize, (info >> 24) & 0x1f);
            if kind == KIND_STRUCT {
                let name = name(&data, strings_at, word(at)?)?;
                if !name.is_empty() {
                    btf.structures.entry(name.to_vec()).or_insert(btf.types.len() as u32);
                }
            }
            btf.types.push(at);
            at += 12
                + match kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * members,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * members,
                    _ => 0,
                };
        }
        btf.data = data;
        Ok(btf)
    }

    /// Offset of a member in bytes, anonymous structures and unions within searched too.
    ///
    /// # Errors
    /// When this kernel has no such structure or member.
    pub fn offset(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        let missing = BtfError::Missing { structure, member };
        let Some(id) = self.structures.get(structure.as_bytes()) else { return Err(missing) };
        self.member(*id, member.as_bytes())?.ok_or(missing)
    }

    /// Value of an enumerator, in whatever enumeration. `None`: this kernel has none of that name.
    ///
    /// # Errors
    /// When the type information is damaged.
    pub fn enumerator(&self, wanted: &str) -> Result<Option<u32>, BtfError> {
        for &at in self.types.iter().skip(1) {
            let info = word(&self.data, at + 4)?;
            if (info >> 24) & 0x1f != KIND_ENUM {
                continue;
            }
            for index in 0..(info & 0xffff) as usize {
                let entry = at + 12 + 8 * index;
                if name(&self.data, self.strings_at, word(&self.data, entry)?)? == wanted.as_bytes() {
                    return word(&self.data, entry + 4).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Does the kernel have a function of this name?
    ///
    /// # Errors
    /// When the type information is damaged.
    pub fn has_function(&self, wanted: &str) -> Result<bool, BtfError> {
        for &at in self.types.iter().skip(1) {
            if (word(&self.data, at + 4)? >> 24) & 0x1f == KIND_FUNC
                && name(&self.data, self.strings_at, word(&self.data, at)?)? == wanted.as_bytes()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn member(&self, id: u32, wanted: &[u8]) -> Result<Option<u32>, BtfError> {
        let Some(&at) = self.types.get(id as usize) else { return Err(BtfError::Damaged { at: 0 }) };
        let info = word(&self.data, at + 4)?;
        let bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let entry = at + 12 + 12 * index;
            let bits = word(&self.data, entry + 8)?;
            let bytes = if bitfields { bits & 0x00ff_ffff } else { bits } / 8;
            let name = name(&self.data, self.strings_at, word(&self.data, entry)?)?;
            if name == wanted {
                return Ok(Some(bytes));
            }
            if name.is_empty()
                && let Some(within) = self.composite(word(&self.data, entry + 4)?)?
                && let Some(offset) = self.member(within, wanted)?
            {
                return Ok(Some(bytes + offset));
            }
        }
        Ok(None)
    }

    /// The structure or union behind qualifiers, if it is one.
    fn composite(&self, mut id: u32) -> Result<Option<u32>, BtfError> {
        loop {
            let Some(&at) = self.types.get(id as usize) else { return Err(BtfError::Damaged { at: 0 }) };
            match (word(&self.data, at + 4)? >> 24) & 0x1f {
                KIND_STRUCT | KIND_UNION => return Ok(Some(id)),
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT => id = word(&self.data, at + 8)?,
                _ => return Ok(None),
            }
        }
    }
}

fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    bytes.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(BtfError::Damaged { at })
}

fn name(data: &[u8], strings_at: usize, offset: u32) -> Result<&[u8], BtfError> {
    let at = strings_at + offset as usize;
    let tail = data.get(at..).ok_or(BtfError::Damaged { at })?;
    Ok(tail.split(|byte| *byte == 0).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_running_kernel_are_found_also_in_anonymous_unions() {
        let btf = KernelBtf::read(Path::new(VMLINUX)).unwrap();
        assert!(btf.offset("task_struct", "tgid").unwrap() > btf.offset("task_struct", "pid").unwrap());
        assert!(btf.offset("qstr", "name").unwrap() >= 8);
        assert_eq!(btf.enumerator("BPF_MAP_TYPE_ARRAY").unwrap(), Some(2));
        assert_eq!(btf.enumerator("NO_SUCH_ENUMERATOR").unwrap(), None);
        assert!(btf.has_function("vfs_open").unwrap() && !btf.has_function("no_such").unwrap());
        assert!(matches!(btf.offset("task_struct", "no_such"), Err(BtfError::Missing { .. })));
    }

    #[test]
    fn what_is_not_btf_is_an_error_and_no_panic() {
        for data in [
            vec![],
            vec![0; 3],
            vec![0; 64],
            b"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0\xff\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ] {
            assert!(matches!(KernelBtf::parse(data), Err(BtfError::Damaged { .. })));
        }
    }
}
