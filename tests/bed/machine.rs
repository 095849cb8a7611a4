//! A machine of its own as far as kernel programs go: a mount namespace with an empty bpffs.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData};
use govsandbox_ebpf::abi::{
    egress::{EgressKey, PortTable},
    rule::{Loss, LossKey, SandboxConfig, TagKey, TagRule},
};

/// Gone with this value; so are the programs that were loaded in it.
pub(crate) struct Machine {
    holder: Child,
    /// The holder ends with it.
    _input: ChildStdin,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let script =
            "umount /sys/fs/bpf 2>/dev/null; mount -t bpf -o mode=0700 bpf /sys/fs/bpf && echo up && read _";
        let mut holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "/bin/sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "no bpffs of its own");
        let input = holder.stdin.take().unwrap();
        Self { holder, _input: input }
    }

    /// Words before a command that is to run in it.
    pub(crate) fn enter(&self) -> Vec<String> {
        [
            "nsenter".to_owned(),
            "-m".to_owned(),
            "-t".to_owned(),
            self.holder.id().to_string(),
            "-w".to_owned(),
        ]
        .to_vec()
    }

    /// Runs a shell command in it.
    pub(crate) fn run(&self, script: &str) {
        let mut words = self.enter();
        words.pop();
        let status =
            Command::new(&words[0]).args(&words[1..]).args(["/bin/sh", "-c", script]).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    }

    /// A path as it is in there.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Folders of pins; empty when nothing is loaded.
    pub(crate) fn pins(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.path("/sys/fs/bpf/govsandbox")).into_iter().flatten();
        folders.map(|folder| folder.unwrap().path()).collect()
    }

    /// Takes all room in the map of members, by processes that there can't be; what is handed over gives it back.
    pub(crate) fn fill_members(&self) -> HashMap<MapData, u32, u32> {
        let [folder] = self.pins().try_into().unwrap();
        let map = Map::HashMap(MapData::from_pin(folder.join("map_MEMBERS")).unwrap());
        let mut members: HashMap<_, u32, u32> = map.try_into().unwrap();
        // Numbers of processes have 22 bits at most.
        let full = (1_u32 << 30..).find_map(|tgid| members.insert(tgid, u32::MAX, 0).err()).unwrap();
        assert!(full.to_string().contains("bpf_map_update_elem"), "{full:?}");
        members
    }

    /// Maps that have entries about sandboxes, with how many.
    pub(crate) fn entries(&self) -> Vec<(&'static str, usize)> {
        let mut found = Vec::new();
        for folder in self.pins() {
            let map = |name| MapData::from_pin(folder.join(format!("map_{name}"))).unwrap();
            found.push(("SANDBOXES", count::<u32, SandboxConfig>(map("SANDBOXES"))));
            found.push(("MEMBERS", count::<u32, u32>(map("MEMBERS"))));
            found.push(("TAG_RULES", count::<TagKey, TagRule>(map("TAG_RULES"))));
            found.push(("LOSSES", count::<LossKey, Loss>(map("LOSSES"))));
            let trie: LpmTrie<_, EgressKey, PortTable> = Map::LpmTrie(map("EGRESS")).try_into().unwrap();
            found.push(("EGRESS", trie.keys().count()));
        }
        found.retain(|(_, count)| *count > 0);
        found
    }
}

fn count<K: aya::Pod, V: aya::Pod>(map: MapData) -> usize {
    let map: HashMap<_, K, V> = Map::HashMap(map).try_into().unwrap();
    map.keys().count()
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
