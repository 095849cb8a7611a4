//! Mounts whose files have other paths too, since they are shown from elsewhere: the layers of an overlay, the folder that
//! a program shows once more (bindfs), the image behind a loop device.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::mountinfo::{self, Mount, unescape};

/// A mount, and where its files lie besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// Where it is.
    pub point: PathBuf,
    /// What is shown there.
    pub from: Vec<Origin>,
}

/// Where files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One below the other, by the same names.
    Folder(PathBuf),
    /// All in one file.
    Image(PathBuf),
}

/// Those that there are now, as far as their origins can be reached by a path.
///
/// # Errors
/// When /proc/self/mountinfo can't be read.
pub fn find() -> io::Result<Vec<Stacked>> {
    let mounts = mountinfo::read(Path::new("/proc/self/mountinfo"))?;
    Ok(mounts.iter().filter_map(of).collect())
}

fn of(mount: &Mount) -> Option<Stacked> {
    let folders = match mount.fs_type.as_str() {
        "overlay" => layers(&mount.options),
        // Most that show a folder name it as what they mount.
        kind if kind == "fuse" || kind.starts_with("fuse.") || kind == "ecryptfs" => {
            vec![mount.source.clone()]
        }
        _ => Vec::new(),
    };
    let below = mount.root.strip_prefix("/").ok()?;
    let reachable = folders.into_iter().filter(|folder| folder.is_absolute());
    let folders =
        reachable.filter_map(|folder| folder.join(below).canonicalize().ok()).filter(|it| it.is_dir());
    let image = image(&mount.source).filter(|image| image.is_file());
    let from: Vec<_> = folders.map(Origin::Folder).chain(image.map(Origin::Image)).collect();
    (!from.is_empty()).then(|| Stacked { point: mount.point.clone(), from })
}

/// The layers that an overlay's options name (Documentation/filesystems/overlayfs.rst): `lowerdir=A:B::C`, where `::`
/// begins those without names of their own, or `lowerdir+=A,datadir+=C`, and `upperdir=D`.
fn layers(options: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for option in divided(options, ',') {
        let Some((key, value)) = option.split_once('=') else { continue };
        match key {
            "lowerdir" => found.extend(divided(value, ':').iter().map(|layer| path(layer))),
            "lowerdir+" | "datadir+" | "upperdir" => found.push(path(value)),
            _ => {}
        }
    }
    found.retain(|layer| !layer.as_os_str().is_empty());
    found
}

/// A backslash takes what follows for itself.
fn divided(text: &str, by: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == by {
            parts.push(String::new());
            continue;
        }
        let Some(part) = parts.last_mut() else { break };
        part.push(character);
        if character == '\\' {
            part.extend(characters.next());
        }
    }
    parts
}

/// What mountinfo(5) escapes, and then what the options do.
fn path(written: &str) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let escaped = unescape(written.as_bytes());
    let mut bytes = Vec::new();
    let mut rest = escaped.as_os_str().as_bytes().iter();
    while let Some(byte) = rest.next() {
        bytes.extend(if *byte == b'\\' { rest.next() } else { Some(byte) });
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The file behind a loop device.
fn image(device: &Path) -> Option<PathBuf> {
    let name = device.strip_prefix("/dev").ok()?.to_str().filter(|name| name.starts_with("loop"))?;
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Path::new(file.trim_end_matches('\n')).canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_all_spellings_are_found() {
        let names = |options: &str| {
            layers(options).iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("rw,lowerdir=/a:/b::/c,upperdir=/d,workdir=/e"), ["/a", "/b", "/c", "/d"]);
        assert_eq!(names("ro,lowerdir+=/a,lowerdir+=/b,datadir+=/c"), ["/a", "/b", "/c"]);
        assert_eq!(
            names("rw,lowerdir=/a\\:b:/with\\040space,upperdir=/c\\,d"),
            ["/a:b", "/with space", "/c,d"]
        );
        assert!(names("rw,seclabel").is_empty());
    }

    #[test]
    fn a_mount_that_shows_nothing_of_elsewhere_is_none() {
        let mount = |fs_type: &str, source: &str, root: &str, options: &str| Mount {
            id: 1,
            device: "0:1".to_owned(),
            point: PathBuf::from("/p"),
            root: PathBuf::from(root),
            fs_type: fs_type.to_owned(),
            source: PathBuf::from(source),
            options: options.to_owned(),
        };
        assert_eq!(of(&mount("ext4", "/usr", "/", "rw")), None);
        assert_eq!(of(&mount("fuse.sshfs", "host:/usr", "/", "rw")), None);
        assert_eq!(of(&mount("overlay", "none", "/", "rw,lowerdir=/no/such/layer")), None);
        let from = vec![Origin::Folder(PathBuf::from("/usr/share"))];
        let stacked = Some(Stacked { point: PathBuf::from("/p"), from });
        assert_eq!(of(&mount("fuse", "/usr", "/share", "rw")), stacked);
        assert_eq!(of(&mount("overlay", "none", "/share", "rw,lowerdir=/usr:/no/such/layer")), stacked);
    }
}
