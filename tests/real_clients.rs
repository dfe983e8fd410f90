//! Real clients of CUDA, as far as the software driver carries them. (Static
//! libcudart, torch, cupy, numba and jax run on a GPU: `scripts/gpu-tests`.)

mod common;

use common::{Link, Run, Scratch, app, repository};
use rewarm::control::State;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The wheel that NVIDIA publishes the CUDA runtime in.
const WHEEL: &str = "nvidia-cuda-runtime==13.0.96";

/// `lib` of the CUDA runtime: that of `REWARM_TEST_CUDART`, or the wheel's,
/// downloaded once.
fn cudart() -> PathBuf {
    if let Some(folder) = std::env::var_os("REWARM_TEST_CUDART") {
        return PathBuf::from(folder).join("lib");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(WHEEL.replace("==", "-"));
    if !folder.exists() {
        let scratch = Scratch::new();
        let output = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--target",
            ])
            .arg(scratch.file("wheel"))
            .arg(WHEEL)
            .output()
            .expect("the tests need python3");
        assert!(
            output.status.success(),
            "{WHEEL} cannot be had; give its folder as REWARM_TEST_CUDART:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Another test may have been faster.
        if std::fs::rename(scratch.file("wheel"), &folder).is_err() {
            assert!(folder.exists(), "{} cannot be made", folder.display());
        }
    }
    folder.join("nvidia/cu13/lib")
}

/// A program of the runtime, linked with its static or its dynamic library.
fn runtime_program(library: &str) -> (PathBuf, PathBuf) {
    let libraries = cudart();
    let library = libraries.join(library);
    assert!(library.exists(), "{} is missing", library.display());
    (app("cudart", Link::Library(library)), libraries)
}

/// The runtime finds its 439 functions, `cuInit` among them, through rewarm's
/// `cuGetProcAddress`, and gets as far as without it: the private tables that it
/// then asks for exist in real drivers only.
#[test]
fn the_cuda_runtime_gets_as_far_as_without_rewarm() {
    for library in ["libcudart.so.13", "libcudart_static.a"] {
        let (program, libraries) = runtime_program(library);
        let run = |rewarmed| {
            Run::either(&program, rewarmed)
                .also_search(&libraries)
                .finish()
        };
        let rewarmed = run(true);
        rewarmed.must_be_like(&run(false));
        rewarmed.must(
            rewarmed.report().state == State::Active,
            "the runtime's cuInit missed its hook",
        );
    }
}

#[test]
fn ctypes_copies_are_fanned_out() {
    let clients = repository().join("tests/apps/clients.py");
    let run = |rewarmed| {
        Run::either("python3", rewarmed)
            .arg(&clients)
            .arg("ctypes")
            .lanes(4)
            .finish()
            .ok()
    };
    let rewarmed = run(true);
    rewarmed.must_be_like(&run(false));
    rewarmed.must(
        rewarmed.device().h2d.fanned_out_bytes == 96 << 20,
        "the copy was not fanned out",
    );
    rewarmed.must(
        rewarmed.device().d2h.fanned_out_bytes == 96 << 20,
        "the copy was not fanned out",
    );
}
