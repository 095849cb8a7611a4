//! The kernel programs of govsandbox. What they decide is in the library's `decide`; here is what they see.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // an atomic addition has no other spelling on this target
#![expect(unsafe_code, reason = "BPF helpers and kernel structures are reached through raw pointers")]

mod kernel;

/// Never reached: nothing in these programs panics, and the verifier sees that.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: the loader looks for a symbol of this name in a section of this name; nothing else defines it.
#[unsafe(link_section = "license")]
// SAFETY: as above.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
