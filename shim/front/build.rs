//! How the preloaded library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The addresses of the exported stubs are this library's own: nothing is looked
    // up for them when a process starts.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
