//! Copies: right bytes, right order, the driver's own errors, and every reason
//! for leaving a copy alone counted under its name.

mod common;

use common::{Link, Outcome, Run, app};
use std::collections::BTreeMap;
use std::path::PathBuf;

const KIB: usize = 1 << 10;

/// Sources of this size are registered where they lie if there is one lane.
const IN_PLACE: usize = 128 << 20;

/// A situation of `tests/apps/copies.c`, under rewarm.
fn situation(name: &str, count: u32) -> Run {
    Run::rewarmed(app("copies", Link::Dlopen))
        .arg(name)
        .arg(count.to_string())
        .small_copies_too()
}

/// The same situation plain and under rewarm, which must say the same.
fn like_plain(name: &str, count: u32) -> Outcome {
    let arguments = [name, &count.to_string()];
    let plain = Run::plain(app("copies", Link::Dlopen))
        .args(arguments)
        .finish()
        .ok();
    let rewarmed = situation(name, count).finish().ok();
    rewarmed.must(
        plain.stdout == rewarmed.stdout,
        &format!("plain run:\n{}", plain.stdout),
    );
    rewarmed
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// Copies to the device: how many were fanned out, and what became of the rest.
#[track_caller]
fn to_device<const N: usize>(outcome: &Outcome, fanned_out: u64, bypassed: [(&str, u64); N]) {
    let found = &outcome.device().h2d;
    outcome.must(
        found.fanned_out_copies == fanned_out,
        &format!("not {fanned_out} fanned out"),
    );
    outcome.must(
        found.bypassed == counts(bypassed),
        &format!("not {bypassed:?}"),
    );
}

#[test]
fn every_spelling_moves_the_right_bytes_at_sizes_around_every_threshold() {
    let plain = sizes(Run::plain(sizes_app()), 64 << 20);
    let rewarmed = sizes(Run::rewarmed(sizes_app()).small_copies_too(), 64 << 20);
    assert_eq!(plain.stdout, rewarmed.stdout);
    let device = rewarmed.device();
    rewarmed.must(
        device.h2d.fanned_out_copies > 100,
        "hardly any copy to the device was fanned out",
    );
    rewarmed.must(
        device.d2h.fanned_out_copies > 100,
        "hardly any copy to the host was fanned out",
    );
}

fn sizes_app() -> PathBuf {
    app("sizes", Link::Dlopen)
}

fn sizes(run: Run, largest: usize) -> Outcome {
    run.args([64 * KIB, 256 * KIB, largest + 3].map(|bytes| bytes.to_string()))
        .finish()
        .ok()
}

#[test]
fn one_lane_copies_large_sources_in_place() {
    let outcome = sizes(
        Run::rewarmed(sizes_app()).small_copies_too().lanes(1),
        IN_PLACE,
    );
    outcome.must(
        outcome.device().h2d.in_place_bytes > 2 * IN_PLACE as u64,
        "nothing was copied in place",
    );
}

#[test]
fn one_lane_registers_shared_mappings_of_files_and_stages_private_ones() {
    let run = |name| {
        situation(name, 2)
            .lanes(1)
            .directory_is_scratch()
            .finish()
            .ok()
    };
    let shared = run("mapped_shared");
    shared.must(
        shared.device().h2d.in_place_bytes > 2 * IN_PLACE as u64,
        "nothing was copied in place",
    );
    let private = run("mapped_private");
    private.must(
        private.device().h2d.in_place_bytes == 0,
        "pinning a private mapping copies its pages",
    );
    to_device(&private, 2, []);
}

#[test]
fn pageable_copies_are_fanned_out_in_both_directions() {
    let outcome = like_plain("plain", 5);
    to_device(&outcome, 5, []);
    let device = outcome.device();
    assert_eq!(device.h2d.fanned_out_bytes, 5 * (3 << 20));
    assert_eq!(device.d2h.fanned_out_copies, 5);
    assert_eq!(device.d2h.fanned_out_bytes, 5 * (3 << 20));
    assert_eq!(device.lanes, 4);
    assert!(device.pinned_bytes > 0);
}

#[test]
fn copies_below_the_threshold_are_left_alone() {
    let outcome = like_plain("small", 7);
    to_device(&outcome, 0, [("below_threshold", 7)]);
    assert_eq!(
        outcome.device().d2h.bypassed,
        counts([("below_threshold", 1)])
    );
    assert_eq!(
        (outcome.device().lanes, outcome.device().pinned_bytes),
        (0, 0),
        "made for nothing"
    );
}

#[test]
fn pinned_and_registered_memory_is_left_alone() {
    to_device(&like_plain("pinned", 3), 0, [("pinned_host", 3)]);
    to_device(&like_plain("registered", 3), 1, [("pinned_host", 3)]);
}

#[test]
fn managed_memory_is_left_alone() {
    to_device(&like_plain("managed", 3), 0, [("managed", 4)]);
}

#[test]
fn copies_within_the_device_are_left_alone() {
    let outcome = like_plain("device_to_device", 3);
    assert_eq!(
        outcome.report().undirected,
        counts([("device_to_device", 3)])
    );
}

#[test]
fn shaped_copies_are_passed_through_and_counted() {
    to_device(&like_plain("rows", 3), 0, [("two_dimensional", 3)]);
    to_device(&like_plain("boxes", 3), 0, [("three_dimensional", 3)]);
    let outcome = like_plain("batch", 3);
    assert_eq!(outcome.report().undirected, counts([("batch", 3)]));
}

#[test]
fn copies_of_a_stream_that_is_captured_are_left_alone() {
    to_device(&like_plain("capturing", 2), 0, [("capturing", 2)]);
}

#[test]
fn a_fan_out_does_not_disturb_a_capture_in_another_thread() {
    let outcome = like_plain("beside_a_capture", 20);
    outcome.must(
        outcome.device().h2d.fanned_out_copies > 0,
        "nothing was fanned out beside the capture",
    );
}

#[test]
fn copies_in_another_context_than_the_lanes_are_left_alone() {
    to_device(&like_plain("foreign", 3), 2, [("foreign_context", 4)]);
}

#[test]
fn lanes_move_when_their_context_is_destroyed() {
    to_device(&like_plain("created_first", 3), 4, [("foreign_context", 1)]);
}

#[test]
fn lanes_move_when_the_primary_context_is_reset_or_released() {
    to_device(&like_plain("reset", 4), 4, [("no_context", 4)]);
    to_device(&like_plain("release", 4), 4, [("no_context", 4)]);
}

#[test]
fn the_fan_out_can_be_switched_off() {
    let outcome = situation("plain", 3)
        .env("CRIU_CUDA_PARALLEL_RESTORE", "0")
        .finish()
        .ok();
    to_device(&outcome, 0, [("disabled", 3)]);
    assert_eq!(outcome.device().d2h.bypassed, counts([("disabled", 3)]));
    assert!(!outcome.report().settings.parallel_restore);
}

#[test]
fn errors_are_the_drivers_own() {
    let outcome = like_plain("errors", 1);
    assert!(
        outcome
            .stdout
            .lines()
            .filter(|line| !line.ends_with(": 0"))
            .count()
            > 10,
        "{}",
        outcome.stdout
    );
}

#[test]
fn streams_keep_their_order_around_a_copy() {
    for delay in ["0", "200"] {
        let plain = Run::plain(app("copies", Link::Dlopen))
            .args(["order", "4"])
            .env("SIMCUDA_DELAY_US", delay);
        plain.finish().ok();
        let outcome = situation("order", 4)
            .env("SIMCUDA_DELAY_US", delay)
            .finish()
            .ok();
        outcome.must(
            outcome.device().h2d.fanned_out_copies >= 40,
            "hardly any copy was fanned out",
        );
        outcome.must(
            outcome.device().d2h.fanned_out_copies >= 40,
            "hardly any copy was fanned out",
        );
    }
}

#[test]
fn a_source_that_the_stream_still_writes_is_waited_for() {
    let run = |run: Run| run.env("SIMCUDA_DELAY_US", "500").finish().ok();
    run(Run::plain(app("copies", Link::Dlopen)).args(["source_written_by_the_stream", "20"]));
    to_device(&run(situation("source_written_by_the_stream", 20)), 20, []);
}

#[test]
fn several_threads_copy_at_once() {
    let outcome = like_plain("threads", 10);
    to_device(&outcome, 80, []);
    assert_eq!(outcome.device().d2h.fanned_out_copies, 80);
    assert_eq!(
        outcome.device().lanes,
        4,
        "one set of lanes for all threads"
    );
}

#[test]
fn the_documented_chunk_of_256_mib_works_and_is_clamped_with_a_note() {
    let outcome = situation("plain", 3)
        .lanes(8)
        .env("CRIU_CUDA_CHUNK_MB", "256")
        .finish()
        .ok();
    to_device(&outcome, 3, []);
    let settings = &outcome.report().settings;
    assert!(
        settings.chunk_bytes * 2 * settings.lanes <= 128 << 20,
        "{settings:?}"
    );
    assert!(
        settings
            .notes
            .iter()
            .any(|note| note.starts_with("CRIU_CUDA_CHUNK_MB=256 clamped")),
        "{settings:?}"
    );
}

#[test]
fn lanes_beyond_the_cpus_are_clamped_with_a_note() {
    let outcome = situation("plain", 1)
        .env("CRIU_CUDA_STREAMS", "64")
        .finish()
        .ok();
    let settings = &outcome.report().settings;
    assert_eq!(
        settings.lanes, 8,
        "the process believes that it has eight CPUs"
    );
    assert!(
        settings
            .notes
            .iter()
            .any(|note| note.starts_with("CRIU_CUDA_STREAMS=64 clamped")),
        "{settings:?}"
    );
}

#[test]
fn a_bad_setting_is_noted_and_the_default_holds() {
    let outcome = situation("plain", 1)
        .env("CRIU_CUDA_CHUNK_MB", "many")
        .finish()
        .ok();
    to_device(&outcome, 1, []);
    let settings = &outcome.report().settings;
    assert_eq!(settings.chunk_bytes, 4 << 20);
    let notes = settings.notes.iter();
    let about = notes.filter(|note| note.contains("CRIU_CUDA_CHUNK_MB"));
    assert_eq!(about.count(), 1, "{settings:?}");
}
