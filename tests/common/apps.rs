//! Building the programs in `tests/apps`.

use super::{Scratch, libraries, repository};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a program gets at the driver.
#[derive(Clone)]
pub enum Link {
    /// It opens the library itself.
    Dlopen,
    /// It is linked with it, as with `-lcuda`.
    Cuda,
    /// It is linked with this library, which gets at the driver.
    Library(PathBuf),
}

/// The program `tests/apps/<name>.c`, built.
pub fn app(name: &str, link: Link) -> PathBuf {
    match link {
        Link::Dlopen => build(name, "", &["-ldl", "-lpthread"]),
        Link::Cuda => {
            let driver = libraries().join("sim/libcuda.so.1");
            let driver = driver.to_str().expect("paths of tests are UTF-8");
            build(
                name,
                "-linked",
                &["-DCUDA_MIN_LINKED", driver, "-ldl", "-lpthread"],
            )
        }
        Link::Library(library) => {
            let library = library.to_str().expect("paths of tests are UTF-8");
            build(name, "-library", &[library, "-ldl", "-lpthread", "-lrt"])
        }
    }
}

/// The library `tests/apps/<name>.c`, built to be preloaded.
pub fn shared_library(name: &str) -> PathBuf {
    build(name, ".so", &["-shared", "-fPIC", "-ldl"])
}

/// A copy under another name of the library `tests/apps/<name>.c`, built with more
/// flags.
pub fn shared_library_as(file: &Path, name: &str, flags: &[&str]) {
    let built = build(name, ".so", &[&["-shared", "-fPIC"], flags].concat());
    std::fs::copy(&built, file).expect("both are in the target folder");
}

/// A folder in which the library `tests/apps/<name>.c` is the driver.
pub fn driver(name: &str) -> PathBuf {
    let library = build(
        name,
        ".driver",
        &["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-ldl"],
    );
    let folder = library.with_extension("folder");
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.file("sim")).expect("the target folder is writable");
    std::fs::copy(&library, scratch.file("sim/libcuda.so.1"))
        .expect("both are in the target folder");
    // Another test may have been faster.
    if std::fs::rename(scratch.file("sim"), &folder).is_err() {
        assert!(folder.exists(), "{} cannot be made", folder.display());
    }
    folder
}

/// Builds once for all tests: the result's name says what it was built from.
/// Tests run at the same time, so it is built beside and renamed.
fn build(name: &str, suffix: &str, flags: &[&str]) -> PathBuf {
    let apps = repository().join("tests/apps");
    let source = apps.join(format!("{name}.c"));
    let mut hasher = DefaultHasher::new();
    for file in [
        &source,
        &apps.join("cuda_min.h"),
        &apps.join("cuda_routes.h"),
    ] {
        read(file).hash(&mut hasher);
    }
    flags.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apps");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let built = folder.join(format!("{name}-{:016x}{suffix}", hasher.finish()));
    if built.exists() {
        return built;
    }
    let scratch = Scratch::new();
    let beside = scratch.file("built");
    let output = Command::new("cc")
        .args([
            "-std=gnu11",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
        ])
        .arg(&beside)
        .arg(&source)
        .args(flags)
        .output()
        .expect("the tests need a C compiler: install gcc");
    assert!(
        output.status.success(),
        "{} does not build:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(&beside, &built).expect("both are in the target folder");
    built
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
