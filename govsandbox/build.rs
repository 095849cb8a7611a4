//! Hands the prebuilt kernel object to the compiler, and twelve hex digits of its digest.

use std::{fs, io, path::Path};

use sha2::{Digest as _, Sha256};

fn main() -> io::Result<()> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../govsandbox-ebpf/prebuilt/govsandbox.bpf.o");
    let digest = Sha256::digest(fs::read(&object)?);
    let id: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=GOVSANDBOX_BPF_OBJECT={}", object.display());
    println!("cargo::rustc-env=GOVSANDBOX_BPF_OBJECT_ID={id}");
    Ok(())
}
