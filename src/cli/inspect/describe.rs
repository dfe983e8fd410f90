//! The report for people.

use super::super::text;
use rewarm::criu::images::{DumpStats, RestoreStats};
use rewarm::inspect::{Kind, Large, Memory, Notes, Pages, Report, Shares};

/// Processes that are told; --json has more.
const PROCESSES: usize = 10;

/// What is wrong and what to do about it come first.
pub(super) fn describe(report: &Report) -> String {
    let mut all = overview(report);
    all += &notes("Damaged or refused", &report.problems);
    all += &hints(report);
    all += &section("Categories", &categories(report));
    all += &memory(&report.memory);
    all += &gpu(report);
    let largest: Vec<_> = report.largest.iter().map(large).collect();
    all += &section("Largest", &largest);
    all += &criu(report);
    all += &notes("Not looked into", &report.not_looked_into);
    all
}

fn section(title: &str, rows: &[Vec<String>]) -> String {
    match rows {
        [] => String::new(),
        rows => format!("\n{title}\n{}", text::table("  ", rows)),
    }
}

/// So many of something: `1 file`, `2 files`.
fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn overview(report: &Report) -> String {
    let kind = match report.kind {
        Kind::RewarmCheckpoint => "checkpoint of rewarm",
        Kind::RewarmSnapshot => "snapshot of device memory",
        Kind::PodmanCheckpoint => "checkpoint of podman",
        Kind::CriuImages => "images of CRIU",
    };
    let files = count(report.files, "file");
    let size = format!("{} in {files}", text::bytes(report.bytes));
    let state = match report.problems.count {
        0 => "whole".to_owned(),
        number => format!(
            "damaged or refused: {}, see below",
            count(number, "problem")
        ),
    };
    let mut rows = vec![
        row(["path", &report.path]),
        row(["kind", kind]),
        row(["size", &size]),
        row(["state", &state]),
    ];
    if let Some(archive) = &report.archive {
        let packed = match archive.compression {
            "none" => "not compressed".to_owned(),
            with => format!("{with}, {}", text::bytes(archive.bytes)),
        };
        rows.push(row(["archive", &packed]));
    }
    text::table("", &rows)
}

fn categories(report: &Report) -> Vec<Vec<String>> {
    let rows = report.categories.iter().map(|one| {
        let files = count(one.files, "file");
        row([one.name, &text::share(one.bytes, report.bytes), &files])
    });
    rows.collect()
}

fn memory(memory: &Memory) -> String {
    let mut rows: Vec<_> = memory
        .kinds
        .iter()
        .map(|kind| {
            let mappings = count(kind.mappings, "mapping");
            row([kind.kind, &text::share(kind.bytes, memory.bytes), &mappings])
        })
        .collect();
    rows.extend(pages(&memory.pages));
    let mut all = section("Memory", &rows);
    let processes = memory.processes.iter().take(PROCESSES).map(|one| {
        let kinds = one.kinds.iter().take(3);
        let kinds: Vec<_> = kinds
            .map(|kind| format!("{} {}", kind.kind, text::bytes(kind.bytes)))
            .collect();
        row([
            &one.pid.to_string(),
            &one.name,
            &text::bytes(one.bytes),
            &kinds.join("; "),
        ])
    });
    let mut rows: Vec<_> = processes.collect();
    let more = memory.process_count.saturating_sub(PROCESSES as u64);
    if more > 0 {
        rows.push(row(["…", &format!("{more} more")]));
    }
    all += &section("Processes", &rows);
    let files: Vec<_> = memory.mapped_files.iter().map(large).collect();
    all + &section("Mapped files", &files)
}

fn pages(pages: &Pages) -> Vec<Vec<String>> {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (read, total) = (pages.read, pages.total);
    let (zero, duplicate, how) = match pages.shares {
        Shares::None => return Vec::new(),
        Shares::All => (
            percent(pages.zero_share),
            percent(pages.duplicate_share),
            format!("of all {total} pages"),
        ),
        Shares::Estimated => (
            percent(pages.zero_share),
            format!("about {}", percent(pages.duplicate_share)),
            format!("of all {total} pages"),
        ),
        Shares::Sample => (
            format!(
                "{} ±{:.1}",
                percent(pages.zero_share),
                pages.zero_plus_minus * 100.0
            ),
            format!("at least {}", percent(pages.duplicate_share)),
            format!("sampled: {read} of {total} pages; --full reads all"),
        ),
    };
    vec![
        row(["zeros", &zero, &how]),
        row(["duplicates", &duplicate, &how]),
    ]
}

fn gpu(report: &Report) -> String {
    let rows = report.gpu.iter().map(|gpu| {
        let share = |part| text::share(part, gpu.bytes);
        vec![
            format!("process {}", gpu.pid),
            format!(
                "{} in {}",
                text::bytes(gpu.bytes),
                count(gpu.allocations, "allocation")
            ),
            format!("stored {}", share(gpu.stored)),
            format!("zeros {}", share(gpu.zero)),
            format!("discarded {}", share(gpu.discarded)),
            format!("duplicates {}", share(gpu.duplicate)),
        ]
    });
    section("Device memory", &rows.collect::<Vec<_>>())
}

fn large(one: &Large) -> Vec<String> {
    row([&text::bytes(one.bytes), &one.what, &one.name])
}

fn criu(report: &Report) -> String {
    let mut all = String::new();
    for stats in &report.criu {
        let mut rows = stats.dump.as_ref().map_or(Vec::new(), dumped);
        rows.extend(stats.restore.as_ref().map_or(Vec::new(), restored));
        all += &section(&format!("CRIU's statistics: {}", stats.path), &rows);
    }
    all
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

fn dumped(dump: &DumpStats) -> Vec<Vec<String>> {
    let [frozen, freezing, memory, writing] = [
        dump.frozen_us,
        dump.freezing_us,
        dump.memdump_us,
        dump.memwrite_us,
    ]
    .map(milliseconds);
    let in_parent = dump
        .pages_skipped_parent
        .saturating_add(dump.shared_pages_skipped_parent);
    let pages = format!(
        "{} scanned, {} written, {} lazy, {in_parent} in an earlier dump",
        dump.pages_scanned.saturating_add(dump.shared_pages_scanned),
        dump.pages_written.saturating_add(dump.shared_pages_written),
        dump.pages_lazy,
    );
    vec![
        row(["frozen", &format!("{frozen}, after {freezing} to freeze")]),
        row(["memory", &format!("{memory}, of which writing {writing}")]),
        row(["pages", &pages]),
    ]
}

fn restored(restore: &RestoreStats) -> Vec<Vec<String>> {
    let [all, forking] = [restore.restore_us, restore.forking_us].map(milliseconds);
    let pages = format!(
        "{} restored, {} more were shared already",
        restore.pages_restored, restore.pages_skipped_cow,
    );
    vec![
        row(["restored", &format!("{all}, of which forking {forking}")]),
        row(["pages", &pages]),
    ]
}

fn hints(report: &Report) -> String {
    let mut rows = Vec::new();
    for hint in &report.hints {
        let saves = match hint.bytes {
            0 => "time".to_owned(),
            bytes => text::bytes(bytes),
        };
        rows.push(row([&saves, hint.hint, &hint.what]));
        rows.push(row(["", "", &format!("→ {}", hint.advice)]));
    }
    section(
        "What would make it smaller or faster: at most, and how",
        &rows,
    )
}

fn notes(title: &str, notes: &Notes) -> String {
    let mut rows: Vec<_> = notes
        .first
        .iter()
        .map(|note| row([&note.path, &note.what]))
        .collect();
    let more = notes.count - notes.first.len() as u64;
    if more > 0 {
        rows.push(row(["…", &format!("{more} more")]));
    }
    section(title, &rows)
}
