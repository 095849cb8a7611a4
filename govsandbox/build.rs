//! Hands the prebuilt kernel object to the compiler and nothing else.

use std::path::Path;

fn main() {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../govsandbox-ebpf/prebuilt/govsandbox.bpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=GOVSANDBOX_BPF_OBJECT={}", object.display());
}
