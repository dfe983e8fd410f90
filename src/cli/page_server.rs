//! `rewarm page-server`: fills restored processes' memory.

use super::{print_json, progress, text};
use anyhow::{Context, Result, bail};
use rewarm::criu::pages::{PageReport, PageServer, PageServerOptions, can_serve, serve};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often a bar is drawn.
const PERIOD: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Takes the place of `criu lazy-pages`: `criu restore --lazy-pages` connects to it, and
the restored processes run while their memory is filled, with many reads at once. If it
fails or is killed before all is in place, the restored processes are killed: a page
that never comes would silently be zero.

Examples:
  rewarm page-server --images /srv/checkpoint/images --once
  criu restore --lazy-pages -D /srv/checkpoint/images -W /srv/checkpoint/images ...";

/// Fill the memory of processes that CRIU restores with --lazy-pages
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PageServerArgs {
    /// folder of CRIU's images
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// CRIU's work folder, for the socket [default: the folder of the images]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// end after one restore
    #[arg(long)]
    once: bool,
    /// print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PageServerArgs) -> Result<ExitCode> {
    if let Err(reason) = can_serve() {
        bail!(reason);
    }
    let options = PageServerOptions {
        images: args.images.clone(),
        work: args.work.clone().unwrap_or_else(|| args.images.clone()),
        digests: None,
    };
    std::fs::read_dir(&options.images).with_context(|| args.images.display().to_string())?;
    loop {
        let server = PageServer::start(&options)?;
        let end = serve_once(args, server);
        if args.once {
            return end.map(|()| ExitCode::SUCCESS);
        }
        if let Err(error) = end {
            // The next restore may go better.
            eprintln!("rewarm: {}", text::printable(&format!("{error:#}")));
        }
    }
}

fn serve_once(args: &PageServerArgs, mut server: PageServer) -> Result<()> {
    if !args.json {
        println!("listening on {}", server.socket().display());
        // Whoever starts CRIU waits for it.
        std::io::stdout().flush()?;
    }
    let report = wait(&mut server)?;
    server.release();
    if args.json {
        let progress = report.progress;
        print_json(&json!({
            "version": 1,
            "bytes": progress.total,
            "copied": progress.copied,
            "faults": progress.faults,
            "zero_pages": progress.zeros,
            "seconds": report.seconds,
        }))
    } else {
        println!("{}", describe(&report));
        Ok(())
    }
}

/// Shows on a terminal how far it is, once CRIU has connected.
fn wait(server: &mut PageServer) -> Result<PageReport> {
    let bar = progress::bytes("filling");
    loop {
        if let Some(end) = server.wait_for(PERIOD) {
            bar.finish_and_clear();
            return Ok(end?);
        }
        let progress = server.progress();
        bar.set_length(progress.total);
        bar.set_position(progress.copied);
    }
}

/// What the process that fills does, which the one that restores starts.
pub(super) fn serve_pages() -> Result<ExitCode> {
    serve()?;
    Ok(ExitCode::SUCCESS)
}

fn describe(report: &PageReport) -> String {
    format!(
        "in place: {} in {:.2} s, {} faults",
        text::bytes(report.progress.copied),
        report.seconds,
        report.progress.faults
    )
}
