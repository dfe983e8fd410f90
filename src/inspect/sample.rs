//! Zeros and duplicates in a folder's pages: of a sample, or of all.

use super::density::{self, Density};
use super::pages::{Content, Counts, PAGE_BYTES, pages_of};
use super::report::Pages;
use super::tree::Tree;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

/// Pages of a sample: shares are known to 1.1 %.
const SAMPLE: u64 = 8192;

/// Bytes read at once when all are.
const PIECE: u64 = 1 << 20;

/// Waits for the disk are most of it.
const THREADS: usize = 8;

const PAGE: u64 = PAGE_BYTES as u64;

/// Which file, and the range in it.
type Piece = (usize, u64, u64);

/// A file that could not be read.
pub(super) type Failure = (Vec<u8>, io::Error);

/// Reads pages of files by path and length.
pub(super) fn read(
    tree: &Tree,
    files: &[(Vec<u8>, u64)],
    full: bool,
    done: &AtomicU64,
) -> ((Pages, Density), Option<Failure>) {
    let total: u64 = files.iter().map(|(_, bytes)| bytes / PAGE).sum();
    let pieces: Box<dyn Iterator<Item = Piece> + Send> = match full || total <= SAMPLE {
        true => Box::new(all(files)),
        false => Box::new(sample(files, total)),
    };
    let every = if full { density::EVERY } else { 1 };
    let found = (Counts::default(), Density::every(every));
    let (pieces, found) = (Mutex::new(pieces), Mutex::new(found));
    let failure = Mutex::new(None);
    let work = || {
        let mut reader = Reader {
            tree,
            files,
            open: None,
            buffer: Vec::new(),
        };
        let (mut contents, mut density) = (Vec::new(), Density::every(every));
        loop {
            let piece = pieces.lock().next();
            let Some(piece) = piece.filter(|_| failure.lock().is_none()) else {
                found.lock().1.merge(density);
                return;
            };
            match reader.read(piece, &mut contents, &mut density) {
                Ok(()) => {
                    let counts = &mut found.lock().0;
                    contents.drain(..).for_each(|content| counts.add(content));
                }
                Err(error) => *failure.lock() = Some((files[piece.0].0.clone(), error)),
            }
            done.fetch_add(piece.2, Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS {
            // What no thread can be had for is done here.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let (counts, density) = found.into_inner();
    ((pages_of(&counts, total), density), failure.into_inner())
}

/// All pages, in pieces.
fn all(files: &[(Vec<u8>, u64)]) -> impl Iterator<Item = Piece> + Send {
    let lengths: Vec<_> = files.iter().map(|(_, bytes)| bytes / PAGE * PAGE).collect();
    lengths.into_iter().enumerate().flat_map(|(file, bytes)| {
        let starts = (0..bytes).step_by(PIECE as usize);
        starts.map(move |at| (file, at, PIECE.min(bytes - at)))
    })
}

/// One page out of each of [`SAMPLE`] equal parts, at a place in it that looks like
/// chance and is always the same.
fn sample(files: &[(Vec<u8>, u64)], total: u64) -> impl Iterator<Item = Piece> + Send {
    let mut ends = Vec::new();
    let mut end = 0;
    for (_, bytes) in files {
        end += bytes / PAGE;
        ends.push(end);
    }
    (0..SAMPLE).map(move |number| {
        let part =
            |number: u64| (u128::from(total) * u128::from(number) / u128::from(SAMPLE)) as u64;
        let (begin, behind) = (part(number), part(number + 1));
        let page = begin + scrambled(number) % (behind - begin);
        let file = ends.partition_point(|end| *end <= page);
        let first = if file == 0 { 0 } else { ends[file - 1] };
        (file, (page - first) * PAGE, PAGE)
    })
}

/// splitmix64 (Steele, Lea and Flood, 2014).
fn scrambled(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

struct Reader<'a> {
    tree: &'a Tree,
    files: &'a [(Vec<u8>, u64)],
    open: Option<(usize, File)>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn read(
        &mut self,
        (number, at, bytes): Piece,
        contents: &mut Vec<Content>,
        density: &mut Density,
    ) -> io::Result<()> {
        let file = match self.open.take() {
            Some((open, file)) if open == number => file,
            _ => self.tree.open(&self.files[number].0)?,
        };
        self.buffer.resize(bytes as usize, 0);
        let read = file.read_exact_at(&mut self.buffer, at);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("it became shorter meanwhile"),
            _ => error,
        })?;
        let file_number = u32::try_from(number).unwrap_or(u32::MAX);
        for (page, bytes) in (at / PAGE..).zip(self.buffer.chunks_exact(PAGE_BYTES)) {
            contents.push(Content::of(bytes));
            density.add(file_number, page, bytes);
        }
        self.open = Some((number, file));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all_files() {
        let files = [3, 0, 40_000, 5, 70_000].map(|pages| (Vec::new(), pages * PAGE + 7));
        let total = 110_008;
        let found: Vec<_> = sample(&files, total).collect();
        assert_eq!(found.len() as u64, SAMPLE);
        assert!(found.is_sorted());
        for (file, at, bytes) in found {
            assert!(at % PAGE == 0 && at + bytes <= files[file].1);
        }
        let read: u64 = all(&files).map(|(_, _, bytes)| bytes / PAGE).sum();
        assert_eq!(read, total);
    }
}
