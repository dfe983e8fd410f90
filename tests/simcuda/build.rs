//! Makes the library answer to the driver's name: soname, symbol binding and `sim/libcuda.so.1`.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // OUT_DIR is <profile dir>/build/<package>-<hash>/out.
    let profile = out
        .ancestors()
        .nth(3)
        .expect("OUT_DIR lies in the profile folder");
    link_in(&profile.join("sim"));
}

/// A folder of its own, so that `LD_LIBRARY_PATH` reaches no other library.
fn link_in(folder: &Path) {
    std::fs::create_dir_all(folder).expect("cannot create the sim folder");
    let link = folder.join("libcuda.so.1");
    if std::fs::read_link(&link).is_err() {
        std::os::unix::fs::symlink("../libsimcuda.so", &link).expect("cannot link libcuda.so.1");
    }
}
