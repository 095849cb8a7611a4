//! Does this kernel preempt a task within its own programs?
//!
//! Before Linux 6.2 `bpf_task_storage_get` answers NULL when the task on that processor was preempted while it looked into
//! a storage (the busy counter of kernel/bpf/bpf_task_storage.c). A hook then takes the task for one that is in no sandbox.
//! Kernels that preempt only where they ask for it don't come to that.

use std::{
    fs::{self, File},
    io::{self, Read as _},
};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The first release whose look-ups don't fail so.
const MENDED: (u32, u32) = (6, 2);

/// What is known of the running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preemption {
    /// `6.1.0-18-amd64`.
    release: String,
    /// `#1 SMP PREEMPT_DYNAMIC …`.
    version: String,
    /// `none voluntary (full)`, of debugfs.
    mode: Option<String>,
    /// Its command line.
    arguments: String,
    /// What it was configured with.
    config: Option<String>,
}

impl Preemption {
    /// Asks the kernel. Nothing is mounted where others could see it.
    #[must_use]
    pub fn now() -> Self {
        let name = rustix::system::uname();
        let release = name.release().to_string_lossy().into_owned();
        Self {
            version: name.version().to_string_lossy().into_owned(),
            mode: mode().ok(),
            arguments: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            config: fs::read_to_string(format!("/boot/config-{release}")).ok(),
            release,
        }
    }

    /// Why programs can't rely on what is kept with a task; `None`: they can.
    #[must_use]
    pub fn breaks_storage(&self) -> Option<String> {
        let mut numbers = self.release.split(|one: char| !one.is_ascii_digit()).map(str::parse::<u32>);
        let release = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        if release >= MENDED {
            return None;
        }
        let word = |wanted: &str| self.version.split_ascii_whitespace().any(|word| word == wanted);
        let how = if word("PREEMPT_RT") {
            "PREEMPT_RT"
        } else if word("PREEMPT_DYNAMIC") {
            self.chosen()?
        } else if word("PREEMPT") {
            "CONFIG_PREEMPT"
        } else {
            return None;
        };
        Some(format!(
            "Linux {}.{} preempts fully ({how}), where before 6.2 what programs keep with a task is not always found; \
             boot with preempt=voluntary, or a newer kernel",
            release.0, release.1
        ))
    }

    /// Of a kernel that chooses at boot: what it chose, if that is to preempt fully or can't be told.
    fn chosen(&self) -> Option<&'static str> {
        if let Some(mode) = &self.mode {
            return mode.contains("(full)").then_some("as debugfs says");
        }
        let mut asked =
            self.arguments.split_ascii_whitespace().filter_map(|word| word.strip_prefix("preempt="));
        match asked.next_back() {
            Some("none" | "voluntary") => return None,
            Some("full") => return Some("preempt=full"),
            _ => {}
        }
        match &self.config {
            Some(config) => config.lines().any(|line| line == "CONFIG_PREEMPT=y").then_some("CONFIG_PREEMPT"),
            None => {
                Some("or it can't be told: no debugfs, no preempt= at boot, no configuration under /boot")
            }
        }
    }
}

/// `sched/preempt` of a debugfs that is mounted nowhere.
fn mode() -> io::Result<String> {
    let context = fsopen("debugfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = openat(&root, "sched/preempt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str, version: &str) -> Preemption {
        let version = format!("#1 SMP {version} Debian 6.1.76-1 (2024-02-01)");
        Preemption { release: release.to_owned(), version, ..Preemption::default() }
    }

    #[test]
    fn what_is_fixed_at_build_time_is_told_by_the_version() {
        let breaks = |release, version| kernel(release, version).breaks_storage().is_some();
        assert!(breaks("6.1.0-18-rt-amd64", "PREEMPT_RT") && breaks("5.15.0-91-lowlatency", "PREEMPT"));
        assert!(!breaks("6.1.0", "") && !breaks("5.15.0-91-generic", ""));
        for release in ["6.2.0", "6.12.9-amd64", "7.0-rc1"] {
            assert!(!breaks(release, "PREEMPT_RT") && !breaks(release, "PREEMPT"), "{release}");
        }
    }

    #[test]
    fn what_is_chosen_at_boot_is_told_by_the_kernel_then_by_who_chose() {
        let dynamic = kernel("6.1.0-18-amd64", "PREEMPT_DYNAMIC");
        let with = |mode: Option<&str>, arguments: &str, config: Option<&str>| {
            let (mode, config) = (mode.map(str::to_owned), config.map(str::to_owned));
            let arguments = format!("quiet {arguments} ro");
            Preemption { mode, arguments, config, ..dynamic.clone() }.breaks_storage()
        };
        let (full, voluntary) =
            ("CONFIG_PREEMPT=y\n", "CONFIG_PREEMPT_VOLUNTARY=y\n# CONFIG_PREEMPT is not set\n");
        assert_eq!(with(Some("none (voluntary) full"), "preempt=full", Some(full)), None);
        assert!(with(Some("none voluntary (full)"), "", Some(voluntary)).unwrap().contains("debugfs"));
        assert!(with(None, "preempt=full", Some(voluntary)).unwrap().contains("preempt=full"));
        assert_eq!(with(None, "preempt=full preempt=none", Some(full)), None);
        assert_eq!(with(None, "", Some(voluntary)), None);
        assert!(with(None, "", Some(full)).unwrap().contains("CONFIG_PREEMPT"));
        assert!(with(None, "", None).unwrap().contains("can't be told"));
    }
}
