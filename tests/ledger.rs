//! What a program observes of its device memory does not depend on whether it can
//! be frozen.

mod common;

use common::{Link, Outcome, Run, app, number};

/// A scene of `tests/apps/ledger.c`, plain and freezable.
fn both(arguments: &[&str]) -> (Outcome, Outcome) {
    let run = |freezable: bool| {
        let run = Run::either(app("ledger", Link::Dlopen), freezable)
            .args(arguments)
            .env("SIMCUDA_DEVICES", "2");
        match freezable {
            true => run
                .env("REWARM_FREEZABLE", "1")
                .env("SIMCUDA_JOURNAL", "{scratch}/journal"),
            false => run,
        }
        .finish()
    };
    (run(false).ok(), run(true).ok())
}

/// Calls of a function that reached the driver.
fn calls(outcome: &Outcome, name: &str) -> usize {
    let journal = outcome.left("journal");
    journal.matches(&format!(" {name}(")).count()
}

fn alike(scene: &str) -> Outcome {
    let (plain, freezable) = both(&[scene]);
    freezable.must_be_like(&plain);
    freezable
}

#[test]
fn allocations_are_made_of_memory_that_can_leave_and_look_the_same() {
    let outcome = alike("sizes");
    // Two probes of how memory is made may precede the four large ones.
    outcome.must(calls(&outcome, "cuMemCreate") >= 4, "no physical memory");
    outcome.must(
        calls(&outcome, "cuMemAddressFree") == 4,
        "addresses were not given back",
    );
}

#[test]
fn what_the_driver_refuses_is_refused() {
    alike("refusals");
}

#[test]
fn memory_runs_out_and_comes_back() {
    alike("exhaustion");
}

#[test]
fn rows_have_the_drivers_pitch() {
    let outcome = alike("rows");
    outcome.must(calls(&outcome, "cuMemMap") > 0, "no row can leave");
}

#[test]
fn memory_ends_with_its_context() {
    alike("contexts");
}

#[test]
fn captures_forbid_what_they_forbid() {
    let outcome = alike("captures");
    outcome.must(
        calls(&outcome, "cuCtxSynchronize") == 0,
        "waiting for a context breaks captures of other threads",
    );
}

#[test]
fn memory_is_not_taken_from_work() {
    alike("busy");
}

#[test]
fn peers_reach_memory() {
    alike("peers");
}

#[test]
fn the_applications_own_mappings_work_with_tokens() {
    alike("mappings");
}

#[test]
fn threads_allocate_and_free_at_once() {
    alike("threads");
}

#[test]
fn random_programs_observe_the_same() {
    let (first, count) = (number("REWARM_SEED", 1), number("REWARM_PROGRAMS", 4));
    let (plain, freezable) = both(&["random", &first.to_string(), &count.to_string()]);
    freezable.must_be_like(&plain);
}

#[test]
fn a_legacy_handle_is_refused_once_and_then_served() {
    let (plain, freezable) = both(&["shares"]);
    freezable.must(
        plain.stdout.matches("= 0").count() == 2,
        "the plain run does not share",
    );
    let lines: Vec<_> = freezable.stdout.lines().collect();
    freezable.must(
        lines
            == [
                "cuIpcGetMemHandle(&handle, before) = 1",
                "cuIpcGetMemHandle(&handle, after) = 0",
            ],
        "not the driver's answers",
    );
    freezable.must(
        freezable
            .left("log")
            .contains("cuIpcGetMemHandle cannot work"),
        "the reason is not in the log",
    );
}

/// The path that makes memory which can leave fails, call by call: the driver's own
/// allocation takes its place, and nothing is lost.
#[test]
fn where_memory_cannot_be_made_to_leave_the_driver_makes_it() {
    let (plain, _) = both(&["sizes"]);
    for call in [
        "cuMemCreate",
        "cuMemAddressReserve",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemGetAllocationGranularity",
    ] {
        for nth in ["1", "2", "1+"] {
            let freezable = Run::rewarmed(app("ledger", Link::Dlopen))
                .arg("sizes")
                .env("SIMCUDA_DEVICES", "2")
                .env("REWARM_FREEZABLE", "1")
                .env("SIMCUDA_FAIL", format!("{call}:{nth}:2"))
                .finish();
            freezable.must_be_like(&plain);
        }
    }
}

#[test]
fn without_the_setting_nothing_is_replaced() {
    let outcome = Run::rewarmed(app("ledger", Link::Dlopen))
        .arg("sizes")
        .env("SIMCUDA_JOURNAL", "{scratch}/journal")
        .finish()
        .ok();
    outcome.must(calls(&outcome, "cuMemCreate") == 0, "physical memory");
    outcome.must(calls(&outcome, "cuMemFree_v2") == 7, "more than asked for");
}
