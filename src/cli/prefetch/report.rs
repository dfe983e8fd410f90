//! What is said about a prefetch.

use super::fetch::Fetched;
use super::files::Cached;
use super::walk::Skipped;
use crate::cli::text;
use serde::Serialize;

/// What `--json` prints; docs/loading.md explains it. All but times in bytes.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    files: usize,
    bytes: u64,
    resident_before: u64,
    read: u64,
    seconds: f64,
    gb_per_s: f64,
    resident_after: u64,
    evicted: u64,
    pub(super) locked: u64,
    skipped: Vec<Skipped>,
}

impl Report {
    pub(super) fn new(files: &[Cached], skipped: Vec<Skipped>) -> Report {
        Report {
            version: 1,
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            resident_before: resident(files),
            read: 0,
            seconds: 0.0,
            gb_per_s: 0.0,
            resident_after: 0,
            evicted: 0,
            locked: 0,
            skipped,
        }
    }

    /// Bytes that were not in the page cache.
    pub(super) fn missing(&self) -> u64 {
        self.bytes - self.resident_before
    }

    pub(super) fn fetched(&mut self, fetched: Fetched) {
        self.read = fetched.bytes;
        self.seconds = fetched.seconds;
        if fetched.bytes > 0 {
            self.gb_per_s = fetched.bytes as f64 / fetched.seconds / 1e9;
        }
    }

    /// Adds how the page cache is afterwards.
    pub(super) fn finish(&mut self, files: &[Cached], was_evicted: bool) {
        self.resident_after = resident(files);
        if was_evicted {
            self.evicted = self.resident_before.saturating_sub(self.resident_after);
        }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row(
            "files",
            format!("{}, {}", self.files, text::bytes(self.bytes)),
        );
        row(
            "in page cache before",
            text::share(self.resident_before, self.bytes),
        );
        if self.read > 0 {
            let rate = format!("{:.1} GB/s", self.gb_per_s);
            let read = text::bytes(self.read);
            row("read", format!("{read} in {:.3} s, {rate}", self.seconds));
        }
        if self.evicted > 0 {
            row("evicted", text::bytes(self.evicted));
        }
        row(
            "in page cache now",
            text::share(self.resident_after, self.bytes),
        );
        if self.locked > 0 {
            let locked = text::bytes(self.locked);
            row("locked", format!("{locked}, until SIGINT or SIGTERM"));
        }
        text::table("", &rows) + &self.describe_skipped()
    }

    fn describe_skipped(&self) -> String {
        const SHOWN: usize = 10;
        let mut text = String::new();
        for skipped in self.skipped.iter().take(SHOWN) {
            text += &format!("skipped {}\n", skipped.describe());
        }
        if self.skipped.len() > SHOWN {
            text += &format!("skipped {} more\n", self.skipped.len() - SHOWN);
        }
        text
    }
}

fn resident(files: &[Cached]) -> u64 {
    files.iter().map(|file| file.resident).sum()
}
