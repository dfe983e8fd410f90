//! The page reader: every strategy gives the bytes that are in the file, or an
//! error that names file and offset.

mod common;

use common::{Scratch, number};
use fastrand::Rng;
use rewarm::config::{Settings, cpus};
use rewarm::pages::{FileRange, PageError, PageFile, Piece, ReadOptions, Reason, Strategy, read};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn options(strategy: Strategy) -> ReadOptions {
    ReadOptions {
        strategy,
        chunk_bytes: 256 << 10,
        threads: 4,
        slots: 8,
        ..ReadOptions::new(&Settings::default().plan(cpus()))
    }
}

/// Bytes that differ from place to place.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    Rng::with_seed(seed).fill(&mut noise);
    noise
}

/// Reads ranges into one buffer for each, and checks that every byte came once.
fn gather(ranges: &[FileRange], options: &ReadOptions) -> Result<Vec<Vec<u8>>, PageError> {
    let buffers: Vec<_> = ranges
        .iter()
        .map(|range| Mutex::new((vec![0; range.bytes as usize], 0)))
        .collect();
    let report = read(ranges, options, &|piece: Piece<'_>| {
        let mut buffer = buffers[piece.range].lock().unwrap();
        let at = (piece.offset - ranges[piece.range].offset) as usize;
        buffer.0[at..at + piece.bytes.len()].copy_from_slice(piece.bytes);
        buffer.1 += piece.bytes.len();
        assert!(piece.bytes.len() <= options.chunk_bytes);
    })?;
    let read_by: u64 = report.strategies.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(read_by, report.bytes);
    let buffers = buffers.into_iter().map(|buffer| {
        let (bytes, count) = buffer.into_inner().unwrap();
        assert_eq!(count, bytes.len(), "each byte once");
        bytes
    });
    Ok(buffers.collect())
}

fn strategies() -> Vec<Strategy> {
    let ring = options(Strategy::Uring);
    let allowed = read(&[], &ring, &|_| ()).is_ok();
    if !allowed {
        println!("io_uring is not allowed here: its refusal is tested instead");
    }
    let all = Strategy::ALL.into_iter();
    all.filter(|strategy| allowed || *strategy != Strategy::Uring)
        .collect()
}

#[test]
fn every_strategy_reads_any_ranges_of_any_files_cached_or_not() {
    let seed = number("REWARM_TEST_SEED", 1);
    println!("REWARM_TEST_SEED={seed}");
    let scratch = Scratch::new();
    let mut random = Rng::with_seed(seed);
    let sizes = [0, 1, 4095, 4096, 700_001, (3 << 20) + 77, 9 << 20];
    let files: Vec<_> = sizes
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| {
            let path = scratch.file(&format!("file {number}"));
            let content = noise(bytes, number as u64 + 1);
            fs::write(&path, &content).unwrap();
            (path, content)
        })
        .collect();
    for round in 0..number("REWARM_TEST_PROGRAMS", 25) {
        for strategy in strategies() {
            let mut wanted = Vec::new();
            let ranges: Vec<_> = (0..random.u64(..7))
                .map(|_| {
                    let (path, content) = &files[random.usize(..files.len())];
                    let file = PageFile::open(path).unwrap();
                    if random.bool() {
                        rewarm::pages::evict(&file).unwrap();
                    }
                    let offset = random.u64(..=content.len() as u64);
                    let bytes = random.u64(..=content.len() as u64 - offset);
                    wanted.push(content[offset as usize..(offset + bytes) as usize].to_vec());
                    FileRange {
                        file,
                        offset,
                        bytes,
                    }
                })
                .collect();
            let options = ReadOptions {
                keep_cached: random.bool(),
                threads: random.usize(1..=4),
                chunk_bytes: 65536 << random.u32(..5),
                ..options(strategy)
            };
            let got = gather(&ranges, &options).unwrap();
            assert!(
                got == wanted,
                "seed {seed}, round {round}, {options:?}, {ranges:?}"
            );
        }
    }
}

#[test]
fn holes_read_as_zeros() {
    let scratch = Scratch::new();
    let path = scratch.file("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(20 << 20).unwrap();
    file.write_all_at(b"middle", 7 << 20).unwrap();
    let mut wanted = vec![0; 20 << 20];
    wanted[7 << 20..][..6].copy_from_slice(b"middle");
    for strategy in strategies() {
        let file = PageFile::open(&path).unwrap();
        rewarm::pages::evict(&file).unwrap();
        let got = gather(&[FileRange::whole(file)], &options(strategy)).unwrap();
        assert!(got[0] == wanted, "{strategy}");
    }
}

#[test]
fn a_file_that_shrank_is_an_error_that_says_where() {
    let scratch = Scratch::new();
    for strategy in strategies() {
        let path = scratch.file(strategy.name());
        fs::write(&path, noise(6 << 20, 5)).unwrap();
        let file = PageFile::open(&path).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len((1 << 20) + 10)
            .unwrap();
        let error = gather(&[FileRange::whole(file)], &options(strategy)).unwrap_err();
        assert!(matches!(error.reason, Reason::Ended(bytes) if bytes == 6 << 20));
        assert!(error.offset.unwrap() >= (1 << 20) + 10, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        assert!(text.contains("offset"), "{text}");
    }
}

#[test]
fn a_file_that_grew_or_lost_its_name_is_read_as_it_was_opened() {
    let scratch = Scratch::new();
    let wanted = noise(3 << 20, 9);
    for strategy in strategies() {
        let path = scratch.file(strategy.name());
        fs::write(&path, &wanted).unwrap();
        let file = PageFile::open(&path).unwrap();
        let mut appended = fs::OpenOptions::new().append(true).open(&path).unwrap();
        appended.write_all(b"more").unwrap();
        fs::remove_file(&path).unwrap();
        let got = gather(&[FileRange::whole(file)], &options(strategy)).unwrap();
        assert!(got[0] == wanted, "{strategy}");
    }
}

#[test]
fn a_range_beyond_the_end_is_refused_before_anything_is_read() {
    let scratch = Scratch::new();
    let path = scratch.file("short");
    fs::write(&path, b"12345").unwrap();
    for (offset, bytes) in [(0, 6), (5, 1), (6, 0), (u64::MAX, 2), (2, u64::MAX)] {
        let range = FileRange {
            file: PageFile::open(&path).unwrap(),
            offset,
            bytes,
        };
        let count = AtomicUsize::new(0);
        let count_pieces = |_: Piece<'_>| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let error = read(&[range], &options(Strategy::Auto), &count_pieces).unwrap_err();
        assert!(matches!(error.reason, Reason::BeyondEnd(5)), "{error}");
        assert_eq!(count.into_inner(), 0);
    }
}

#[test]
fn what_is_not_a_regular_file_is_refused_at_once() {
    let scratch = Scratch::new();
    let pipe = scratch.file("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: a string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for path in [scratch.path(), pipe.as_path(), Path::new("/dev/zero")] {
        let error = PageFile::open(path).unwrap_err();
        assert!(matches!(error.reason, Reason::NotRegular), "{error}");
    }
    let error = PageFile::open(scratch.file("nothing")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("No such file or directory (os error 2)")
    );
}

#[test]
fn many_files_are_read_at_once() {
    let scratch = Scratch::new();
    let contents: Vec<_> = (0..70u64)
        .map(|seed| noise(100_000 + 3001 * seed as usize, seed + 1))
        .collect();
    let paths: Vec<_> = (0..contents.len())
        .map(|number| scratch.file(&format!("file {number}")))
        .collect();
    for (path, content) in paths.iter().zip(&contents) {
        fs::write(path, content).unwrap();
    }
    for strategy in strategies() {
        let ranges: Vec<_> = paths
            .iter()
            .map(|path| {
                let file = PageFile::open(path).unwrap();
                rewarm::pages::evict(&file).unwrap();
                FileRange::whole(file)
            })
            .collect();
        let got = gather(&ranges, &options(strategy)).unwrap();
        assert!(got == contents, "{strategy}");
    }
}

/// A file that is locked keeps its locks: they would go with the first descriptor
/// of it that is closed.
#[test]
fn reading_past_the_page_cache_takes_no_lock_away() {
    let scratch = Scratch::new();
    let path = scratch.file("locked");
    let wanted = noise(6 << 20, 3);
    fs::write(&path, &wanted).unwrap();
    let locked = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    // SAFETY: plain integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    // SAFETY: an open descriptor and a structure as the call has it.
    let set = unsafe { libc::fcntl(locked.as_raw_fd(), libc::F_SETLK, &raw const lock) };
    assert_eq!(set, 0);
    let file = PageFile::open(&path).unwrap();
    let direct = options(Strategy::Direct);
    let range = FileRange::whole(file.clone());
    let got = gather(std::slice::from_ref(&range), &direct).unwrap();
    assert!(got[0] == wanted);
    lock.l_type = libc::F_WRLCK as _;
    // SAFETY: as above. An open file description of its own sees the lock.
    let asked = unsafe { libc::fcntl(locked.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    assert_eq!(asked, 0);
    assert_eq!(lock.l_type, libc::F_WRLCK as libc::c_short, "still locked");
}

#[test]
fn names_of_strategies_come_back() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.name().parse(), Ok(strategy));
    }
    let error = "fast".parse::<Strategy>().unwrap_err().to_string();
    assert!(
        error.contains("\"fast\"") && error.contains("io_uring"),
        "{error}"
    );
}

/// In a process of its own, as nothing gives io_uring back.
#[test]
fn without_io_uring_auto_reads_and_asking_for_it_says_why() {
    const ALONE: &str = "REWARM_TEST_WITHOUT_IO_URING";
    if std::env::var_os(ALONE).is_some() {
        return read_without_io_uring();
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.env(ALONE, "1").args([
        "--exact",
        "--nocapture",
        "without_io_uring_auto_reads_and_asking_for_it_says_why",
    ]);
    // SAFETY: system calls alone.
    unsafe { alone.pre_exec(forbid_io_uring) };
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("1 passed"), "{said}");
}

fn read_without_io_uring() {
    let scratch = Scratch::new();
    let path = scratch.file("cold");
    let wanted = noise(9 << 20, 4);
    fs::write(&path, &wanted).unwrap();
    let file = PageFile::open(&path).unwrap();
    rewarm::pages::evict(&file).unwrap();
    let ranges = [FileRange::whole(file)];
    let got = gather(&ranges, &options(Strategy::Auto)).unwrap();
    assert!(got[0] == wanted);
    let error = gather(&ranges, &options(Strategy::Uring)).unwrap_err();
    assert!(matches!(error.reason, Reason::NoRing(_)), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    assert!(
        text.contains("io_uring") && text.contains("not permitted"),
        "{text}"
    );
}

/// Has io_uring_setup(2) fail with EPERM from now on, as many containers do.
fn forbid_io_uring() -> std::io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD_NUMBER, 0, 0),
        step(IF_EQUAL, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: a filter as the call has it, for this process alone.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ) == 0
    };
    set.then_some(()).ok_or_else(std::io::Error::last_os_error)
}
