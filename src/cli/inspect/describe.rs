//! The report for people.

use super::super::text;
use rewarm::criu::images::{DumpStats, RestoreStats};
use rewarm::inspect::{Kind, Large, Memory, Notes, Pages, Report, Shares};

/// Processes that are told; --json has more.
const PROCESSES: usize = 10;

pub(super) fn describe(report: &Report) -> String {
    let mut all = overview(report);
    all += &section("Categories", &categories(report));
    all += &memory(&report.memory);
    all += &gpu(report);
    all += &section(
        "Largest",
        &report.largest.iter().map(large).collect::<Vec<_>>(),
    );
    all += &criu(report);
    all += &hints(report);
    all += &notes("Not looked into", &report.not_looked_into);
    all += &notes("Damaged or refused", &report.problems);
    all
}

fn section(title: &str, rows: &[Vec<String>]) -> String {
    match rows {
        [] => String::new(),
        rows => format!("{title}\n{}", text::table("  ", rows)),
    }
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
    let files = format!("{}, {} files", text::bytes(report.bytes), report.files);
    let mut rows = vec![
        row(["path", &report.path]),
        row(["kind", kind]),
        row(["size", &files]),
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
        let files = format!("{} files", one.files);
        row([one.name, &text::share(one.bytes, report.bytes), &files])
    });
    rows.collect()
}

fn memory(memory: &Memory) -> String {
    let mut rows: Vec<_> = memory
        .kinds
        .iter()
        .map(|kind| {
            let mappings = format!("{} mappings", kind.mappings);
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
                "{} in {} allocations",
                text::bytes(gpu.bytes),
                gpu.allocations
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
    let mut rows = Vec::new();
    for stats in &report.criu {
        if let Some(dump) = &stats.dump {
            rows.push(row([&stats.path, &dumped(dump)]));
        }
        if let Some(restore) = &stats.restore {
            rows.push(row([&stats.path, &restored(restore)]));
        }
    }
    section("CRIU's statistics", &rows)
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

fn dumped(dump: &DumpStats) -> String {
    format!(
        "freezing {}, frozen {}, memory {} and writing it {}; {} pages scanned, {} written, {} lazy, {} in an earlier dump",
        milliseconds(dump.freezing_us),
        milliseconds(dump.frozen_us),
        milliseconds(dump.memdump_us),
        milliseconds(dump.memwrite_us),
        dump.pages_scanned.saturating_add(dump.shared_pages_scanned),
        dump.pages_written.saturating_add(dump.shared_pages_written),
        dump.pages_lazy,
        dump.pages_skipped_parent
            .saturating_add(dump.shared_pages_skipped_parent),
    )
}

fn restored(restore: &RestoreStats) -> String {
    format!(
        "restored in {}, of which forking {}; {} pages, {} more were shared already",
        milliseconds(restore.restore_us),
        milliseconds(restore.forking_us),
        restore.pages_restored,
        restore.pages_skipped_cow,
    )
}

fn hints(report: &Report) -> String {
    if report.hints.is_empty() {
        return String::new();
    }
    let mut all = String::from("What would make it smaller or faster\n");
    for hint in &report.hints {
        let saves = match hint.bytes {
            0 => "no room, but time".to_owned(),
            bytes => format!("up to {}", text::bytes(bytes)),
        };
        all += &format!(
            "  {}: {saves}: {}.\n    {}.\n",
            hint.hint, hint.what, hint.advice
        );
    }
    all
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
