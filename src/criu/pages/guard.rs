//! The process that restores: it keeps a duplicate of every descriptor, and kills
//! the restored processes when the server fails them.

use super::digests::PageDigests;
use super::link::Link;
use super::protocol::{Begin, FromServer, ToServer};
use super::socket::{self, Door, Said};
use super::uffd;
use super::victims;
use super::{PageProgress, PageReport, PagesError};
use crate::pidfd::Pidfd;
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The argument with which this program is started again to be the server, see
/// [`super::serve`].
pub const SERVE: &str = "__serve-pages";

/// How often it is looked whether somebody has given up.
const PERIOD: Duration = Duration::from_millis(20);

/// How long the server may take to say that it has ended the processes.
const CONFESSION: Duration = Duration::from_millis(300);

/// What is served, and where.
#[derive(Clone, Debug)]
pub struct PageServerOptions {
    /// Folder of the images.
    pub images: PathBuf,
    /// CRIU's work folder (`-W`), where it looks for the socket.
    pub work: PathBuf,
    /// What the files of pages must be; without it they are believed.
    pub digests: Option<PageDigests>,
}

/// A page server for one restore.
///
/// Dropped without [`PageServer::release`], it kills the restored processes: a
/// restore that failed leaves nothing half alive.
#[derive(Debug)]
pub struct PageServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Duplicates of all descriptors, until all is in place.
    held: Vec<OwnedFd>,
    victims: Vec<Pidfd>,
    progress: PageProgress,
    /// Whether CRIU has connected.
    is_connected: bool,
    criu_has_ended: bool,
    /// CRIU ended in the middle, and for no fault of the server's.
    has_lost_criu: bool,
    is_released: bool,
    /// Processes are being killed, or have been.
    has_failed: bool,
    end: Option<Result<PageReport, String>>,
}

impl PageServer {
    /// Starts the server. CRIU can connect when this returns.
    ///
    /// # Errors
    /// The system's.
    pub fn start(options: &PageServerOptions) -> Result<PageServer, PagesError> {
        let door = Door::open(&options.work)?;
        allow_many_descriptors();
        let failed = |error| PagesError::system("page server", error);
        let (ours, theirs) = Link::pair().map_err(failed)?;
        let child = Command::new("/proc/self/exe")
            .arg(SERVE)
            .stdin(Stdio::from(theirs.into_descriptor()))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        begin(&ours, options, &door).map_err(failed)?;
        let shared = Arc::new(Shared {
            link: ours,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut server = PageServer {
            shared: shared.clone(),
            threads: Vec::new(),
            socket: door.path().to_owned(),
        };
        server.spawn(move || shared.watch(child)).map_err(failed)?;
        let shared = server.shared.clone();
        server.spawn(move || shared.receive(door)).map_err(failed)?;
        Ok(server)
    }

    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder = thread::Builder::new().name("rewarm-page-guard".into());
        self.threads.push(builder.spawn(work)?);
        Ok(())
    }

    /// The socket that CRIU connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How far it is.
    pub fn progress(&self) -> PageProgress {
        self.shared.state.lock().progress
    }

    /// Whether CRIU has connected.
    pub fn is_connected(&self) -> bool {
        self.shared.state.lock().is_connected
    }

    /// CRIU has ended: if it has not connected by now, it will not, and
    /// [`PageServer::wait`] says so.
    pub fn criu_has_ended(&self) {
        self.shared.state.lock().criu_has_ended = true;
    }

    /// Whether CRIU ended in the middle: it knows why.
    pub fn has_lost_criu(&self) -> bool {
        self.shared.state.lock().has_lost_criu
    }

    /// Waits until all pages are in place.
    ///
    /// # Errors
    /// Why they never will be; the restored processes have been killed.
    pub fn wait(&mut self) -> Result<PageReport, PagesError> {
        let mut state = self.shared.state.lock();
        loop {
            match &state.end {
                Some(Ok(report)) => return Ok(*report),
                Some(Err(message)) => return Err(PagesError::Failed(message.clone())),
                None => self.shared.changed.wait(&mut state),
            }
        }
    }

    /// As [`PageServer::wait`], for so long at most; `None` if it is not over then.
    ///
    /// # Errors
    /// As [`PageServer::wait`].
    pub fn wait_for(&mut self, limit: Duration) -> Option<Result<PageReport, PagesError>> {
        let mut state = self.shared.state.lock();
        if state.end.is_none() {
            self.shared.changed.wait_for(&mut state, limit);
        }
        match state.end.as_ref()? {
            Ok(report) => Some(Ok(*report)),
            Err(message) => Some(Err(PagesError::Failed(message.clone()))),
        }
    }

    /// The restore was successful: the processes live on without this one.
    pub fn release(self) {
        let _ = self.shared.link.send(&ToServer::Released, &[]);
        self.shared.state.lock().is_released = true;
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        let is_released = self.shared.state.lock().is_released;
        if !is_released {
            self.shared.fail("the restore was given up".into());
        }
        if !is_released || self.shared.state.lock().end.is_some() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// Two descriptors for each process and one for each child of theirs: more than the
/// usual 1024 may be needed. Children of this process inherit the limit.
fn allow_many_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: one structure.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if told && limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above. If it is refused, the limit is as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Tells the server what it is about. Digests may be long, so they go by file.
fn begin(link: &Link, options: &PageServerOptions, door: &Door) -> io::Result<()> {
    let message = Begin {
        images: options.images.canonicalize()?,
    };
    let Some(digests) = &options.digests else {
        return link.send(&message, &[door.descriptor()]);
    };
    // SAFETY: a name and flags.
    let file = unsafe { libc::memfd_create(c"digests".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(file) };
    file.write_all(&serde_json::to_vec(digests)?)?;
    file.rewind()?;
    link.send(&message, &[door.descriptor(), file.as_fd()])
}

impl Shared {
    /// Hears the server, to its end.
    fn watch(&self, mut child: Child) {
        loop {
            match self.link.receive() {
                Ok(Some((FromServer::Progress(progress), _))) => {
                    self.state.lock().progress = progress;
                }
                Ok(Some((FromServer::Forked, descriptors))) => {
                    let mut state = self.state.lock();
                    state.held.retain(|uffd| !uffd::has_ended(uffd));
                    state.held.extend(descriptors);
                }
                Ok(Some((FromServer::Done(report), _))) => {
                    self.done(report);
                    break;
                }
                Ok(Some((FromServer::Failed(message), _))) => {
                    self.fail(message);
                    break;
                }
                Ok(None) | Err(_) => {
                    self.fail("the page server was killed".into());
                    break;
                }
            }
        }
        let _ = child.wait();
    }

    fn done(&self, report: PageReport) {
        let mut state = self.state.lock();
        state.progress = report.progress;
        // As long as somebody holds them, who touches fresh memory waits.
        state.held.clear();
        state.end.get_or_insert(Ok(report));
        self.changed.notify_all();
    }

    /// Kills all restored processes, if they are still in our hands.
    fn fail(&self, message: String) {
        let victims = {
            let mut state = self.state.lock();
            if state.has_failed {
                return;
            }
            state.has_failed = true;
            std::mem::take(&mut state.victims)
        };
        let _ = self.link.send(&ToServer::Silence, &[]);
        victims::kill(&victims);
        let _ = self.link.send(&ToServer::GiveUp, &[]);
        let mut state = self.state.lock();
        state.held.clear();
        state.end = Some(Err(match victims.len() {
            0 => message,
            _ => format!("{message}; the restored processes were killed"),
        }));
        self.changed.notify_all();
    }

    /// Takes what CRIU says, to its last word.
    fn receive(&self, door: Door) {
        if let Err(error) = self.try_receive(door) {
            // When the server fails, it kills the processes, and CRIU ends, too: the
            // cause is what the server says then.
            let mut state = self.state.lock();
            if state.end.is_none() {
                self.changed.wait_for(&mut state, CONFESSION);
            }
            state.has_lost_criu = state.end.is_none() && matches!(error, PagesError::CriuEnded);
            drop(state);
            self.fail(error.to_string());
        }
    }

    fn try_receive(&self, door: Door) -> Result<(), PagesError> {
        while !door.waits(PERIOD) {
            let state = self.state.lock();
            if state.has_failed {
                return Ok(());
            }
            if state.criu_has_ended && !door.waits(Duration::ZERO) {
                let text = "criu did not ask for pages: was it started with --lazy-pages, and the same work folder?";
                return Err(PagesError::Protocol(text.into()));
            }
        }
        let failed = |error| PagesError::system("lazy-pages.socket", error);
        let (stream, criu) = door.accept().map_err(failed)?;
        let connected = &[stream.as_fd()];
        let told = self.link.send(&ToServer::Connected, connected);
        told.map_err(|error| PagesError::system("page server", error))?;
        drop(door);
        self.state.lock().is_connected = true;
        while !self.take_next(&stream, criu.as_ref())? {}
        Ok(())
    }

    /// Whether that was the last.
    fn take_next(&self, stream: &UnixStream, criu: Option<&Pidfd>) -> Result<bool, PagesError> {
        let failed = |error| PagesError::system("page server", error);
        while !socket::is_readable(stream, PERIOD) {
            if self.state.lock().has_failed {
                return Ok(true);
            }
            // Its processes have the connection, too, and wait for it for ever.
            let has_ended = criu.is_some_and(|criu| criu.has_ended(Duration::ZERO));
            if has_ended && !socket::is_readable(stream, Duration::ZERO) {
                let text = "criu was killed before all processes were restored";
                return Err(PagesError::Protocol(text.into()));
            }
        }
        match socket::next(stream)? {
            Said::Finished => {
                self.link.send(&ToServer::Restored, &[]).map_err(failed)?;
                Ok(true)
            }
            Said::Task { pid, real, uffd } => {
                let victim = Pidfd::open(real).map_err(|error| {
                    PagesError::system(format!("process {pid}, which is {real} here"), error)
                })?;
                let message = ToServer::Task { pid, real };
                let descriptors = [uffd.as_fd(), victim.descriptor().as_fd()];
                let sent = self.link.send(&message, &descriptors).map_err(failed);
                self.keep(uffd, victim);
                sent.map(|()| false)
            }
        }
    }

    /// Keeps a process in hand; if others are killed by now, so is this one.
    fn keep(&self, uffd: OwnedFd, victim: Pidfd) {
        let mut state = self.state.lock();
        if state.has_failed {
            drop(state);
            return victims::kill(&[victim]);
        }
        state.held.push(uffd);
        state.victims.push(victim);
    }
}
