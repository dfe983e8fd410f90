//! `rewarm inspect`: what is in a checkpoint, and what would make it smaller.

mod describe;

use super::{FAILURE, print_json, progress};
use anyhow::{Context, Result};
use rewarm::inspect::{Folder, InspectError, Options, Report, inspect_archive, inspect_stream};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;

const EXAMPLES: &str = "\
PATH is a folder that `rewarm checkpoint`, `rewarm freeze` or `criu dump` wrote to, a
container's folder `userdata`, or an archive that podman exported: plain, gzip or zstd.
An archive is read once; of a folder's pages a sample is read, unless --full is given.

Exit status: 0 if the checkpoint is whole, 1 if anything is damaged or refused, or if it
is no checkpoint, 2 if the command line is wrong.

Examples:
  rewarm inspect /srv/checkpoints/vllm
  rewarm inspect --top 50 --full /srv/checkpoints/vllm
  rewarm inspect checkpoint.tar.zst
  ssh node cat checkpoint.tar | rewarm inspect -
  rewarm inspect --json checkpoint.tar | jq '.hints[] | {hint, bytes}'";

/// Tell what is in a checkpoint, and what would make it smaller
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    /// a checkpoint's folder or archive; - is standard input
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// how many of the largest mappings, allocations and files to tell
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
    top: u16,
    /// read all pages of a folder for zeros and duplicates, not a sample
    #[arg(long)]
    full: bool,
    /// print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let options = Options {
        top: args.top.into(),
        full: args.full,
        done: AtomicU64::new(0),
    };
    let report = report(&args.path, &options)?;
    if args.json {
        print_json(&report)?;
    } else {
        print!("{}", describe::describe(&report));
    }
    Ok(match report.whole {
        true => ExitCode::SUCCESS,
        false => FAILURE.into(),
    })
}

fn report(path: &Path, options: &Options) -> Result<Report> {
    if path == Path::new("-") {
        return Ok(inspect_stream(std::io::stdin(), "-", options)?);
    }
    let shown = || rewarm::inspect::shown(path.as_os_str().as_bytes());
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.with_context(|| format!("cannot open {}", shown()))?;
    let found = file.metadata();
    let found = found.with_context(|| format!("cannot look at {}", shown()))?;
    if found.is_dir() {
        let folder = Folder::look(path, options)?;
        let bytes = folder.page_bytes();
        return Ok(match options.full {
            true => progress::during("reading", bytes, &options.done, || folder.report())?,
            false => folder.report()?,
        });
    }
    if found.file_type().is_fifo() {
        block(&file).with_context(|| format!("cannot read {}", shown()))?;
        return Ok(inspect_archive(file, path, options)?);
    }
    if !found.is_file() {
        return Err(InspectError::NotReadable(shown()).into());
    }
    let work = || inspect_archive(file, path, options);
    Ok(progress::during(
        "reading",
        found.len(),
        &options.done,
        work,
    )?)
}

/// Has reads of a pipe wait for its writer.
fn block(file: &File) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(
        file,
        flags - rustix::fs::OFlags::NONBLOCK,
    )?)
}
