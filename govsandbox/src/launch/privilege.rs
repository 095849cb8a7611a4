//! Whom the command runs as, and how everything beyond that is dropped.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::PathBuf,
};

use rustix::{
    fs::{Gid, Uid},
    process::geteuid,
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::error::LaunchError;
use crate::sys::account::{self, Account};

/// Highest capability number that a kernel may have one day; today's last is 40.
const CAPABILITY_NUMBER_MAX: u32 = 63;

/// How the identity was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--user`.
    Named,
    /// sudo's caller.
    Sudo,
    /// Plain root: uid 0 without any capability; worth a warning.
    PlainRoot,
    /// Not root: the caller itself.
    Caller,
}

/// A user, with everything that a process has of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Login name; the number when the database has none.
    pub name: String,
    /// `$HOME` if that user owns it and it isn't `/`, else the database's.
    pub home: PathBuf,
    /// Login shell by the database; empty when unknown.
    pub shell: OsString,
    /// How it was chosen.
    pub origin: Origin,
}

impl Identity {
    /// By `--user` (a name or a number), else sudo's caller (`SUDO_UID` in `env`), else this process' own user.
    ///
    /// # Errors
    /// [`LaunchError::NoUser`]; the user database can't be read.
    pub fn resolve(user: Option<&str>, env: &[(OsString, OsString)]) -> Result<Self, LaunchError> {
        if let Some(user) = user {
            return Self::named(user, env);
        }
        if !geteuid().is_root() {
            return Self::of_account(by_uid(geteuid().as_raw())?, geteuid().as_raw(), Origin::Caller, env);
        }
        match number(env, "SUDO_UID") {
            Some(uid) if uid != 0 => {
                let mut identity = Self::of_account(by_uid(uid)?, uid, Origin::Sudo, env)?;
                if let (Some(gid), true) = (number(env, "SUDO_GID"), identity.name == uid.to_string()) {
                    identity.gid = gid;
                    identity.groups = vec![gid];
                }
                Ok(identity)
            }
            _ => Self::of_account(by_uid(0)?, 0, Origin::PlainRoot, env),
        }
    }

    fn named(user: &str, env: &[(OsString, OsString)]) -> Result<Self, LaunchError> {
        let name = CString::new(user).map_err(|_| LaunchError::NoUser(user.to_owned()))?;
        let by_name = account::by_name(&name).map_err(|source| database("user", user, source))?;
        match (by_name, user.parse::<u32>()) {
            (Some(account), _) => {
                let uid = account.uid;
                Self::of_account(Some(account), uid, Origin::Named, env)
            }
            (None, Ok(uid)) if uid != u32::MAX => Self::of_account(by_uid(uid)?, uid, Origin::Named, env),
            _ => Err(LaunchError::NoUser(user.to_owned())),
        }
    }

    fn of_account(
        account: Option<Account>,
        uid: u32,
        origin: Origin,
        env: &[(OsString, OsString)],
    ) -> Result<Self, LaunchError> {
        let Some(account) = account else {
            // A number without an entry (a container's user): its own group, no others.
            let home = home_of(uid, env).unwrap_or_else(|| PathBuf::from("/"));
            let (name, shell) = (uid.to_string(), OsString::new());
            return Ok(Self { uid, gid: uid, groups: vec![uid], name, home, shell, origin });
        };
        let name = account.name.to_string_lossy().into_owned();
        let groups = match origin {
            // Unprivileged, the groups stay as they are and can't be set.
            Origin::Caller => rustix::process::getgroups()
                .map_err(|source| database("groups of", &name, source.into()))?
                .into_iter()
                .map(Gid::as_raw)
                .collect(),
            Origin::Named | Origin::Sudo | Origin::PlainRoot => {
                let c_name =
                    CString::new(account.name.as_bytes()).map_err(|_| LaunchError::NoUser(name.clone()))?;
                account::groups(&c_name, account.gid)
                    .map_err(|source| database("groups of", &name, source))?
            }
        };
        let home = home_of(uid, env).unwrap_or(account.home);
        Ok(Self { uid, gid: account.gid, groups, name, home, shell: account.shell, origin })
    }

    /// `env` with what names the user (`HOME USER LOGNAME SHELL MAIL`) made true for this identity; the rest as it is.
    #[must_use]
    pub fn environment(&self, env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let mut result: Vec<_> = env.to_vec();
        set(&mut result, "HOME", self.home.as_os_str());
        if matches!(self.origin, Origin::Named | Origin::Sudo) {
            set(&mut result, "USER", OsStr::new(&self.name));
            set(&mut result, "LOGNAME", OsStr::new(&self.name));
            if !self.shell.is_empty() {
                set(&mut result, "SHELL", &self.shell);
            }
            result.retain(|(name, _)| name != "MAIL");
        }
        result
    }
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &str, value: &OsStr) {
    match env.iter_mut().find(|(found, _)| found == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((OsString::from(name), value.to_owned())),
    }
}

fn number(env: &[(OsString, OsString)], name: &str) -> Option<u32> {
    env.iter().find(|(found, _)| found == name)?.1.to_str()?.parse().ok()
}

fn home_of(uid: u32, env: &[(OsString, OsString)]) -> Option<PathBuf> {
    let home = PathBuf::from(&env.iter().find(|(name, _)| name == "HOME")?.1);
    let owned = std::fs::metadata(&home).is_ok_and(|found| found.is_dir() && found.uid() == uid);
    (owned && home.is_absolute() && home.parent().is_some()).then_some(home)
}

fn by_uid(uid: u32) -> Result<Option<Account>, LaunchError> {
    account::by_uid(uid).map_err(|source| database("user", &uid.to_string(), source))
}

fn database(what: &'static str, name: &str, source: io::Error) -> LaunchError {
    LaunchError::system("look up", format!("{what} `{name}`"), source)
}

/// Drops to `identity`, with no capability in any set and none to come back by exec; `no_new_privs` on. Of this thread,
/// which must be the only one.
///
/// # Errors
/// The step that failed, with its name.
pub fn drop_to(identity: &Identity) -> Result<(), (&'static str, io::Error)> {
    let step = |name: &'static str| move |errno: rustix::io::Errno| (name, io::Error::from(errno));
    for capability in 0..=CAPABILITY_NUMBER_MAX {
        let Some(capability) = 1_u64.checked_shl(capability).map(CapabilitySet::from_bits_retain) else {
            break;
        };
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no capability of that number, and none above.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(("capability bounding set", errno.into())),
        }
    }
    // Uid 0 gets nothing by exec (capabilities(7), SECBIT_NOROOT), and that can't be undone.
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits).map_err(step("securebits"))?;
    if identity.origin != Origin::Caller {
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).map_err(step("supplementary groups"))?;
        let (gid, uid) = (Gid::from_raw(identity.gid), Uid::from_raw(identity.uid));
        set_thread_res_gid(gid, gid, gid).map_err(step("group id"))?;
        set_thread_res_uid(uid, uid, uid).map_err(step("user id"))?;
    }
    clear_ambient_capability_set().map_err(step("ambient capabilities"))?;
    drop_capabilities().map_err(step("capabilities"))?;
    set_no_new_privs(true).map_err(step("no_new_privs"))
}

/// Empties the permitted, effective and inheritable sets of this thread.
pub(super) fn drop_capabilities() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    #[test]
    fn an_unknown_user_is_an_error() {
        assert!(matches!(Identity::resolve(Some("no-such-user-x"), &[]), Err(LaunchError::NoUser(_))));
    }

    #[test]
    fn root_by_name_has_uid_0() {
        let root = Identity::resolve(Some("root"), &[]).unwrap();
        assert_eq!((root.uid, root.gid, root.origin), (0, 0, Origin::Named));
    }

    #[test]
    fn a_number_without_an_entry_gets_its_own_group() {
        let nobody = Identity::resolve(Some("3999999999"), &[]).unwrap();
        assert_eq!((nobody.uid, nobody.groups), (3_999_999_999, vec![3_999_999_999]));
    }

    #[test]
    fn home_of_another_user_is_not_taken() {
        // `/` belongs to root and is never a home; the database's is used.
        let root = Identity::resolve(Some("root"), &env(&[("HOME", "/")])).unwrap();
        assert_ne!(root.home, PathBuf::from("/"));
    }

    #[test]
    fn the_environment_names_the_user_that_the_command_runs_as() {
        let mut identity = Identity::resolve(Some("root"), &[]).unwrap();
        identity.home = PathBuf::from("/home/x");
        let env = identity.environment(&env(&[("USER", "y"), ("MAIL", "/var/mail/y"), ("TERM", "xterm")]));
        let get = |name: &str| {
            env.iter().find(|(found, _)| found == name).map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(
            (get("HOME"), get("USER"), get("MAIL"), get("TERM")),
            (Some("/home/x"), Some("root"), None, Some("xterm"))
        );
    }
}
