//! Which files are the mapped ones.

use super::memory::{READ, READ_WRITE};
use super::*;
use crate::pages::mappings::locks;
use crate::pages::mappings::query::View;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

const BYTES: usize = 10 * PAGE;

#[test]
fn names_may_hold_anything() {
    for folder in [Folder::new(), Folder::in_memory()] {
        for name in [
            "a b",
            "new\nline",
            "tab\tand \\ and %",
            "weights (deleted)",
            " leading",
            "ünïcode",
        ] {
            let file = folder.file(name, BYTES);
            is_file(Map::private(&file, BYTES).range());
        }
    }
}

#[test]
fn an_escape_as_part_of_a_name_is_not_mistaken() {
    let folder = Folder::new();
    let file = folder.file("a\\012b", BYTES);
    let map = Map::shared(&file, BYTES);
    assert!(Mappings::new().look_up(map.range()).is_ok());
    let read = Mappings::on(kernel(false, false)).look_up(map.range());
    assert_eq!(read.err(), Some(NotAFile::Replaced));
}

#[test]
fn deleted_files_are_memory() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::shared(&file, BYTES);
    std::fs::remove_file(folder.path("weights")).unwrap();
    is_memory(map.range(), NotAFile::Replaced);
    // Another file has the name that the kernel shows.
    folder.file("weights (deleted)", BYTES);
    is_memory(map.range(), NotAFile::Replaced);
    folder.file("weights", BYTES);
    is_memory(map.range(), NotAFile::Replaced);
}

#[test]
fn replaced_files_are_memory_and_renamed_ones_are_not() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::private(&file, BYTES);
    std::fs::rename(folder.path("weights"), folder.path("old")).unwrap();
    is_file(map.range());
    folder.file("new", BYTES);
    std::fs::rename(folder.path("new"), folder.path("old")).unwrap();
    is_memory(map.range(), NotAFile::Replaced);
}

#[test]
fn a_file_that_was_replaced_between_lookups_is_noticed() {
    for facilities in KERNELS {
        let folder = Folder::new();
        let file = folder.file("weights", BYTES);
        let old = Map::private(&file, BYTES);
        let mappings = Mappings::on(facilities);
        assert!(mappings.look_up(old.range()).is_ok());
        let file = folder.file("new", BYTES);
        file.write_all_at(b"other", 0).unwrap();
        std::fs::rename(folder.path("new"), folder.path("weights")).unwrap();
        let new = Map::private(&file, BYTES);
        let found = mappings.look_up(new.range()).unwrap();
        assert!(holds_the_same(&found, new.range()));
        let found = mappings.look_up(old.range()).err();
        assert_eq!(found, Some(NotAFile::Replaced));
    }
}

#[test]
fn a_written_file_is_taken_up_again() {
    for facilities in KERNELS {
        let folder = Folder::new();
        let file = folder.file("weights", BYTES);
        let map = Map::private(&file, BYTES);
        let mappings = Mappings::on(facilities);
        assert!(mappings.look_up(map.range()).is_ok());
        let change = |change: &dyn Fn()| {
            // Files have coarse clocks.
            let before = file.metadata().unwrap();
            let same = |now: std::fs::Metadata| {
                (now.ctime(), now.ctime_nsec()) == (before.ctime(), before.ctime_nsec())
            };
            while same(file.metadata().unwrap()) {
                change();
            }
            assert_eq!(mappings.look_up(map.range()).err(), Some(NotAFile::Changed));
        };
        change(&|| file.write_all_at(b"other bytes", 3 * PAGE as u64).unwrap());
        let found = mappings.look_up(map.range()).unwrap();
        assert!(holds_the_same(&found, map.range()));
        change(&|| file.write_all_at(&[7; PAGE], BYTES as u64).unwrap());
        let found = mappings.look_up(map.range()).unwrap();
        assert!(holds_the_same(&found, map.range()));
    }
}

#[test]
fn ranges_end_where_the_file_ends() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES - 100);
    let map = Map::private(&file, BYTES);
    is_file(map.part(0..BYTES - 100));
    is_memory(map.part(0..BYTES - 99), NotAFile::BeyondEnd);
    is_memory(map.part(BYTES - 50..BYTES), NotAFile::BeyondEnd);
    file.set_len(3 * PAGE as u64).unwrap();
    is_file(map.part(0..3 * PAGE));
    is_memory(map.range(), NotAFile::BeyondEnd);
    file.set_len(0).unwrap();
    is_memory(map.range(), NotAFile::BeyondEnd);
    file.write_all_at(&[7; BYTES], 0).unwrap();
    is_file(map.range());
}

#[test]
fn memory_that_looks_like_files_is_memory() {
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let start = memory::map_at(0, BYTES, READ_WRITE, shared, -1, 0);
    let map = Map {
        start,
        bytes: BYTES,
    };
    is_memory(map.range(), NotAFile::Replaced);
    let zero = File::options()
        .read(true)
        .write(true)
        .open("/dev/zero")
        .unwrap();
    is_memory(Map::shared(&zero, BYTES).range(), NotAFile::Replaced);
    is_memory(Map::private(&zero, BYTES).range(), NotAFile::Special);
    let memfd = memfd(0).unwrap();
    memfd.set_len(BYTES as u64).unwrap();
    is_memory(Map::shared(&memfd, BYTES).range(), NotAFile::Replaced);
}

fn memfd(flags: u32) -> std::io::Result<File> {
    // SAFETY: a name that ends with NUL.
    let memfd = unsafe { libc::memfd_create(c"weights".as_ptr(), flags | libc::MFD_CLOEXEC) };
    if memfd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just made.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(memfd) }))
}

#[test]
fn huge_pages_are_memory() {
    const HUGE: usize = 2 << 20;
    let huge = match memfd(libc::MFD_HUGETLB) {
        Ok(huge) => huge,
        Err(error) => return println!("this kernel has no huge pages: {error}"),
    };
    huge.set_len(HUGE as u64).unwrap();
    // Not reserved, as there may be none.
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let map = Map::of(&huge, 0, HUGE, READ, flags);
    for facilities in KERNELS {
        assert!(Mappings::on(facilities).look_up(map.range()).is_err());
    }
}

#[test]
fn what_has_the_name_by_now_is_not_opened_unless_it_is_a_file() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::shared(&file, BYTES);
    std::fs::remove_file(folder.path("weights")).unwrap();
    let name = folder.path("weights (deleted)");
    // Opening it would wait for a writer.
    let path = std::ffi::CString::new(name.to_str().unwrap()).unwrap();
    // SAFETY: a name that ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    is_memory(map.range(), NotAFile::Special);
    std::fs::remove_file(&name).unwrap();
    std::fs::create_dir(&name).unwrap();
    is_memory(map.range(), NotAFile::Special);
    std::fs::remove_dir(&name).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &name).unwrap();
    is_memory(map.range(), NotAFile::Special);
}

#[test]
fn files_that_cannot_be_opened_are_memory() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::shared(&file, BYTES);
    let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    file.set_permissions(nobody).unwrap();
    match File::open(folder.path("weights")) {
        // Root may.
        Ok(_) => is_file(map.range()),
        Err(_) => is_memory(map.range(), NotAFile::Unreadable),
    }
}

#[test]
fn holes_of_a_file_in_memory_may_be_filled_by_somebody() {
    let folder = Folder::in_memory();
    let file = folder.file("weights", BYTES);
    file.set_len(2 * BYTES as u64).unwrap();
    let map = Map::shared(&file, 2 * BYTES);
    is_memory(map.range(), NotAFile::Special);
    file.write_all_at(&[7; BYTES], BYTES as u64).unwrap();
    is_file(map.range());
}

fn lock(file: &File, kind: i32) {
    // SAFETY: all fields may be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    // SAFETY: an open file and a lock that is filled in.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn locks_of_the_application_stay() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::shared(&file, BYTES);
    let id = View::open(Facilities::ALL)
        .at(map.start, |vma| vma.id)
        .unwrap();
    let mappings = Mappings::new();
    assert!(mappings.look_up(map.range()).is_ok());
    lock(&file, libc::F_WRLCK);
    mappings.close();
    assert!(locks::are_held(id), "closed");
    drop(mappings);
    assert!(locks::are_held(id), "dropped");
    is_memory(map.range(), NotAFile::Locked);
    lock(&file, libc::F_UNLCK);
    is_file(map.range());
}

/// Numbers of the descriptors that are open in a folder.
fn open_in(folder: &Folder) -> Vec<i32> {
    let path = folder.path("");
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(&path)))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn few_descriptors_are_held_out_of_the_way_until_closed() {
    let folder = Folder::new();
    let mappings = Mappings::new();
    let maps: Vec<Map> = (0..20)
        .map(|number| Map::private(&folder.file(&number.to_string(), BYTES), BYTES))
        .collect();
    for map in maps.iter().chain(&maps) {
        let found = mappings.look_up(map.range()).unwrap();
        assert!(holds_the_same(&found, map.range()));
    }
    let open = open_in(&folder);
    assert_eq!(open.len(), 8);
    assert!(open.iter().all(|&number| number >= 200), "{open:?}");
    mappings.close();
    assert!(open_in(&folder).is_empty());
    assert!(mappings.look_up(maps[0].range()).is_ok(), "after a close");
}

#[test]
fn files_in_use_are_closed_later() {
    let folder = Folder::new();
    let map = Map::private(&folder.file("weights", BYTES), BYTES);
    let mappings = Mappings::new();
    let found = mappings.look_up(map.range()).unwrap();
    mappings.close();
    assert!(holds_the_same(&found, map.range()));
    drop(found);
    mappings.close();
    assert!(open_in(&folder).is_empty());
}
