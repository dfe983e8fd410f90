//! Copies from mappings of files: what is read from the file, what from memory,
//! and always the bytes that memory holds.

mod common;

use common::{Link, Outcome, Run, app};
use std::os::unix::process::ExitStatusExt;

/// Of the file in `tests/apps/file_sources.c`.
const BYTES: u64 = 2049 * 4096;

fn run(rewarmed: bool, situation: &str) -> Run {
    Run::either(app("file_sources", Link::Dlopen), rewarmed)
        .arg(situation)
        .small_copies_too()
        .directory_is_scratch()
}

/// The situation plain and under rewarm, which must end in the same way.
#[track_caller]
fn like_plain(situation: &str) -> Outcome {
    let plain = run(false, situation).finish().ok();
    let rewarmed = run(true, situation).finish();
    rewarmed.must_be_like(&plain);
    rewarmed
}

/// Bytes that were read from files instead of memory.
#[track_caller]
fn file_bytes(outcome: &Outcome) -> u64 {
    let to_device = &outcome.device().h2d;
    outcome.must(to_device.fanned_out_bytes > 0, "nothing was fanned out");
    to_device.file_bytes
}

#[test]
fn mappings_of_a_file_are_read_from_the_file() {
    for situation in [
        "shared",
        "private",
        "populated",
        "read_only",
        "written_shared",
        "given_back",
        "in_pieces",
        "among_many",
        "odd_name",
        "in_memory",
    ] {
        let outcome = like_plain(situation);
        let bytes = file_bytes(&outcome);
        outcome.must(bytes == BYTES, &format!("{bytes} bytes from the file"));
    }
}

#[test]
fn any_range_of_a_mapping_will_do() {
    let outcome = like_plain("any_offset");
    let bytes = file_bytes(&outcome);
    outcome.must(
        bytes == BYTES - 5 * 4096,
        &format!("{bytes} bytes from the file"),
    );
}

#[test]
fn a_file_that_changes_is_read_as_it_is() {
    for situation in ["overwritten", "resized"] {
        let outcome = like_plain(situation);
        let bytes = file_bytes(&outcome);
        outcome.must(bytes >= BYTES, "the first copy was not read from the file");
    }
}

#[test]
fn pages_that_were_written_are_read_from_memory() {
    for situation in ["modified_start", "modified_middle", "modified_end"] {
        let outcome = like_plain(situation);
        let bytes = file_bytes(&outcome);
        outcome.must(
            (BYTES..2 * BYTES).contains(&bytes),
            &format!("{bytes} bytes from the file in two copies"),
        );
    }
}

#[test]
fn what_is_no_longer_the_file_is_memory() {
    for situation in [
        "modified",
        "copied_at_once",
        "kept",
        "deleted",
        "replaced",
        "memfd",
        "anonymous",
        "locked",
    ] {
        let outcome = like_plain(situation);
        let bytes = file_bytes(&outcome);
        outcome.must(bytes == 0, &format!("{bytes} bytes from the file"));
    }
}

#[test]
fn files_are_left_alone_if_so_wanted() {
    let outcome = run(true, "private")
        .env("REWARM_READ_FILES", "0")
        .finish()
        .ok();
    let bytes = file_bytes(&outcome);
    outcome.must(bytes == 0, &format!("{bytes} bytes from the file"));
}

#[test]
fn a_copy_from_beyond_the_end_of_a_file_ends_the_process_as_ever() {
    for rewarmed in [false, true] {
        let outcome = run(rewarmed, "truncated").finish();
        outcome.must(
            outcome.status.signal() == Some(libc::SIGBUS),
            "did not die of SIGBUS",
        );
    }
}

#[test]
fn descriptors_are_out_of_the_way_and_closed_when_idle() {
    let outcome = like_plain("descriptors");
    let bytes = file_bytes(&outcome);
    outcome.must(bytes == 2 * BYTES, &format!("{bytes} bytes from the file"));
}
