//! However a program reaches the driver, its copies reach the hooks, and what it
//! asks the loader is answered as without rewarm.

mod common;

use common::{Link, Outcome, Run, app, driver, libraries, repository, shared_library};
use rewarm_abi::Hook;
use std::collections::BTreeSet;
use std::process::Command;

/// A route of `tests/apps/routes.c`, plain and under rewarm.
fn route(name: &str, prepare: impl Fn(Run) -> Run) -> Outcome {
    let run = |rewarmed| {
        let run = Run::either(app("routes", Link::Dlopen), rewarmed).arg(name);
        prepare(run.small_copies_too()).finish().ok()
    };
    let (plain, rewarmed) = (run(false), run(true));
    rewarmed.must(
        plain.stdout == rewarmed.stdout,
        &format!("plain run:\n{}", plain.stdout),
    );
    rewarmed
}

#[track_caller]
fn reaches_the_hooks(outcome: &Outcome, to_device: u64) {
    outcome.must(
        outcome.device().h2d.fanned_out_copies == to_device,
        "a copy missed its hook",
    );
    outcome.must(
        outcome.device().d2h.fanned_out_copies == 1,
        "a copy missed its hook",
    );
}

#[test]
fn a_program_linked_with_the_driver_is_hooked() {
    let run = |rewarmed| {
        Run::either(app("routes", Link::Cuda), rewarmed)
            .small_copies_too()
            .finish()
            .ok()
    };
    let rewarmed = run(true);
    assert_eq!(run(false).stdout, rewarmed.stdout);
    reaches_the_hooks(&rewarmed, 1);
}

#[test]
fn dlsym_on_a_handle_is_hooked() {
    reaches_the_hooks(&route("dlsym", |run| run), 2);
}

#[test]
fn dlsym_in_the_global_scope_is_hooked() {
    reaches_the_hooks(&route("default", |run| run), 2);
    reaches_the_hooks(&route("self", |run| run), 2);
}

#[test]
fn both_forms_of_get_proc_address_are_hooked() {
    reaches_the_hooks(&route("four", |run| run), 2);
    reaches_the_hooks(&route("five", |run| run), 2);
    reaches_the_hooks(&route("lookup_of_lookup", |run| run), 2);
}

#[test]
fn odd_questions_to_get_proc_address_are_answered_by_the_driver() {
    route("questions", |run| run);
    route("questions", |run| run.env("SIMCUDA_VERSION", "11040"));
}

#[test]
fn a_driver_without_an_expected_symbol_works_without_it() {
    for name in [
        "cuMemcpyBatchAsync_v2",
        "cuMemcpyDtoH_v2_ptds",
        "cuMemcpyAsync",
    ] {
        reaches_the_hooks(&route("five", |run| run.env("SIMCUDA_MISSING", name)), 2);
    }
    route("questions", |run| {
        run.env("SIMCUDA_MISSING", "cuMemcpyHtoD_v2")
    });
}

/// Where rewarm misses what it needs, it stays out of the way.
#[test]
fn a_driver_of_long_ago_works_as_without_rewarm() {
    let real = libraries().join("sim/libcuda.so.1");
    let run = |rewarmed, situation| {
        Run::either(app("copies", Link::Dlopen), rewarmed)
            .arg(situation)
            .without_driver()
            .also_search(driver("old_driver"))
            .env("REAL_DRIVER", &real)
            .env("CRIU_CUDA_CONTEXT_POOL", "1")
            .small_copies_too()
            .finish()
            .ok()
    };
    for situation in ["plain", "small", "pinned"] {
        let (plain, rewarmed) = (run(false, situation), run(true, situation));
        assert_eq!(plain.stdout, rewarmed.stdout);
        rewarmed.must(rewarmed.report.is_none(), "rewarm works with half a driver");
    }
}

#[test]
fn probing_finds_nothing_without_a_driver_and_dlerror_says_so() {
    let outcome = route("probe", Run::without_driver);
    assert!(
        outcome.stdout.contains("default cuInit: absent, an error"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("self cuInit: absent, an error"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.report.is_none(),
        "nothing happened that could be reported"
    );
}

#[test]
fn a_library_that_forwards_by_rtld_next_keeps_working_before_rewarm() {
    let front = libraries().join("librewarm.so");
    let outcome = Run::plain(app("routes", Link::Cuda))
        .also_preload(shared_library("next"))
        .also_preload(front)
        .env("REWARM_MIN_COPY_KB", "64")
        .finish()
        .ok();
    assert_eq!(outcome.stdout, "right, counted 1\n");
    outcome.must(
        outcome.device().h2d.fanned_out_copies == 1,
        "the next definition is not rewarm's",
    );
}

#[test]
fn a_library_that_forwards_by_rtld_next_keeps_working_behind_rewarm() {
    for link in [Link::Cuda, Link::Dlopen] {
        let outcome = Run::rewarmed(app("routes", link))
            .arg("dlsym")
            .also_preload(shared_library("next"))
            .env("REWARM_MIN_COPY_KB", "64")
            .finish()
            .ok();
        assert!(outcome.stdout.starts_with("right"), "{}", outcome.stdout);
        outcome.must(
            outcome.device().h2d.fanned_out_copies >= 1,
            "a copy missed its hook",
        );
    }
}

/// Names of the functions and data that the front defines for others.
fn exports() -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(libraries().join("librewarm.so"))
        .output()
        .expect("the tests need nm: install binutils");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).expect("symbols are ASCII");
    names
        .lines()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_front_exports_what_the_table_says_and_nothing_else() {
    let table: BTreeSet<String> = Hook::ALL
        .iter()
        .map(|hook| hook.name().to_str().expect("names are ASCII").to_owned())
        .chain(["dlsym".to_owned()])
        .collect();
    assert_eq!(exports(), table);
}

/// What other libraries see of rewarm changes only knowingly.
#[test]
fn the_exports_are_those_of_the_golden_list() {
    let path = repository().join("tests/golden/exports.txt");
    let golden = std::fs::read_to_string(&path).expect("the golden list is in the repository");
    let golden: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
    assert_eq!(
        exports(),
        golden,
        "if this is meant, change {}",
        path.display()
    );
}
