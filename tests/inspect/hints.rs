//! Every hint, with its bytes, where there is a reason for it; and only there.

use super::archives::{export, gzip};
use super::common::Scratch;
use super::common::cli::text;
use super::hostile::snapshot;
use super::{MIB, bytes_of, images, inspect};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;

fn hint<'a>(found: &'a Value, name: &str) -> Option<&'a Value> {
    let mut hints = found["hints"].as_array().unwrap().iter();
    hints.find(|hint| hint["hint"] == name)
}

/// A process with a large anonymous mapping, which has the files mapped, too.
fn large(folder: &Path, files: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let (pages, begin) = (40 * MIB / 4096, 1 << 30);
    let mut mm = images::message(&[(12, 1)]);
    let mut names = Vec::new();
    for (id, name) in (5..).zip(files) {
        let fields = [(1, id << 12), (2, (id + 1) << 12), (4, id), (7, 1 << 6)];
        images::nest(14, &images::message(&fields), &mut mm);
        let mut file = images::message(&[(1, id)]);
        images::nest(6, name.as_bytes(), &mut file);
        let mut entry = Vec::new();
        images::nest(3, &file, &mut entry);
        names.push(entry);
    }
    let fields = [(1, begin), (2, begin + 40 * MIB), (7, 1 << 9)];
    images::nest(14, &images::message(&fields), &mut mm);
    // Not lazy.
    let run = images::message(&[(1, begin), (4, 4), (5, pages)]);
    let entries = [images::message(&[(1, 1)]), run];
    let images = [
        ("mm-7.img", images::image(images::MM, &[mm])),
        ("files.img", images::image(images::FILES, &names)),
        ("pagemap-7.img", images::image(images::PAGEMAP, &entries)),
    ];
    for (name, content) in images {
        fs::write(folder.join(name), content).unwrap();
    }
    File::create(folder.join("pages-1.img"))
        .unwrap()
        .set_len(40 * MIB)
        .unwrap();
}

#[test]
fn large_memory_is_told_by_what_it_looks_like() {
    let scratch = Scratch::new();
    let folder = scratch.file("images");
    large(&folder, &[]);
    let found = inspect(&folder);
    assert!(
        hint(&found, "anonymous_weights").is_none(),
        "zeros: {found}"
    );
    assert_eq!(bytes_of(&found["hints"], "hint", "zero_pages"), 40 * MIB);
    let lock = hint(&found, "not_lazy").unwrap();
    assert!(lock["what"].as_str().unwrap().contains("40 MiB"), "{lock}");
    // The second half as weights are.
    let mut random = fastrand::Rng::with_seed(1);
    let mut pages = vec![0; 40 << 20];
    random.fill(&mut pages[20 << 20..]);
    fs::write(folder.join("pages-1.img"), &pages).unwrap();
    let weights = bytes_of(&inspect(&folder)["hints"], "hint", "anonymous_weights");
    assert!(weights.abs_diff(20 * MIB) < 3 * MIB, "{weights}");
    // The driver's own copies: whatever they look like.
    large(&folder, &["/usr/lib/libcuda.so.1"]);
    let found = inspect(&folder);
    assert_eq!(
        bytes_of(&found["hints"], "hint", "gpu_memory_in_images"),
        40 * MIB
    );
}

#[test]
fn a_kv_cache_that_was_written_is_told_unless_it_was_discarded() {
    let scratch = Scratch::new();
    let chunk = |number: u64| json!({"stored": {"file": 0, "offset": number << 22, "digest": format!("{number:032x}")}});
    let mut chunks: Vec<_> = (0..16).map(chunk).collect();
    fs::write(
        scratch.file("manifest.json"),
        snapshot(64 * MIB, 4 * MIB, &chunks, json!([])),
    )
    .unwrap();
    let data = File::create(scratch.file("data-0001-00.bin")).unwrap();
    data.set_len(64 * MIB).unwrap();
    File::create(scratch.file("spare-0001-00.bin"))
        .unwrap()
        .set_len(3 * MIB)
        .unwrap();
    let found = inspect(scratch.path());
    assert_eq!(found["whole"], true, "{found}");
    assert_eq!(bytes_of(&found["hints"], "hint", "kv_cache"), 64 * MIB);
    assert_eq!(bytes_of(&found["hints"], "hint", "spare_room"), 3 * MIB);
    chunks[15] = json!("discarded");
    let discarded = json!([{"offset": 60 * MIB, "bytes": 4 * MIB}]);
    fs::write(
        scratch.file("manifest.json"),
        snapshot(64 * MIB, 4 * MIB, &chunks, discarded),
    )
    .unwrap();
    data.set_len(60 * MIB).unwrap();
    let found = inspect(scratch.path());
    assert!(hint(&found, "kv_cache").is_none(), "{found}");
}

#[test]
fn what_lies_beside_the_images_is_told() {
    let scratch = Scratch::new();
    images::process(&scratch.file("u/checkpoint"), 8);
    let none = inspect(&scratch.file("u"));
    assert_eq!(none["hints"], json!([]));
    fs::write(scratch.file("u/devshm-checkpoint.tar"), vec![0; 2 << 20]).unwrap();
    fs::write(scratch.file("u/checkpoint/dump.log"), vec![b'x'; 1 << 20]).unwrap();
    fs::write(scratch.file("u/checkpoint/ghost-file-1.img"), vec![0; 4096]).unwrap();
    let found = inspect(&scratch.file("u"));
    for (name, bytes) in [
        ("files_in_memory", 2 * MIB),
        ("logs", MIB),
        ("ghost_files", 4096),
    ] {
        assert_eq!(bytes_of(&found["hints"], "hint", name), bytes, "{name}");
    }
    // A bundle of runc looks so, too: it is podman's in its own folder.
    fs::write(scratch.file("u/config.json"), "{}").unwrap();
    assert_eq!(inspect(&scratch.file("u"))["kind"], "criu_images");
    fs::rename(scratch.file("u"), scratch.file("userdata")).unwrap();
    assert_eq!(
        inspect(&scratch.file("userdata"))["kind"],
        "podman_checkpoint"
    );
}

#[test]
fn a_compressed_archive_on_a_ram_disk_is_told() {
    let scratch = Scratch::new();
    images::process(&scratch.file("images"), 8);
    let path = Path::new("/dev/shm").join(format!("rewarm-inspect-{}.tar.gz", std::process::id()));
    fs::write(&path, gzip(&export(&scratch.file("images")))).unwrap();
    let found = inspect(&path);
    fs::remove_file(&path).unwrap();
    let hint = hint(&found, "compression").unwrap_or_else(|| panic!("{}: {found}", text(&path)));
    assert!(
        hint["what"].as_str().unwrap().contains("on a RAM disk"),
        "{hint}"
    );
}
