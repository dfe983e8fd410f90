//! What the end-to-end tests share: finding the artefacts, building the small
//! programs in `tests/apps`, and running them in fresh processes.
//!
//! Nothing here skips: what is missing is a failure that says what to do.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test file uses its own part"
)]

mod apps;
pub mod bench;
pub mod cli;
pub mod criu;
pub mod live;
pub mod packages;
pub mod pages;
pub mod plugin;
pub mod plugins;
pub mod podman;
mod run;
pub mod runc;
pub mod saved;
pub mod standin;
pub mod weights;
pub mod whole;

pub use apps::{Link, app, driver, shared_library, shared_library_as};
pub use run::{Outcome, Run};

use std::path::{Path, PathBuf};

/// Folder of the artefacts under test: `librewarm.so`, `librewarm_core.so` and
/// `sim/libcuda.so.1`, as `scripts/build` leaves them.
pub fn libraries() -> PathBuf {
    let folder = match std::env::var_os("REWARM_TEST_LIBS") {
        Some(folder) => PathBuf::from(folder),
        None => target().join("release"),
    };
    for file in ["librewarm.so", "librewarm_core.so", "sim/libcuda.so.1"] {
        let path = folder.join(file);
        assert!(
            path.exists(),
            "{} is missing: run scripts/build first (or set REWARM_TEST_LIBS)",
            path.display()
        );
    }
    folder
}

/// Cargo's target folder: this test lies in `<target>/<profile>/deps`.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors()
        .nth(3)
        .expect("a test lies in <target>/<profile>/deps")
        .to_owned()
}

/// Root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A fresh empty folder, removed when the test is over unless it failed.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Scratch {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("scratch-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the target folder is writable");
        Scratch(path)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its own path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = run::repeat(run::LONGEST, || holds().then_some(()));
    assert!(held.is_some(), "never: {what}");
}

/// A number from the environment, for making a test longer by hand.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
