//! What nobody should pack.

use super::archives::{add, export, gzip, header, inspect_file, report, zstd};
use super::common::cli::{number_in, rewarm, text};
use super::common::{Scratch, number};
use super::{images, inspect, kinds};
use rewarm::inspect::{Folder, Options, inspect_stream};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType};

/// An archive with images and one entry that should not be there.
fn with(entry: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let scratch = Scratch::new();
    images::process(&scratch.file("images"), 8);
    let mut tar = Builder::new(Vec::new());
    tar.append_dir_all("checkpoint", scratch.file("images"))
        .unwrap();
    entry(&mut tar);
    tar.into_inner().unwrap()
}

fn link(name: &str, kind: EntryType, target: &str) -> tar::Header {
    let mut header = header(name, kind, 0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

/// A record of POSIX for the entry that comes next.
fn pax(tar: &mut Builder<Vec<u8>>, key: &str, value: &str) {
    tar.append_pax_extensions([(key, value.as_bytes())])
        .unwrap();
    if key == "size" {
        add(tar, "checkpoint/lies", b"");
    }
}

#[test]
fn hostile_archives_are_named_and_refused() {
    let scratch = Scratch::new();
    let empty = |header: tar::Header| with(move |tar| tar.append(&header, &b""[..]).unwrap());
    let file = |name: &str| empty(header(name, EntryType::Regular, 0));
    let whole = with(|_| ());
    let mut long = header("long", EntryType::XHeader, 1 << 40);
    long.set_cksum();
    let lying = header("pages-9.img", EntryType::Regular, 1 << 50);
    let mut negative = header("checkpoint/pages-8.img", EntryType::Regular, 0);
    negative.as_old_mut().size = [0xff; 12];
    negative.set_cksum();
    let pages = |pid: u64| {
        let run = images::message(&[(1, 0), (4, 6), (5, 1 << 43)]);
        let entries = [images::message(&[(1, pid)]), run];
        images::image(images::PAGEMAP, &entries)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            with(|tar| add(tar, "./checkpoint//pagemap-7.img", &pages(1))),
            "it is there more than once",
        ),
        (
            with(|tar| tar.get_mut().extend(negative.as_bytes())),
            "ends in the middle",
        ),
        (with(|tar| pax(tar, "size", "-1")), "a bad size"),
        (
            with(|tar| {
                pax(tar, "path", "../../etc/passwd\n\u{1b}[2J");
                add(tar, "checkpoint/innocent", b"");
            }),
            "a path with .. in it",
        ),
        (
            with(|tar| {
                for pid in 100..400 {
                    add(tar, &format!("checkpoint/pagemap-{pid}.img"), &pages(pid));
                }
            }),
            "more memory than any machine has",
        ),
        ([&whole[..], &whole].concat(), "behind the archive's end"),
        (
            [gzip(&whole), b"garbage".to_vec()].concat(),
            "behind the archive's end",
        ),
        (
            [zstd(&whole), b"garbage".to_vec()].concat(),
            "behind the archive's end",
        ),
        (file("/etc/passwd"), "an absolute path"),
        (file("a/../../b"), "a path with .. in it"),
        (
            empty(link("l", EntryType::Symlink, "../../etc/passwd")),
            "a link out of the archive",
        ),
        (
            empty(link("h", EntryType::Link, "/etc/shadow")),
            "a link out of the archive",
        ),
        (
            with(|tar| tar.get_mut().extend(long.as_bytes())),
            "more than a name takes",
        ),
        (
            with(|tar| tar.get_mut().extend(lying.as_bytes())),
            "ends in the middle",
        ),
        (
            whole[..whole.len() - 1024].to_vec(),
            "ends without the mark",
        ),
        (
            whole[..whole.len() / 2 + 100].to_vec(),
            "ends in the middle",
        ),
        (gzip(&whole)[..300].to_vec(), ""),
        (zstd(&whole)[..100].to_vec(), ""),
        (
            with(|tar| add(tar, "checkpoint/core-7.img", b"no image")),
            "core-7.img",
        ),
        (
            with(|tar| add(tar, "checkpoint/pages-2.img", &[0; 100])),
            "no image speaks of",
        ),
        (
            with(|tar| add(tar, "gpu/1/data-0001-00.bin", &[0; 100])),
            "without a manifest",
        ),
    ];
    for (bytes, words) in cases {
        let output = inspect_file(&bytes, &scratch.file("archive"));
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(words), "{words}: {said}");
    }
    // What is only odd is told, and nothing is wrong with it.
    let half = whole.len() / 2;
    let in_two = |pack: fn(&[u8]) -> Vec<u8>| [pack(&whole[..half]), pack(&whole[half..])].concat();
    for (bytes, words) in [
        (in_two(gzip), ""),
        (in_two(zstd), ""),
        (
            with(|tar| {
                let mut header = header("checkpoint/pages-2.img", EntryType::GNUSparse, 0);
                header.set_cksum();
                tar.append(&header, &b""[..]).unwrap();
                let entries = [
                    images::message(&[(1, 2)]),
                    images::message(&[(1, 0), (4, 6), (5, 9)]),
                ];
                add(
                    tar,
                    "checkpoint/pagemap-8.img",
                    &images::image(images::PAGEMAP, &entries),
                );
            }),
            "an entry with holes",
        ),
        (
            with(|tar| {
                let mut mappings = Vec::new();
                for at in 0..400_000u64 {
                    images::nest(
                        14,
                        &images::message(&[(1, at << 12), (2, (at + 1) << 12)]),
                        &mut mappings,
                    );
                }
                add(
                    tar,
                    "checkpoint/mm-8.img",
                    &images::image(images::MM, &[mappings]),
                );
            }),
            "more mappings than are looked into",
        ),
        (empty(header("fifo", EntryType::Fifo, 0)), "a pipe"),
        (empty(header("device", EntryType::Char, 0)), "a device"),
        (
            empty(header("sparse", EntryType::GNUSparse, 0)),
            "an entry with holes",
        ),
        (
            empty(link("checkpoint/parent", EntryType::Symlink, "../pre")),
            "not followed",
        ),
    ] {
        let output = inspect_file(&bytes, &scratch.file("archive"));
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(
            output.status.success() && said.contains(words),
            "{words}: {output:?}"
        );
    }
}

#[test]
fn nothing_outside_of_a_folder_is_touched() {
    let scratch = Scratch::new();
    let folder = scratch.file("images");
    images::process(&folder, 8);
    let outside = scratch.file("outside");
    images::process(&outside, 8);
    symlink(&outside, folder.join("there")).unwrap();
    symlink(outside.join("pages-1.img"), folder.join("pages-5.img")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    let pipe = std::ffi::CString::new(text(&folder.join("mm-9.img"))).unwrap();
    // SAFETY: a string and a number.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("core-9.img")).unwrap();
    fs::write(folder.join("\u{1b}[2J\n.log"), "x").unwrap();
    let found = inspect(&folder);
    assert_eq!(number_in(&found["not_looked_into"], "count"), 5);
    assert_eq!(number_in(&found["memory"], "bytes"), 8 * 4096);
    let table = rewarm(&["inspect", text(&folder)]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        !table.contains('\u{1b}') && table.contains("\\u{1b}[2J\\n.log"),
        "{table}"
    );
}

#[test]
fn what_nobody_reads_may_be_unreadable() {
    let scratch = Scratch::new();
    let folder = scratch.file("images");
    images::process(&folder, 8);
    for name in ["secret.log", "core-9.img"] {
        fs::write(folder.join(name), "x").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = rewarm(&["inspect", "--json", text(&folder)]);
    // SAFETY: system calls only; capability 1 is CAP_DAC_OVERRIDE, 2 CAP_DAC_READ_SEARCH.
    unsafe {
        command.pre_exec(|| {
            for capability in [1, 2] {
                // Without root there is nothing to give up.
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        });
    }
    let found = report(&command.output().unwrap());
    let problems = &found["problems"]["first"];
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    assert_eq!(problems[0]["path"], "core-9.img");
    assert!(
        problems[0]["what"]
            .as_str()
            .unwrap()
            .contains("Permission denied"),
        "{problems}"
    );
}

/// Its output, and the most memory that it had, in bytes. Python starts it, as a child
/// of this process would begin with what this one has.
fn peak(arguments: &[&str]) -> (Value, u64) {
    const MEASURE: &str = "\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)";
    let tool = rewarm(&[]);
    let output = Command::new("python3")
        .args(["-c", MEASURE, text(Path::new(tool.get_program()))])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let kib = said
        .lines()
        .last()
        .and_then(|line| line.parse::<u64>().ok());
    (report(&output), kib.expect("it measured") * 1024)
}

/// A manifest as rewarm seals it.
pub fn sealed(key: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let digest = rewarm::digest::digest(body.as_bytes());
    let bytes = body.len();
    format!("{{\"{key}\":1,\"bytes\":{bytes},\"digest\":\"{digest}\"}}\n{body}").into()
}

/// A snapshot's manifest with one allocation.
pub fn snapshot(bytes: u64, chunk_bytes: u64, chunks: &[Value], discarded: Value) -> Vec<u8> {
    let stored = chunks.iter().filter(|chunk| chunk.is_object()).count() as u64;
    let file = json!({"name": "data-0001-00.bin", "bytes": stored * chunk_bytes});
    let body = json!({
        "id": "0123456789abcdef0123456789abcdef", "generation": 1, "created": 1,
        "rewarm_version": "0", "driver_version": 13000, "chunk_bytes": chunk_bytes,
        "process": {"pid": 7, "start_time": 1, "executable": "/bin/x", "boot_id": "0", "pid_namespace": 1},
        "devices": [{"ordinal": 0, "name": "GPU", "uuid": "0123456789abcdef0123456789abcdef", "bytes": bytes}],
        "allocations": [{"id": 1, "device": 0, "address": 1u64 << 40, "bytes": bytes, "discarded": discarded}],
        "files": if stored > 0 { vec![file] } else { Vec::new() },
        "chunks": chunks,
    });
    sealed("rewarm_snapshot", &body)
}

fn many(count: u64, entry: impl Fn(u64) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..count).map(entry).collect()
}

/// More of everything than is kept, a part of it where time is short.
fn wants_much(part: u64) -> Vec<(String, Vec<u8>)> {
    let mut runs = vec![images::message(&[(1, 1)])];
    runs.extend(many(2_500_000 / part, |at| {
        images::message(&[(1, at << 13), (4, 6), (5, 1)])
    }));
    let mut mappings = Vec::new();
    for at in 0..290_000 / part {
        let fields = [(1, at << 12), (2, (at + 1) << 12), (4, at), (7, 1 << 6)];
        images::nest(14, &images::message(&fields), &mut mappings);
    }
    let names = many(300_000 / part, |id| {
        let mut file = images::message(&[(1, id)]);
        images::nest(6, format!("{id:060}").as_bytes(), &mut file);
        let mut entry = Vec::new();
        images::nest(3, &file, &mut entry);
        entry
    });
    let zero = vec![json!("zero"); (1_100_000 / part) as usize];
    let count = zero.len() as u64;
    [
        (
            "checkpoint/pagemap-9.img",
            images::image(images::PAGEMAP, &runs),
        ),
        (
            "checkpoint/mm-9.img",
            images::image(images::MM, &[mappings]),
        ),
        ("checkpoint/files.img", images::image(images::FILES, &names)),
        (
            "gpu/1/manifest.json",
            snapshot(count << 12, 1 << 12, &zero, json!([])),
        ),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

/// Archives that want much memory: a report, in 200 MB.
#[test]
fn memory_is_bounded_whatever_comes() {
    let scratch = Scratch::new();
    // All that is bounded only in a campaign: the tests are not optimised.
    let part = if number("REWARM_TEST_INSPECTIONS", 0) > 0 {
        1
    } else {
        16
    };
    let parts = wants_much(part);
    let of = |files: &[(String, Vec<u8>)]| {
        with(|tar| {
            files
                .iter()
                .for_each(|(name, content)| add(tar, name, content))
        })
    };
    let mut cases: Vec<Vec<u8>> = parts.chunks(1).map(of).collect();
    let bomb = with(|tar| {
        let bytes = (256 << 20) / part;
        let header = header("checkpoint/pages-3.img", EntryType::Regular, bytes);
        tar.append(&header, std::io::repeat(0).take(bytes)).unwrap();
    });
    cases.extend([gzip(&bomb), zstd(&bomb)]);
    drop(bomb);
    cases.push(everything(&parts, part));
    for (number, bytes) in cases.iter().enumerate() {
        let path = scratch.file("archive");
        fs::write(&path, bytes).unwrap();
        let (_, peak) = peak(&["inspect", "--json", text(&path)]);
        println!("case {number}: {} MB", peak / 1_000_000);
        assert!(peak < 200_000_000, "case {number}: {peak} bytes");
    }
}

/// All of that in one archive, and pages and files of which no two are the same.
fn everything(parts: &[(String, Vec<u8>)], part: u64) -> Vec<u8> {
    let packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut tar = Builder::new(packed);
    let pages = 1_700_000 / part / part;
    let header = header("checkpoint/pages-9.img", EntryType::Regular, pages << 12);
    let left = Vec::new();
    tar.append(&header, Distinct { pages, left }).unwrap();
    // A manifest, for which memory is only taken while it is read, comes last.
    let (last, first) = parts.split_last().unwrap();
    for (name, content) in first {
        add(&mut tar, name, content);
    }
    for number in 0..200_000 / part {
        add(&mut tar, &format!("gpu/fdinfo-{number:060}.img"), b"");
        add(&mut tar, &format!("c/pages-{number}.img"), b"");
    }
    add(&mut tar, &last.0, &last.1);
    tar.into_inner().unwrap().finish().unwrap()
}

/// So many pages of which no two are the same.
struct Distinct {
    pages: u64,
    left: Vec<u8>,
}

impl Read for Distinct {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() && self.pages > 0 {
            self.pages -= 1;
            self.left = vec![0; 4096];
            self.left[..8].copy_from_slice(&(self.pages + 1).to_le_bytes());
        }
        let bytes = to.len().min(self.left.len());
        to[..bytes].copy_from_slice(&self.left[..bytes]);
        self.left.drain(..bytes);
        Ok(bytes)
    }
}

/// Mutated images and archives: a report or an error, and never more.
#[test]
fn whatever_is_in_it_there_is_a_report_or_an_error() {
    let seed = number("REWARM_TEST_SEED", fastrand::u64(..));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new();
    let made = scratch.file("made");
    images::process(&made, 20);
    // Pages of a real one are only bytes: its other images are enough.
    let real = kinds(&scratch).inspect(|images| {
        for entry in fs::read_dir(images)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if fs::metadata(&entry).unwrap().len() > 1 << 20 {
                fs::File::options()
                    .write(true)
                    .open(entry)
                    .unwrap()
                    .set_len(1 << 16)
                    .unwrap();
            }
        }
    });
    let folders: Vec<_> = [Some(made), real].into_iter().flatten().collect();
    let tars: Vec<_> = folders.iter().map(|folder| export(folder)).collect();
    for _ in 0..number("REWARM_TEST_INSPECTIONS", 400) {
        let options = Options {
            top: 20,
            full: false,
            done: Default::default(),
        };
        let which = random.usize(..folders.len());
        if random.u8(..4) > 0 {
            let mut bytes = tars[which].clone();
            let packed = random.u8(..6);
            if packed < 2 {
                bytes = [gzip, zstd][usize::from(packed)](&bytes);
            }
            mutate(&mut bytes, &mut random);
            if let Ok(report) = inspect_stream(&bytes[..], "fuzz", &options) {
                serde_json::to_string(&report).unwrap();
            }
        } else {
            let mutant = scratch.file("mutant");
            let _ = fs::remove_dir_all(&mutant);
            fs::create_dir(&mutant).unwrap();
            for entry in fs::read_dir(&folders[which]).unwrap().map(Result::unwrap) {
                let mut bytes = fs::read(entry.path()).unwrap();
                if random.bool() && !bytes.is_empty() {
                    mutate(&mut bytes, &mut random);
                }
                fs::write(mutant.join(entry.file_name()), bytes).unwrap();
            }
            if let Ok(report) = Folder::look(&mutant, &options).and_then(Folder::report) {
                serde_json::to_string(&report).unwrap();
            }
        }
    }
    let peak = rewarm::proc::status_line(std::process::id(), "VmHWM:").unwrap();
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 600 << 10, "{peak}");
}

/// Changes, takes out, doubles or cuts off some bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            return;
        }
        // Headers are at the beginning of blocks, and images are short.
        let at = match random.bool() {
            true => random.usize(..bytes.len()),
            false => {
                (random.usize(..bytes.len()) / 512 * 512 + random.usize(..160)).min(bytes.len() - 1)
            }
        };
        match random.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes[at] = 0xff,
            2 => {
                let end = (at + random.usize(1..600)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.usize(1..600)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes[at] ^= 1 << random.u8(..8),
        }
    }
}
