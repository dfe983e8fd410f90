//! The prewarmed context: made while the program starts, and otherwise not to be
//! noticed: not by what the program asks about contexts, and not by a fork.

mod common;

use common::{Link, Outcome, Run, app, repository, shared_library};
use rewarm::control::ContextReport;

/// A scene of `tests/apps/prewarm.c` on a driver that starts as slowly as a real one.
fn play(scene: &str, number: u32, run: fn(std::path::PathBuf) -> Run) -> Run {
    slow(run(app("prewarm", Link::Dlopen)))
        .args([scene, &number.to_string()])
        .small_copies_too()
}

fn slow(run: Run) -> Run {
    run.env("SIMCUDA_INIT_MS", "60")
        .env("SIMCUDA_CONTEXT_MS", "40")
}

fn prewarmed(run: Run) -> Run {
    run.env("CRIU_CUDA_CONTEXT_POOL", "1")
}

/// Plain, under rewarm, and with prewarming: the program sees no difference.
fn like_plain(scene: &str, number: u32) -> Outcome {
    let plain = play(scene, number, Run::plain).finish();
    let same = |outcome: Outcome| {
        let alike = plain.stdout == outcome.stdout && plain.status == outcome.status;
        outcome.must(
            alike,
            &format!("plain: {:?}\n{}", plain.status, plain.stdout),
        );
        outcome
    };
    assert!(
        plain.stdout.contains("right") || plain.status.code() == Some(7),
        "{}",
        plain.stdout
    );
    same(play(scene, number, Run::rewarmed).finish());
    same(prewarmed(play(scene, number, Run::rewarmed)).finish())
}

fn context(outcome: &Outcome) -> &ContextReport {
    &outcome.report().context
}

#[track_caller]
fn was_prewarmed(outcome: &Outcome) {
    let context = context(outcome);
    outcome.must(
        context.prewarmed && context.failure.is_none(),
        "not prewarmed",
    );
    outcome.must(
        context.init_seconds >= 0.06,
        "the thread did not initialise the driver",
    );
    outcome.must(
        context.retain_seconds >= 0.04,
        "the thread did not make the context",
    );
}

#[test]
fn a_program_that_starts_slowly_finds_its_context_made() {
    let outcome = like_plain("retain", 500);
    was_prewarmed(&outcome);
    outcome.must(context(&outcome).saved_seconds > 0.0, "nothing was saved");
}

#[test]
fn a_program_that_starts_at_once_shares_the_wait() {
    for milliseconds in [0, 10, 30, 70, 90] {
        like_plain("retain", milliseconds);
    }
}

/// The first calls fall into the moment in which the prewarming thread opens the
/// core, or into any other.
#[test]
fn a_program_that_starts_as_fast_as_prewarming_keeps_its_counts() {
    for scene in ["retain", "release", "reset"] {
        let run = |run: Run| run.args([scene, "0"]).small_copies_too();
        let plain = run(Run::plain(app("prewarm", Link::Dlopen))).finish().ok();
        let same = |run: Run| {
            let outcome = prewarmed(run).finish();
            let why = format!("plain run:\n{}", plain.stdout);
            outcome.must(outcome.stdout == plain.stdout, &why);
        };
        let rewarmed = || run(Run::rewarmed(app("prewarm", Link::Dlopen)));
        same(rewarmed().also_preload(shared_library("slow_core")));
        for round in 0..20 {
            same(rewarmed().env("SIMCUDA_INIT_MS", (round % 3).to_string()));
        }
    }
}

#[test]
fn lanes_are_ready_before_the_first_copy() {
    let outcome = like_plain("retain", 500);
    was_prewarmed(&outcome);
    outcome.must(
        outcome.device().h2d.fanned_out_copies == 2,
        "a copy was not fanned out",
    );
}

#[test]
fn without_the_setting_nothing_is_prewarmed() {
    let outcome = play("retain", 100, Run::rewarmed).finish().ok();
    assert_eq!(
        ContextReport {
            waited_seconds: 0.0,
            ..context(&outcome).clone()
        },
        ContextReport::default()
    );
}

#[test]
fn the_last_release_destroys_the_prewarmed_context() {
    was_prewarmed(&like_plain("release", 500));
    like_plain("release", 0);
}

#[test]
fn a_reset_destroys_the_prewarmed_context() {
    was_prewarmed(&like_plain("reset", 500));
    like_plain("reset", 0);
}

#[test]
fn a_created_context_is_the_prewarmed_one_when_its_flags_allow() {
    const MAP_HOST: u32 = 8;
    for flags in [0, MAP_HOST] {
        let outcome = like_plain("create", flags);
        was_prewarmed(&outcome);
        outcome.must(
            context(&outcome).created_from_prewarmed == 1,
            "the prewarmed context was not used",
        );
        outcome.must(
            context(&outcome).created_by_driver == 2,
            "there is but one prewarmed context",
        );
    }
}

#[test]
fn a_created_context_with_other_flags_is_the_drivers() {
    const BLOCKING_SYNC: u32 = 4;
    let outcome = like_plain("create", BLOCKING_SYNC);
    was_prewarmed(&outcome);
    outcome.must(
        outcome.stdout.starts_with("flags 4\n"),
        "not the flags that were asked for",
    );
    outcome.must(
        context(&outcome).created_by_driver > 0,
        "its flags are not those of the prewarmed one",
    );
}

#[test]
fn created_and_primary_context_live_and_die_apart() {
    let outcome = like_plain("create_and_retain", 0);
    outcome.must(
        context(&outcome).created_from_prewarmed == 1,
        "the prewarmed context was not used",
    );
    let outcome = like_plain("create_and_retain", 1);
    outcome.must(
        context(&outcome).created_from_prewarmed == 0,
        "the primary context was in use",
    );
}

#[test]
fn children_forked_before_the_first_use_have_cuda() {
    for milliseconds in [0, 5, 20, 50, 80, 110, 300] {
        like_plain("fork_after", milliseconds);
    }
}

#[test]
fn a_library_opened_before_the_fork_works_in_the_child() {
    for milliseconds in [0, 50, 300] {
        like_plain("fork_with_handle", milliseconds);
    }
}

#[test]
fn many_children_forked_while_prewarming_have_cuda() {
    like_plain("fork_often", 30);
}

#[test]
fn children_forked_by_later_threads_have_cuda() {
    like_plain("fork_in_threads", 3);
}

#[test]
fn children_of_a_process_that_uses_cuda_get_the_drivers_own_error() {
    for milliseconds in [0, 300] {
        let outcome = like_plain("fork_of_a_user", milliseconds);
        assert!(
            outcome.stdout.contains("child: 3 3 3 3"),
            "{}",
            outcome.stdout
        );
    }
}

fn multiprocessing(method: &str) {
    let script = repository().join("tests/apps/multiprocess.py");
    let run = |run: fn(&'static str) -> Run| {
        slow(run("python3"))
            .arg(&script)
            .arg(method)
            .small_copies_too()
    };
    let plain = run(Run::plain).finish().ok();
    let outcome = prewarmed(run(Run::rewarmed)).finish().ok();
    outcome.must(
        outcome.stdout == plain.stdout,
        &format!("plain run:\n{}", plain.stdout),
    );
    assert!(outcome.stdout.contains("worker 0"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("parent ([0, 0, 0, 0, 0, 0], True)"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn python_multiprocessing_by_fork_has_cuda() {
    multiprocessing("fork");
}

#[test]
fn python_multiprocessing_by_spawn_has_cuda() {
    multiprocessing("spawn");
    multiprocessing("forkserver");
}

#[test]
fn a_process_may_end_at_any_moment_of_prewarming() {
    for microseconds in (0..200_000).step_by(9_000) {
        like_plain("leave_after", microseconds);
    }
}

#[test]
fn an_own_program_prewarms_before_it_uses_cuda() {
    let outcome = prewarmed(play("threads_after", 500, Run::rewarmed))
        .finish()
        .ok();
    assert!(
        outcome.stdout.contains("driver loaded"),
        "{}",
        outcome.stdout
    );
    let outcome = play("threads_after", 500, Run::rewarmed).finish().ok();
    assert!(
        outcome.stdout.contains("threads 1, driver absent"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn shells_and_distribution_tools_do_not_prewarm() {
    const LOOK: &str = "sleep 0.3; grep Threads /proc/$$/status; grep -c libcuda /proc/$$/maps; ls -l /proc/$$/fd | grep -c socket:";
    for shell in ["/bin/sh", "/bin/bash"] {
        let plain = Run::plain(shell).args(["-c", LOOK]).finish();
        let outcome = prewarmed(slow(Run::rewarmed(shell)))
            .args(["-c", LOOK])
            .finish();
        outcome.must(
            outcome.stdout == plain.stdout,
            &format!("plain run:\n{}", plain.stdout),
        );
        assert!(
            outcome.stdout.contains("Threads:\t1\n0\n"),
            "{}",
            outcome.stdout
        );
        outcome.must(
            !outcome.scratch().join("run").exists(),
            "a control socket was made",
        );
        outcome.must(outcome.report.is_none(), "a report was written");
    }
}

#[test]
fn a_machine_without_a_driver_notices_nothing() {
    for milliseconds in [0, 100] {
        let outcome = prewarmed(play("threads_after", milliseconds, Run::rewarmed))
            .without_driver()
            .finish()
            .ok();
        assert!(
            outcome.stdout.contains("driver absent"),
            "{}",
            outcome.stdout
        );
    }
}

#[test]
fn a_driver_that_fails_while_prewarming_fails_the_program_as_without_rewarm() {
    for fault in [
        "cuInit:1+:100",
        "cuDevicePrimaryCtxRetain:1+:2",
        "cuDeviceGet:1+:101",
    ] {
        let plain = play("retain", 500, Run::plain)
            .env("SIMCUDA_FAIL", fault)
            .finish();
        let outcome = prewarmed(play("retain", 500, Run::rewarmed))
            .env("SIMCUDA_FAIL", fault)
            .finish();
        let alike = plain.stdout == outcome.stdout && plain.status == outcome.status;
        outcome.must(alike, &format!("{fault}, plain run:\n{}", plain.stdout));
        assert!(!plain.status.success(), "the fault was not noticed");
    }
}

#[test]
fn a_failure_that_only_prewarming_meets_is_reported_and_harmless() {
    let outcome = prewarmed(play("retain", 500, Run::rewarmed))
        .env("SIMCUDA_FAIL", "cuDevicePrimaryCtxRetain:1:2")
        .finish()
        .ok();
    outcome.must(!context(&outcome).prewarmed, "prewarming failed");
    outcome.must(
        context(&outcome).failure.is_some(),
        "the failure is not said",
    );
}
