//! `rewarm page-server`: fills restored processes' memory.

mod ahead;
mod background;

use super::{print_json, progress, text};
use anyhow::{Context, Result, bail};
use background::{Background, Side};
use rewarm::criu::pages::{
    PageReport, PageServer, PageServerOptions, can_serve, serve, why_not_beside_criu,
};
use rewarm::pidfd::Pidfd;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
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
    /// end after the restore by this process, also if it asks for no pages
    #[arg(long, value_name = "PID")]
    for_pid: Option<u32>,
    /// where pages cannot come later, read the images into the page cache for CRIU
    #[arg(long)]
    or_read_ahead: bool,
    /// go on in the background as soon as CRIU can connect
    #[arg(long)]
    detach: bool,
    /// file for what is said in the background [default: nowhere]
    #[arg(long, value_name = "FILE", requires = "detach")]
    log: Option<PathBuf>,
    /// print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PageServerArgs) -> Result<ExitCode> {
    if !args.detach {
        return serve_all(args, None).map(|()| ExitCode::SUCCESS);
    }
    match background::fork(args.log.as_deref())? {
        Side::Starter(started) => {
            println!("{}", started.wait()?);
            Ok(ExitCode::SUCCESS)
        }
        Side::Background(background) => background.run(|here| serve_all(args, Some(here))),
    }
}

fn serve_all(args: &PageServerArgs, mut background: Option<&mut Background>) -> Result<()> {
    let images = &args.images;
    std::fs::read_dir(images).with_context(|| images.display().to_string())?;
    let mut ready = |text: &str| -> Result<()> {
        if !args.json {
            println!("{text}");
            // Whoever starts CRIU waits for it.
            std::io::stdout().flush()?;
        }
        if let Some(background) = background.as_deref_mut() {
            background.ready(text);
        }
        Ok(())
    };
    let criu = args.for_pid.map(|pid| {
        let opened = Pidfd::open(pid);
        opened.with_context(|| format!("cannot watch process {pid}"))
    });
    let criu = criu.transpose()?;
    match why_not(images) {
        None => {}
        Some(why) if args.or_read_ahead => return read_ahead(images, &why, criu.as_ref(), ready),
        Some(why) => bail!(why),
    }
    let options = PageServerOptions {
        images: images.clone(),
        work: args.work.clone().unwrap_or_else(|| images.clone()),
        digests: None,
    };
    loop {
        let mut server = PageServer::start(&options)?;
        ready(&format!("listening on {}", server.socket().display()))?;
        let end = wait(&mut server, criu.as_ref());
        let end = end.and_then(|report| tell(args, server, report));
        if args.once || criu.is_some() {
            return end;
        }
        if let Err(error) = end {
            // The next restore may go better.
            eprintln!("rewarm: {}", text::printable(&format!("{error:#}")));
        }
    }
}

/// Why the pages of a folder of images cannot come later.
fn why_not(images: &Path) -> Option<String> {
    let link = images.join("parent");
    let continues = link.symlink_metadata().is_ok().then(|| {
        format!(
            "{}: the images continue those of another dump",
            link.display()
        )
    });
    can_serve().err().or(continues)
}

/// Says what is done in place of serving, and does it.
fn read_ahead(
    images: &Path,
    why: &str,
    criu: Option<&Pidfd>,
    mut ready: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    match why_not_beside_criu(images)? {
        Some(reason) => ready(&format!("nothing is read ahead, as {reason} ({why})")),
        None => {
            ready(&format!("the images are read ahead ({why})"))?;
            ahead::read_all(images, criu)
        }
    }
}

/// Waits for the end of a restore, and shows on a terminal how far it is, once CRIU has
/// connected. `None`: the process that was to restore has ended without a question.
fn wait(server: &mut PageServer, criu: Option<&Pidfd>) -> Result<Option<PageReport>> {
    let bar = progress::bytes("filling");
    loop {
        let has_ended = criu.is_some_and(|criu| criu.has_ended(Duration::ZERO));
        if has_ended {
            server.criu_has_ended();
        }
        if let Some(end) = server.wait_for(PERIOD) {
            bar.finish_and_clear();
            if has_ended && !server.is_connected() {
                return Ok(None);
            }
            return Ok(Some(end?));
        }
        let progress = server.progress();
        bar.set_length(progress.total);
        bar.set_position(progress.copied);
    }
}

/// All pages are in place: the processes live on without a server.
fn tell(args: &PageServerArgs, server: PageServer, report: Option<PageReport>) -> Result<()> {
    if report.is_some() {
        server.release();
    }
    if args.json {
        let PageReport { progress, seconds } = report.unwrap_or_default();
        return print_json(&json!({
            "version": 1,
            "bytes": progress.total,
            "copied": progress.copied,
            "faults": progress.faults,
            "zero_pages": progress.zeros,
            "seconds": seconds,
        }));
    }
    match report {
        Some(report) => println!("{}", describe(&report)),
        None => println!("nobody asked for pages"),
    }
    Ok(())
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
