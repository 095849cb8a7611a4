//! A machine of its own as far as kernel programs go: a mount namespace with an empty bpffs.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use aya::maps::{Map, MapData};

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

    /// A path as it is in there.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Folders of pins; empty when nothing is loaded.
    pub(crate) fn pins(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.path("/sys/fs/bpf/govsandbox")).into_iter().flatten();
        folders.map(|folder| folder.unwrap().path()).collect()
    }

    /// Maps that have entries about sandboxes, with how many.
    pub(crate) fn entries(&self) -> Vec<(&'static str, usize)> {
        let mut found = Vec::new();
        for folder in self.pins() {
            for name in ["SANDBOXES", "MEMBERS", "TAG_RULES", "LOSSES"] {
                let map = MapData::from_pin(folder.join(format!("map_{name}"))).unwrap();
                found.push((name, keys(map)));
            }
            let map = MapData::from_pin(folder.join("map_EGRESS")).unwrap();
            let trie: aya::maps::LpmTrie<_, [u8; 20], [u8; 260]> = Map::LpmTrie(map).try_into().unwrap();
            found.push(("EGRESS", trie.keys().count()));
        }
        found.retain(|(_, count)| *count > 0);
        found
    }
}

fn keys(map: MapData) -> usize {
    let info = map.info().unwrap();
    match (info.key_size(), info.value_size()) {
        (4, 4) => count::<[u8; 4], [u8; 4]>(map),
        (4, 20) => count::<[u8; 4], [u8; 20]>(map),
        (8, 8) => count::<[u8; 8], [u8; 8]>(map),
        (8, 24) => count::<[u8; 8], [u8; 24]>(map),
        other => panic!("a map of another form: {other:?}"),
    }
}

fn count<K: aya::Pod, V: aya::Pod>(map: MapData) -> usize {
    let map: aya::maps::HashMap<_, K, V> = Map::HashMap(map).try_into().unwrap();
    map.keys().count()
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
