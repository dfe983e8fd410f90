//! Copies that safetensors makes into pinned memory: which of them the lanes make
//! together, and that every byte arrives in all.

mod common;

use common::{Link, Outcome, Run, Scratch, app, shared_library_as};
use rewarm::control::FillReport;
use std::os::unix::process::ExitStatusExt;

const MIB: u64 = 1 << 20;
/// Of the file and the blocks in `tests/apps/fills.c`.
const SIZE: u64 = 8 * MIB + 4096;

/// How safetensors' own library is built: called through a table that the loader
/// makes read-only.
const LIKE_SAFETENSORS: &[&str] = &[
    "-DWITH_SLOT",
    "-fno-builtin-memcpy",
    "-fno-plt",
    "-Wl,-z,relro,-z,now",
];

/// A stand-in for the library, under a name.
struct Library {
    folder: Scratch,
    name: &'static str,
}

impl Library {
    fn new(name: &'static str, flags: &[&str]) -> Library {
        let folder = Scratch::new();
        shared_library_as(&folder.file(name), "fills_library", flags);
        Library { folder, name }
    }

    fn safetensors() -> Library {
        Library::new("_safetensors_rust_test.so", LIKE_SAFETENSORS)
    }

    fn run(&self, rewarmed: bool, situation: &str) -> Run {
        Run::either(app("fills", Link::Dlopen), rewarmed)
            .arg(situation)
            .arg(self.folder.file(self.name))
            .small_copies_too()
            .directory_is_scratch()
    }

    /// The situation plain and under rewarm, which must end in the same way.
    #[track_caller]
    fn like_plain(&self, situation: &str) -> Outcome {
        let plain = self.run(false, situation).finish().ok();
        let rewarmed = self.run(true, situation).finish();
        rewarmed.must_be_like(&plain);
        rewarmed
    }
}

fn fills(outcome: &Outcome) -> FillReport {
    let devices = &outcome.report().devices;
    devices
        .first()
        .map_or_else(FillReport::default, |device| device.fills.clone())
}

/// Insists on so many copies by the lanes, so many bytes, and so many of them from
/// the file.
#[track_caller]
fn filled(outcome: &Outcome, copies: u64, bytes: u64, file_bytes: u64) {
    let fills = fills(outcome);
    let seen = (fills.copies, fills.bytes, fills.file_bytes);
    let expected = (copies, bytes, file_bytes);
    outcome.must(seen == expected, &format!("{seen:?}, not {expected:?}"));
}

#[test]
fn tensors_are_read_from_their_file() {
    let library = Library::safetensors();
    for situation in ["from_file", "loaded_after_cuda", "loaded_late"] {
        filled(&library.like_plain(situation), 1, SIZE, SIZE);
    }
    filled(&library.like_plain("loaded_again"), 2, 2 * SIZE, 2 * SIZE);
}

#[test]
fn other_sources_are_copied_from_memory() {
    let library = Library::safetensors();
    filled(&library.like_plain("from_memory"), 1, SIZE, 0);
    filled(&library.like_plain("from_the_same_block"), 1, 2 * MIB, 0);
}

#[test]
fn pages_that_were_written_are_copied_from_memory() {
    let outcome = Library::safetensors().like_plain("from_modified");
    let fills = fills(&outcome);
    outcome.must(
        fills.bytes == SIZE && (1..SIZE).contains(&fills.file_bytes),
        "not partly from the file",
    );
}

#[test]
fn large_copies_of_any_size_and_place_are_filled() {
    let outcome = Library::safetensors().like_plain("sizes");
    let bytes = 3 * (MIB + (MIB + 1) + (3 * MIB + 77));
    filled(&outcome, 9, bytes, bytes);
}

#[test]
fn only_pinned_memory_is_filled() {
    let library = Library::safetensors();
    for situation in [
        "pageable",
        "partly_outside",
        "onto_itself",
        "freed",
        "gone_with_its_context",
    ] {
        filled(&library.like_plain(situation), 0, 0, 0);
    }
}

#[test]
fn a_library_that_came_behind_the_last_block_is_left_alone() {
    let outcome = Library::safetensors().like_plain("loaded_behind_the_last_block");
    filled(&outcome, 0, 0, 0);
}

#[test]
fn a_library_may_come_and_go_while_memory_is_pinned() {
    let outcome = Library::safetensors().like_plain("loaded_meanwhile");
    let fills = fills(&outcome);
    outcome.must(fills.copies <= 300, "more copies than were made");
}

#[test]
fn threads_fill_at_the_same_time() {
    let outcome = Library::safetensors().like_plain("threads");
    filled(&outcome, 32, 32 * (SIZE - 8), 0);
}

#[test]
fn fills_and_copies_share_the_lanes() {
    let outcome = Library::safetensors().like_plain("beside_copies");
    filled(&outcome, 5, 5 * SIZE, 5 * SIZE);
    outcome.must(
        outcome.device().h2d.fanned_out_copies == 3,
        "no copy from pageable memory was fanned out",
    );
}

#[test]
fn a_forked_child_copies_by_itself() {
    let outcome = Library::safetensors().like_plain("in_a_child");
    filled(&outcome, 2, 2 * SIZE, 2 * SIZE);
}

#[test]
fn a_copy_from_beyond_the_end_of_a_file_ends_the_process_as_ever() {
    let library = Library::safetensors();
    for rewarmed in [false, true] {
        let outcome = library.run(rewarmed, "from_truncated").finish();
        outcome.must(
            outcome.status.signal() == Some(libc::SIGBUS),
            "did not die of SIGBUS",
        );
    }
}

#[test]
fn fills_can_be_switched_off() {
    let library = Library::safetensors();
    for (setting, value) in [
        ("CRIU_CUDA_PARALLEL_RESTORE", "0"),
        ("REWARM_READ_FILES", "0"),
        ("CRIU_CUDA_STREAMS", "1"),
    ] {
        let run = library.run(true, "from_file").env(setting, value);
        filled(&run.finish().ok(), 0, 0, 0);
    }
}

#[test]
fn the_table_is_as_read_only_as_before() {
    let outcome = Library::safetensors().like_plain("protected");
    filled(&outcome, 1, SIZE, SIZE);
    outcome.must(
        outcome.stdout.contains("the slot is r--p\n"),
        "the slot is not read-only",
    );
}

#[test]
fn every_kind_of_slot_that_is_resolved_will_do() {
    let through_plt = &["-fno-builtin-memcpy", "-Wl,-z,relro,-z,now"][..];
    let writable = &["-fno-builtin-memcpy", "-fno-plt", "-Wl,-z,norelro"][..];
    for flags in [through_plt, writable] {
        let library = Library::new("_safetensors_rust.abi3.so", flags);
        filled(&library.like_plain("from_file"), 1, SIZE, SIZE);
    }
}

#[test]
fn a_slot_that_is_not_resolved_is_left_alone() {
    let lazy = &["-fno-builtin-memcpy", "-Wl,-z,lazy"];
    let library = Library::new("_safetensors_rust_test.so", lazy);
    filled(&library.like_plain("loaded_lazily"), 0, 0, 0);
}

#[test]
fn another_library_is_left_alone() {
    for name in ["not_safetensors_rust.so", "_safetensors.so"] {
        let library = Library::new(name, LIKE_SAFETENSORS);
        filled(&library.like_plain("from_file"), 0, 0, 0);
    }
}
