//! Folders of CRIU's plugins, and what these find on `PATH`.

use super::{criu, libraries, target};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// CRIU's own CUDA plugin, as `scripts/criu-cuda-plugin` has compiled it.
///
/// Where there is none, says loudly that the test is skipped.
pub fn cuda_plugin_or_skip() -> Option<PathBuf> {
    criu::criu_or_skip()?;
    let plugin = match std::env::var_os("REWARM_CRIU_CUDA_PLUGIN") {
        Some(given) => PathBuf::from(given),
        None => target().join("criu-cuda-plugin/cuda_plugin.so"),
    };
    if !plugin.exists() {
        eprintln!(
            "SKIPPED, as {} is not there: run scripts/criu-cuda-plugin",
            plugin.display()
        );
        return None;
    }
    Some(plugin)
}

/// A set-up as somebody has it who restores with CRIU or a container runtime: `plugins`
/// and `bin` in a folder.
pub struct Plugins {
    root: PathBuf,
}

impl Plugins {
    /// With `rewarm_pages.so`, and `rewarm` beside it; `bin` has `criu` and the drop-in.
    pub fn new(root: &Path) -> Plugins {
        let plugins = Plugins {
            root: root.to_owned(),
        };
        fs::create_dir_all(plugins.folder()).expect("the scratch folder is writable");
        fs::create_dir_all(plugins.bin()).expect("the scratch folder is writable");
        let library = libraries().join("librewarm_pages.so");
        fs::copy(&library, plugins.folder().join("rewarm_pages.so"))
            .unwrap_or_else(|error| panic!("{}: {error}: run scripts/build", library.display()));
        let rewarm = Path::new(env!("CARGO_BIN_EXE_rewarm"));
        symlink(rewarm, plugins.folder().join("rewarm")).expect("it is a fresh folder");
        let drop_in = Path::new(env!("CARGO_BIN_EXE_cuda-checkpoint"));
        symlink(drop_in, plugins.bin().join("cuda-checkpoint")).expect("it is a fresh folder");
        let criu = criu::can_checkpoint().expect("who has no CRIU skips");
        if criu.is_absolute() {
            symlink(criu, plugins.bin().join("criu")).expect("it is a fresh folder");
        }
        plugins
    }

    /// With CRIU's own CUDA plugin, too.
    pub fn with_cuda(root: &Path, cuda: &Path) -> Plugins {
        let plugins = Plugins::new(root);
        symlink(cuda, plugins.folder().join("cuda_plugin.so")).expect("it is a fresh folder");
        plugins
    }

    /// CRIU's `libdir`.
    pub fn folder(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// What comes first on `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The variables with which CRIU, or a runtime, is started.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        let mut path = self.bin().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        [
            ("PATH", path),
            ("LD_LIBRARY_PATH", libraries().join("sim").into()),
            // `FI_PLUGIN_CUDA_FORCE_ENABLE`: the CUDA plugin acts without NVIDIA's
            // kernel module, too.
            ("CRIU_FAULT", "138".into()),
        ]
    }

    /// A folder with all of rewarm, as an installation has it.
    pub fn install(&self, folder: &Path) {
        fs::create_dir(folder).expect("it is a fresh folder");
        for name in ["librewarm.so", "librewarm_core.so"] {
            fs::copy(libraries().join(name), folder.join(name)).expect("they were built");
        }
        let plugin = self.folder().join("rewarm_pages.so");
        fs::copy(plugin, folder.join("rewarm_pages.so")).expect("it was just made");
        for (name, program) in [
            ("rewarm", env!("CARGO_BIN_EXE_rewarm")),
            ("cuda-checkpoint", env!("CARGO_BIN_EXE_cuda-checkpoint")),
        ] {
            symlink(program, folder.join(name)).expect("it is a fresh folder");
        }
    }

    /// Puts a script in the place of `rewarm`, which is `$rewarm` in it.
    pub fn instead_of_rewarm(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let place = self.folder().join("rewarm");
        fs::remove_file(&place).expect("there is a link");
        let rewarm = env!("CARGO_BIN_EXE_rewarm");
        fs::write(&place, format!("#!/bin/sh\nrewarm='{rewarm}'\n{script}\n"))
            .expect("it is our folder");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("it is our file");
    }
}
