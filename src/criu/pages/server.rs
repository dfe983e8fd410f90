//! The process that serves: it has the descriptors of all processes, reads the
//! files, and fills.

use super::digests::PageDigests;
use super::events::Tasks;
use super::fill::Filling;
use super::link::Link;
use super::protocol::{Begin, FromServer, ToServer};
use super::socket::{self, Said};
use super::task::{Pages, Task};
use super::uffd::Uffd;
use super::victims;
use super::{PageReport, PagesError};
use crate::criu::images::{ImageError, ImageReason, read_pagemap, read_wiped};
use crate::pidfd::Pidfd;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How often the other side is told how far it is.
const PERIOD: Duration = Duration::from_millis(50);

struct Server {
    link: Link,
    images: PathBuf,
    digests: Option<PageDigests>,
    /// Files of pages by number.
    files: Mutex<HashMap<u32, Arc<Pages>>>,
    filling: Arc<Filling>,
    tasks: Tasks,
    victims: Mutex<Vec<Pidfd>>,
    /// What the guard may not have read when it is killed.
    criu: Mutex<Option<Criu>>,
}

/// The way on which CRIU's messages come.
enum Criu {
    Listener(OwnedFd),
    Connected(OwnedFd),
}

/// Runs the process that serves; standard input is its link to who started it.
/// It has no other use.
///
/// # Errors
/// If it was started by somebody else.
pub fn serve() -> Result<(), PagesError> {
    let failed = |error| PagesError::system("page server", error);
    // SAFETY: nobody else uses it, and what it is says the next call.
    let link = Link::new(unsafe { OwnedFd::from_raw_fd(0) });
    // Ctrl-C is for who started it.
    // SAFETY: no memory is involved.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    let (begin, descriptors) = link
        .receive::<Begin>()
        .and_then(|begin| begin.ok_or(io::ErrorKind::UnexpectedEof.into()))
        .map_err(failed)?;
    let mut descriptors = descriptors.into_iter();
    let listener = descriptors.next();
    let digests = match descriptors.next() {
        Some(file) => serde_json::from_reader(io::BufReader::new(File::from(file)))
            .map_err(|error| failed(error.into()))?,
        None => None,
    };
    let filling = Arc::new(Filling::new().map_err(failed)?);
    filling.start().map_err(failed)?;
    let server = Arc::new(Server {
        link,
        images: begin.images,
        digests,
        files: Mutex::default(),
        tasks: Tasks::new(filling.clone()).map_err(failed)?,
        filling,
        victims: Mutex::default(),
        criu: Mutex::new(listener.map(Criu::Listener)),
    });
    for work in [Server::listen, Server::obey] {
        let server = server.clone();
        thread::Builder::new()
            .spawn(move || work(&server))
            .map_err(failed)?;
    }
    server.finish();
    Ok(())
}

impl Server {
    /// Hears what processes say. A child's descriptor is the guard's, too, before
    /// the child runs.
    fn listen(&self) {
        self.tasks.listen_to_all(&|child| {
            let uffd = child.uffd().descriptor();
            // A guard that is gone is seen elsewhere.
            let _ = self.link.send(&FromServer::Forked, &[uffd]);
        });
    }

    /// Does what the guard says, to its end.
    fn obey(&self) {
        let mut is_released = false;
        loop {
            match self.link.receive::<ToServer>() {
                Ok(Some((ToServer::Task { pid, real }, descriptors))) => {
                    if let Err(error) = self.take(pid, real, descriptors) {
                        self.filling.queue.fail(error);
                    }
                }
                Ok(Some((ToServer::Connected, mut descriptors))) => {
                    *self.criu.lock() = descriptors.pop().map(Criu::Connected);
                }
                Ok(Some((ToServer::Restored, _))) => self.filling.queue.restored(),
                Ok(Some((ToServer::Released, _))) => is_released = true,
                Ok(Some((ToServer::Silence, _))) => self.tasks.silence(),
                Ok(Some((ToServer::GiveUp, _))) => process::exit(1),
                Ok(None) | Err(_) if is_released => return,
                Ok(None) | Err(_) => self.end_all(),
            }
        }
    }

    /// The guard is gone: kills the processes, those too that it had not told of.
    fn end_all(&self) -> ! {
        self.kill();
        let stream = match self.criu.lock().take() {
            Some(Criu::Listener(listener)) => socket::accept_waiting(listener),
            Some(Criu::Connected(stream)) => Some(stream.into()),
            None => None,
        };
        // As its processes die, CRIU ends, and so does what it says.
        while let Some(Ok(Said::Task { real, .. })) = stream.as_ref().map(socket::next) {
            if let Ok(victim) = Pidfd::open(real) {
                victims::kill(&[victim]);
            }
        }
        // Whoever started all this may have closed it.
        let _ = writeln!(
            io::stderr(),
            "rewarm: who restored was killed before the restore was done: the restored processes were killed"
        );
        process::exit(1)
    }

    fn kill(&self) {
        self.tasks.silence();
        victims::kill(&self.victims.lock());
    }

    fn take(&self, pid: i32, real: u32, descriptors: Vec<OwnedFd>) -> Result<(), PagesError> {
        let Ok([uffd, pidfd]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(PagesError::Protocol("descriptors are missing".into()));
        };
        self.victims
            .lock()
            .push(Pidfd::from_descriptor(real, pidfd));
        let uffd = Uffd::new(uffd).map_err(|error| PagesError::system("userfaultfd", error))?;
        let path = self.images.join(format!("pagemap-{pid}.img"));
        let pagemap = read_pagemap(&path)?;
        let pages = match pagemap.lazy.is_empty() {
            true => None,
            false => Some(self.pages(pagemap.pages_id)?),
        };
        let has = pages.as_ref().map_or(0, |pages| pages.file.bytes());
        let ends = pagemap
            .lazy
            .last()
            .map_or(0, |last| last.offset + last.bytes);
        if ends > has {
            let what = format!(
                "pages up to {ends} bytes of pages-{}.img, which has {has}",
                pagemap.pages_id
            );
            return Err(ImageError::new(&path, ImageReason::Impossible(what)).into());
        }
        self.filling.totals.add_total(pagemap.lazy_bytes());
        let wiped = read_wiped(&self.images.join(format!("mm-{pid}.img")))?;
        let task = Task::new(pid, uffd, &pagemap.lazy, pages, wiped);
        self.tasks.add(task)
    }

    fn pages(&self, number: u32) -> Result<Arc<Pages>, PagesError> {
        let mut files = self.files.lock();
        if let Some(pages) = files.get(&number) {
            return Ok(pages.clone());
        }
        let path = self.images.join(format!("pages-{number}.img"));
        let file = crate::pages::PageFile::open(path)?;
        let digests = self.digests.as_ref().map(|digests| digests.of(&file));
        let pages = Arc::new(Pages {
            digests: digests.transpose()?,
            file,
        });
        files.insert(number, pages.clone());
        Ok(pages)
    }

    /// Waits for the end, and tells.
    fn finish(&self) {
        let begun = Instant::now();
        let end = loop {
            if let Some(end) = self.filling.queue.end(PERIOD) {
                break end;
            }
            let progress = FromServer::Progress(self.filling.totals.progress());
            // A guard that is gone is seen elsewhere.
            let _ = self.link.send(&progress, &[]);
        };
        let last = match end {
            Ok(()) => FromServer::Done(PageReport {
                progress: self.filling.totals.progress(),
                seconds: begun.elapsed().as_secs_f64(),
            }),
            Err(error) => {
                self.kill();
                FromServer::Failed(error.to_string())
            }
        };
        let _ = self.link.send(&last, &[]);
    }
}
