//! Whatever is done to files and mappings: a lookup that says "file" names the
//! bytes that are in memory.
//!
//! `REWARM_TEST_SEED` sets the first seed, `REWARM_TEST_PROGRAMS` how many run.

use super::memory::{READ, READ_WRITE, map_at, read, write};
use super::*;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Of the memory that is mapped in all ways.
const ARENA: usize = 64;
const FILES: usize = 3;
const STEPS: usize = 60;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A range that is not empty.
    fn range(&mut self, end: usize) -> Range<usize> {
        let start = self.below(end);
        start..start + 1 + self.below(end - start)
    }

    fn pages(&mut self) -> Range<usize> {
        let pages = self.range(ARENA);
        pages.start * PAGE..pages.end * PAGE
    }
}

struct World<'a> {
    random: Random,
    folder: &'a Folder,
    files: Vec<File>,
    arena: Map,
    mappings: Mappings,
    /// Lookups that found a file.
    found: usize,
}

impl World<'_> {
    fn new(seed: u64, folder: &Folder, facilities: Facilities) -> World<'_> {
        let mut random = Random(seed);
        let file = |number: usize| {
            let bytes = 1 + random.below(ARENA * PAGE);
            folder.file(&number.to_string(), bytes)
        };
        World {
            files: (0..FILES).map(file).collect(),
            random,
            folder,
            arena: Map::anonymous(ARENA * PAGE, libc::PROT_NONE),
            mappings: Mappings::on(facilities),
            found: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..5 => self.map(),
            5..8 => self.write_memory(),
            8..10 => {
                let range = self.random.pages();
                let _ = read(self.arena.part(range));
            }
            10..12 => {
                let range = self.random.pages();
                self.arena.drop_pages(range);
            }
            12 => {
                let range = self.random.pages();
                let rights = self.random.pick(&[READ, READ, libc::PROT_NONE]);
                self.arena.protect(range, rights);
            }
            13..16 => self.write_file(),
            16 => self.resize(),
            17 => self.replace(),
            18 => self.mappings.close(),
            _ => self.punch(),
        }
        for _ in 0..4 {
            self.look();
        }
    }

    fn map(&mut self) {
        let range = self.random.pages();
        let range = self.arena.part(range);
        let shared = self.random.pick(&[libc::MAP_PRIVATE, libc::MAP_SHARED]);
        let (flags, file) = match self.random.below(8) {
            0 => (shared | libc::MAP_ANONYMOUS, -1),
            _ => (shared, self.files[self.random.below(FILES)].as_raw_fd()),
        };
        // Now and then what fits to the neighbours.
        let offset = match self.random.below(2) {
            0 => range.start - self.arena.start,
            _ => self.random.below(ARENA) * PAGE,
        };
        let rights = self.random.pick(&[READ, READ_WRITE, READ_WRITE]);
        let flags = flags | libc::MAP_FIXED;
        map_at(range.start, range.len(), rights, flags, file, offset);
    }

    fn write_memory(&mut self) {
        let at = self.random.below(ARENA * PAGE - 8);
        let value = self.random.below(usize::MAX).to_ne_bytes();
        write(self.arena.start + at, &value);
    }

    fn write_file(&mut self) {
        let file = self.random.below(FILES);
        let size = self.files[file].metadata().unwrap().len() as usize;
        if size > 0 {
            let range = self.random.range(size);
            let value = vec![self.random.below(256) as u8; range.len()];
            self.files[file]
                .write_all_at(&value, range.start as u64)
                .unwrap();
        }
    }

    fn resize(&mut self) {
        let file = self.random.below(FILES);
        let size = self.random.below(ARENA * PAGE);
        self.files[file].set_len(size as u64).unwrap();
    }

    /// Deletes a name, or gives it to another file.
    fn replace(&mut self) {
        let number = self.random.below(FILES);
        let name = self.folder.path(&number.to_string());
        let _ = std::fs::remove_file(&name);
        if self.random.below(3) > 0 {
            let bytes = 1 + self.random.below(ARENA * PAGE);
            self.files[number] = self.folder.file(&number.to_string(), bytes);
        }
    }

    fn punch(&mut self) {
        let file = self.random.below(FILES);
        let range = self.random.pages();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (start, bytes) = (range.start as libc::off_t, range.len() as libc::off_t);
        // SAFETY: an open file. Not every file system can.
        unsafe { libc::fallocate(self.files[file].as_raw_fd(), mode, start, bytes) };
    }

    fn look(&mut self) {
        let range = match self.random.below(2) {
            0 => self.random.range(ARENA * PAGE),
            _ => {
                let start = self.random.below(ARENA * PAGE);
                start..(start + 1 + self.random.below(2 * PAGE)).min(ARENA * PAGE)
            }
        };
        let memory = self.arena.part(range.clone());
        if let Ok(found) = self.mappings.look_up(memory.clone()) {
            self.found += 1;
            assert!(holds_the_same(&found, memory), "{range:?}");
        }
    }
}

#[test]
fn whatever_is_done_a_file_that_is_found_holds_the_bytes_of_memory() {
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |value| value.parse().expect("a number"))
    };
    let first = number("REWARM_TEST_SEED", 1);
    let programs = number("REWARM_TEST_PROGRAMS", 400);
    let mut found = 0;
    for seed in first..first + programs {
        let facilities = KERNELS[(seed % 4) as usize];
        let folder = match seed / 4 % 2 {
            0 => Folder::new(),
            _ => Folder::in_memory(),
        };
        let mut world = World::new(seed, &folder, facilities);
        for step in 0..STEPS {
            // A failure shows the last line.
            println!("REWARM_TEST_SEED={seed}, step {step}");
            world.step();
        }
        found += world.found;
    }
    let lookups = programs as usize * STEPS * 4;
    println!("{found} of {lookups} lookups found a file");
    assert!(found > lookups / 20, "hardly any lookup found a file");
}
