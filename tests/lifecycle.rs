//! However a process lives and ends around its use of CUDA, it does so as
//! without rewarm.

mod common;

use common::{Link, Outcome, Run, app, shared_library};

/// A scene of `tests/apps/lifecycle.c`, plain and under rewarm.
fn like_plain(scene: &str) -> Outcome {
    let run = |rewarmed| {
        Run::either(app("lifecycle", Link::Dlopen), rewarmed)
            .arg(scene)
            .small_copies_too()
            .finish()
    };
    let (plain, rewarmed) = (run(false), run(true));
    rewarmed.must_be_like(&plain);
    rewarmed
}

#[track_caller]
fn ends(scene: &str, status: i32) -> Outcome {
    let outcome = like_plain(scene);
    outcome.must(
        outcome.status.code() == Some(status),
        &format!("not exit status {status}"),
    );
    outcome
}

fn fanned_out(outcome: &Outcome) -> u64 {
    outcome.device().h2d.fanned_out_copies
}

#[test]
fn a_process_ends_by_return_or_exit_and_leaves_a_report() {
    for (scene, status) in [("return", 0), ("exit", 3), ("exit_of_a_thread", 6)] {
        assert_eq!(fanned_out(&ends(scene, status)), 1, "{scene}");
    }
}

#[test]
fn a_process_ends_without_exit_handlers() {
    ends("fast_exit", 4);
    ends("quick_exit", 5);
}

#[test]
fn a_process_ends_by_a_signal() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(like_plain("abort").status.signal(), Some(libc::SIGABRT));
    assert_eq!(like_plain("signal").status.signal(), Some(libc::SIGTERM));
}

#[test]
fn threads_may_outlive_main() {
    assert_eq!(fanned_out(&ends("pthread_exit", 12)), 2);
}

#[test]
fn longjmp_across_frames_leaves_copies_working() {
    assert_eq!(fanned_out(&ends("longjmp", 0)), 2);
}

#[test]
fn a_process_may_exit_while_other_threads_copy() {
    for _ in 0..20 {
        ends("exit_amid_copies", 8);
    }
}

#[test]
fn copies_in_exit_handlers_get_the_drivers_answer() {
    ends("copy_in_exit_handler", 0);
}

#[test]
fn the_driver_library_may_be_closed() {
    assert_eq!(fanned_out(&ends("close_library", 0)), 3);
    assert_eq!(fanned_out(&ends("close_unused_library", 0)), 1);
}

#[test]
fn a_process_may_execute_another_program_after_using_cuda() {
    ends("exec_after_use", 0);
}

#[test]
fn a_process_may_start_others_while_using_cuda() {
    assert_eq!(fanned_out(&ends("start_others", 0)), 2);
}

#[test]
fn descriptors_that_the_program_closed_are_not_taken() {
    like_plain("closed_descriptors");
}

#[test]
fn signals_may_interrupt_copies() {
    assert_eq!(fanned_out(&ends("signals", 0)), 61);
}

#[test]
fn the_first_call_may_come_from_several_threads_at_once() {
    let begin = || {
        Run::rewarmed(app("lifecycle", Link::Dlopen))
            .arg("begin_in_threads")
            .small_copies_too()
    };
    let check = |run: Run| {
        let outcome = run.finish().ok();
        outcome.must(
            !outcome.device().h2d.bypassed.contains_key("lane_failed"),
            "lanes were left in a context that is gone",
        );
    };
    // All but the first thread arrive while the core is being opened.
    check(begin().also_preload(shared_library("slow_core")));
    for round in 0..5 {
        check(begin().env("SIMCUDA_INIT_MS", (round % 3).to_string()));
        check(begin().env("CRIU_CUDA_CONTEXT_POOL", "1"));
    }
}
