//! Debian's kernels: downloaded once per machine, unpacked into the cache, never installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install_tools::apt_get;
use crate::{process, workspace};

/// Modules the guest needs before it has a root file system; all others it loads itself.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "virtiofs", "overlay", "virtio_console"];

/// A kernel that lies ready in the cache.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The bootable image.
    pub(super) image: PathBuf,
    /// Its folder of modules, unpacked and indexed.
    pub(super) modules: PathBuf,
    /// The boot modules, dependencies first.
    pub(super) boot_modules: Vec<PathBuf>,
}

/// The kernel of that series (`6.12`), downloaded if need be.
pub(super) fn find(series: &str) -> Result<Kernel> {
    if series.is_empty() || !series.chars().all(|c| c.is_ascii_digit() || c == '.') {
        bail!("`{series}` is not a kernel series such as 6.12");
    }
    let cache = workspace::cache("vm")?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache of kernels")?; // until the end of this function
    let folder = cache.join(series);
    if !folder.join("ready").exists() {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fetch(series, &folder).with_context(|| format!("cannot get a kernel of series {series}"))?;
        File::create(folder.join("ready"))?;
    }
    unpacked(&folder)
}

fn fetch(series: &str, folder: &Path) -> Result<()> {
    let package = match package(series)? {
        Some(package) => package,
        None => {
            process::run(apt_get().arg("update"))?;
            package(series)?
                .with_context(|| format!("Debian has no linux-image-{series}*-cloud-amd64 here"))?
        }
    };
    println!("vm: {package} from Debian into {}", folder.display());
    let download = folder.join("download");
    fs::create_dir_all(&download)?;
    process::run(
        apt_get().args(["-o", "APT::Sandbox::User=root", "download"]).arg(&package).current_dir(&download),
    )?;
    let archive = only_entry(&download)?;
    let root = folder.join("root");
    process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
    fs::remove_dir_all(&download)?;

    let modules = modules(&root)?;
    let compressed = workspace::files_below(&modules, ".ko.xz")?;
    for some in compressed.chunks(500) {
        process::run(Command::new("xz").args(["-d", "-T0"]).args(some))?;
    }
    process::run(
        Command::new(process::find("depmod").context("depmod is missing")?)
            .arg("-b")
            .arg(&root)
            .arg(name(&modules)?),
    )
}

/// The newest package with a kernel of the series, by way of Debian's meta packages.
fn package(series: &str) -> Result<Option<String>> {
    for meta in [format!("linux-image-{series}-cloud-amd64"), "linux-image-cloud-amd64".to_owned()] {
        let Ok(said) = process::read(Command::new("apt-cache").args(["depends", &meta])) else { continue };
        let mut packages = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let wanted = format!("linux-image-{series}.");
        if let Some(package) = packages.find(|package| package.starts_with(&wanted)) {
            return Ok(Some(package.to_owned()));
        }
    }
    Ok(None)
}

fn unpacked(folder: &Path) -> Result<Kernel> {
    let root = folder.join("root");
    let modules = modules(&root)?;
    let release = name(&modules)?;
    let mut boot_modules: Vec<PathBuf> = Vec::new();
    let modprobe = process::find("modprobe").context("modprobe is missing")?;
    for module in BOOT_MODULES {
        let mut command = Command::new(&modprobe);
        command.arg("-d").arg(&root).args(["-S", &release, "--show-depends", module]);
        let said = process::read(&mut command)?;
        for file in said.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let file = PathBuf::from(file.trim());
            if !boot_modules.contains(&file) {
                boot_modules.push(file);
            }
        }
    }
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{release}")), modules, boot_modules })
}

/// The one folder of modules below `root`, where Debian before and after the merge of /usr puts it.
fn modules(root: &Path) -> Result<PathBuf> {
    let folder =
        ["lib/modules", "usr/lib/modules"].map(|path| root.join(path)).into_iter().find(|path| path.is_dir());
    only_entry(&folder.context("the package has no modules")?)
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(entry.path())
}

fn name(path: &Path) -> Result<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).context("a path without a name")
}
