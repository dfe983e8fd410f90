//! How the processes' own memory comes back: behind them, by the page server, or
//! ahead of them, by CRIU.

use super::super::hook::{Hook, Question, Stage};
use super::super::{progress, text};
use super::RestoreArgs;
use super::watch::Worker;
use anyhow::{Result, anyhow, bail};
use rewarm::checkpoint::{IMAGES, Manifest};
use rewarm::criu::pages::{
    PageDigests, PageReport, PageServer, PageServerOptions, can_serve, digest_pages,
    why_not_beside_criu,
};
use rewarm::criu::tool::CriuError;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a bar is drawn.
const PERIOD: Duration = Duration::from_millis(100);

/// How long the page server may take to say that it was its fault.
const CONFESSION: Duration = Duration::from_millis(500);

/// Who brings it.
pub(super) enum Memory {
    /// The page server. Unless released, it kills the processes when it is dropped.
    Server(PageServer),
    /// CRIU, before the processes go on, from pages that were verified.
    Criu,
    /// The same, from pages that are being verified.
    Beside(Beside),
}

/// Pages are read and verified, which also brings them into the page cache, while
/// CRIU restores. It waits for the end of that before it lets the processes go on.
pub(super) struct Beside {
    verifying: Option<JoinHandle<Result<()>>>,
    hook: Hook,
    question: Option<Question>,
}

impl Memory {
    /// Has the page server listen, or, where there is to be none or cannot be,
    /// verifies the pages, as CRIU does not.
    pub(super) fn begin(
        args: &RestoreArgs,
        folder: &Path,
        worker: &Worker,
        manifest: &Manifest,
    ) -> Result<Memory> {
        let images = folder.join(IMAGES);
        if !args.no_lazy {
            match can_serve() {
                Ok(()) => {
                    let server = PageServer::start(&PageServerOptions {
                        images,
                        work: worker.work().to_owned(),
                        digests: Some(manifest.pages.clone()),
                    })?;
                    return Ok(Memory::Server(server));
                }
                Err(reason) => eprintln!(
                    "rewarm: all memory is read before the processes go on, which takes longer: {}",
                    text::printable(&reason)
                ),
            }
        }
        if why_not_beside_criu(&images)?.is_some() {
            verify(&images, &manifest.pages)?;
            return Ok(Memory::Criu);
        }
        let hook = Hook::listen(worker.work())?;
        let pages = manifest.pages.clone();
        let verifying = thread::Builder::new().spawn(move || verify(&images, &pages))?;
        Ok(Memory::Beside(Beside {
            verifying: Some(verifying),
            hook,
            question: None,
        }))
    }

    /// What CRIU is told.
    pub(super) fn option(&self) -> Option<&'static str> {
        match self {
            Memory::Server(_) => Some("--lazy-pages"),
            Memory::Criu | Memory::Beside(_) => None,
        }
    }

    /// When CRIU has to ask before it goes on.
    pub(super) fn asks_at(&self) -> Option<Stage> {
        match self {
            Memory::Beside(_) => Some(Stage::PostRestore),
            Memory::Server(_) | Memory::Criu => None,
        }
    }

    /// Answers CRIU, if it has asked and the answer is known.
    ///
    /// # Errors
    /// If pages are damaged: then CRIU kills the processes, which have not run.
    pub(super) fn answer(&mut self) -> Result<()> {
        let Memory::Beside(beside) = self else {
            return Ok(());
        };
        let answered = beside.answer();
        if answered.is_err() {
            // Who asks finds nobody, which is a no.
            *self = Memory::Criu;
        }
        answered
    }

    /// CRIU is done: nobody else will ask for memory.
    pub(super) fn criu_has_ended(&self) {
        if let Memory::Server(server) = self {
            server.criu_has_ended();
        }
    }

    /// Waits until all is in place, and tells what the page server has done.
    pub(super) fn wait(&mut self) -> Result<Option<PageReport>> {
        let Memory::Server(server) = self else {
            return Ok(None);
        };
        let bar = progress::bytes("memory");
        loop {
            if let Some(end) = server.wait_for(PERIOD) {
                bar.finish_and_clear();
                return Ok(Some(end?));
            }
            let progress = server.progress();
            bar.set_length(progress.total);
            bar.set_position(progress.copied);
        }
    }

    /// The processes are on their own from now on.
    pub(super) fn release(self) {
        if let Memory::Server(server) = self {
            server.release();
        }
    }

    /// If the page server failed, it killed the processes, and all else followed. If
    /// CRIU did, either may be the cause.
    pub(super) fn cause_of(mut self, error: anyhow::Error) -> anyhow::Error {
        let Memory::Server(server) = &mut self else {
            return error;
        };
        match server.wait_for(CONFESSION) {
            Some(Err(_)) if error.is::<CriuError>() && server.has_lost_criu() => error,
            Some(Err(cause)) if error.is::<CriuError>() => anyhow!("{cause}\n  {error:#}"),
            Some(Err(cause)) => cause.into(),
            _ => error,
        }
    }
}

impl Beside {
    fn answer(&mut self) -> Result<()> {
        if let Some(question) = self.hook.asked() {
            self.question = Some(question);
        }
        let is_known = |verifying: &mut JoinHandle<_>| verifying.is_finished();
        if let Some(verifying) = self.verifying.take_if(is_known) {
            let verified = verifying.join();
            verified.map_err(|_| anyhow!("the pages were left unverified"))??;
        }
        if self.verifying.is_none()
            && let Some(question) = self.question.take()
        {
            // If it has ended, CRIU says so, too.
            let _ = question.go_on();
        }
        Ok(())
    }
}

/// Compares all pages with what was written: CRIU does not.
fn verify(images: &Path, pages: &PageDigests) -> Result<()> {
    if digest_pages(images)? != *pages {
        bail!(
            "{}: a file of pages (pages-*.img) is damaged: its digests are not those that were written; the checkpoint cannot be restored: bring the file back from a copy of the folder",
            images.display()
        );
    }
    Ok(())
}
