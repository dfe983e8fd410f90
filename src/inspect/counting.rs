//! Counts the pages of a stream in a thread of its own: while it counts some, the next
//! are read and unpacked.

use super::density::{self, Density};
use super::pages::{Content, Counts, PAGE_BYTES};
use super::tar::fill;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes that are read, and then counted, at once: many pages.
const PIECE: usize = 256 << 10;

/// What copies are fastest to, in bytes.
const LINE: usize = 64;

/// How many pieces there are: together they fit into a CPU's cache.
const PIECES: usize = 4;

/// Pages of a file that lie one behind another.
struct Piece {
    /// The file's number, and the first page's in it.
    file: u32,
    first: u64,
    bytes: Vec<u8>,
    /// Where in them the pages are.
    pages: Range<usize>,
}

/// What was found out about pages.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) counts: Counts,
    pub(super) density: Density,
}

impl Found {
    pub(super) fn new() -> Found {
        Found {
            counts: Counts::default(),
            density: Density::every(density::EVERY),
        }
    }

    fn add(&mut self, piece: &Piece) {
        let pages = piece.bytes[piece.pages.clone()].chunks_exact(PAGE_BYTES);
        for (number, page) in (piece.first..).zip(pages) {
            self.counts.add(Content::of(page));
            self.density.add(piece.file, number, page);
        }
    }
}

/// Counts pages.
pub(super) struct Counting {
    full: SyncSender<Piece>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Found>,
}

impl Counting {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there cannot be one more.
    pub(super) fn start() -> io::Result<Counting> {
        let (full, pieces) = sync_channel::<Piece>(PIECES);
        let (back, empty) = channel();
        for _ in 0..PIECES {
            // The other end is here.
            let _ = back.send(Vec::new());
        }
        let thread = thread::Builder::new().spawn(move || count(&pieces, &back))?;
        Ok(Counting {
            full,
            empty,
            thread,
        })
    }

    /// Takes all pages of a file by its number. What is behind the last whole page is
    /// none.
    pub(super) fn add(&self, file: u32, mut from: impl Read) -> Result<(), String> {
        let gone = || "the thread that counts pages is gone".to_owned();
        let mut first = 0;
        loop {
            let mut bytes = self.empty.recv().map_err(|_| gone())?;
            bytes.resize(PIECE + LINE, 0);
            let begin = bytes.as_ptr().align_offset(LINE).min(LINE);
            let filled = fill(&mut from, &mut bytes[begin..][..PIECE]);
            let (length, failure) = match filled {
                Ok(length) => (length, None),
                Err(error) => (0, Some(error.to_string())),
            };
            let piece = Piece {
                file,
                first,
                bytes,
                pages: begin..begin + length,
            };
            self.full.send(piece).map_err(|_| gone())?;
            if let Some(failure) = failure {
                return Err(failure);
            }
            if length < PIECE {
                return Ok(());
            }
            first += (PIECE / PAGE_BYTES) as u64;
        }
    }

    /// What was found out about all of them.
    pub(super) fn finish(self) -> Found {
        drop(self.full);
        self.thread.join().unwrap_or_else(|_| Found::new())
    }
}

fn count(pieces: &Receiver<Piece>, back: &Sender<Vec<u8>>) -> Found {
    let mut found = Found::new();
    for piece in pieces {
        found.add(&piece);
        // At the end, nobody wants it any more.
        let _ = back.send(piece.bytes);
    }
    found
}
