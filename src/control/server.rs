//! The listening side, inside a preloaded process.

use super::protocol::{Request, Response, Versioned, understand};
use super::socket::{self, Listener, Timed, Wait};
use super::work::{Reporter, Work};
use super::{ControlError, frame};
use crate::config::effective_uid;
use crate::lanes::SignalsBlocked;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{io, process};

/// How long a client may take to ask, and to take a short answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often [`Tick`] runs.
const TICK: Duration = Duration::from_secs(1);

/// Virtual memory; little of it is ever touched. The C library puts the thread's
/// static variables of all loaded libraries there too.
const STACK: usize = 256 << 10;

/// Answers requests: those that take long on a thread of their own, one at a time;
/// the others on the control thread.
pub type Handler = dyn Fn(Request, &Reporter) -> Response + Send + Sync;

/// Runs every second, on the control thread.
pub type Tick = Box<dyn Fn() + Send>;

/// The control socket of this process.
///
/// One thread serves it, with all signals blocked. Without a [`Tick`] it sleeps
/// until somebody connects. What takes long ([`Request::Freeze`] and its like)
/// runs beside it, and goes on if the client or the server goes away.
pub struct Server {
    /// Shared with the thread.
    listener: Arc<Listener>,
    path: PathBuf,
}

impl Server {
    /// Listens in the first of the folders that can be used.
    ///
    /// # Errors
    /// What was wrong with the last folder, or that the thread did not start.
    pub fn start(
        run_dirs: &[PathBuf],
        handler: Arc<Handler>,
        tick: Option<Tick>,
    ) -> Result<Server, ControlError> {
        let mut failure = ControlError::NoFolder;
        for folder in run_dirs {
            match listen(folder) {
                Ok((listener, path)) => return Server::spawn(listener, path, handler, tick),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn spawn(
        listener: Listener,
        path: PathBuf,
        handler: Arc<Handler>,
        tick: Option<Tick>,
    ) -> Result<Server, ControlError> {
        let listener = Arc::new(listener);
        let shared = listener.clone();
        let _signals = SignalsBlocked::new();
        let thread = thread::Builder::new()
            .name("rewarm-control".into())
            .stack_size(STACK)
            .spawn(move || serve(&shared, &Work::new(handler), tick));
        if let Err(error) = thread {
            let _ = fs::remove_file(&path);
            return Err(ControlError::Thread(error));
        }
        Ok(Server { listener, path })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the service and removes the socket. Does not wait for the thread.
    pub fn stop(self) {
        let _ = fs::remove_file(&self.path);
        self.listener.shut_down();
    }

    /// In a forked child: closes the descriptor that it inherited. The socket
    /// stays the parent's.
    pub fn forget_after_fork(self) {
        self.listener.close();
    }
}

/// A socket left by an earlier process of this pid is replaced. It is bound where it
/// stays: CRIU restores a socket under the name that it was bound to.
fn listen(folder: &Path) -> Result<(Listener, PathBuf), ControlError> {
    prepare(folder)?;
    let path = folder.join(format!("{}.sock", process::id()));
    if socket::connect(&path, PATIENCE).is_ok() {
        let problem = "a process of this pid in another container listens there";
        return Err(ControlError::Unusable { path, problem });
    }
    let _ = fs::remove_file(&path);
    let bound = || {
        let listener = Listener::new(UnixListener::bind(&path)?)?;
        // Until then, who connects is told apart by their user all the same.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    match bound() {
        Ok(listener) => Ok((listener, path)),
        Err(error) => {
            let _ = fs::remove_file(&path);
            Err(ControlError::io("listen on", &path)(error))
        }
    }
}

/// Makes the folder, or checks that nobody else could have put things into it.
fn prepare(folder: &Path) -> Result<(), ControlError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ControlError::io("create the folder", folder)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(folder).map_err(ControlError::io("look at", folder))?;
    let problem = if !found.is_dir() {
        "it is not a folder"
    } else if found.uid() != effective_uid() {
        "it belongs to another user"
    } else if found.mode() & 0o022 != 0 {
        "other users may write to it"
    } else {
        return Ok(());
    };
    Err(ControlError::Unusable {
        path: folder.to_owned(),
        problem,
    })
}

fn serve(listener: &Listener, work: &Work, tick: Option<Tick>) {
    let mut next = Instant::now() + TICK;
    loop {
        let left = tick
            .as_ref()
            .map(|_| next.saturating_duration_since(Instant::now()));
        match listener.wait(left) {
            Wait::Closed => return,
            Wait::Client => attend(listener, work),
            Wait::Nothing => {}
        }
        if let Some(tick) = &tick
            && Instant::now() >= next
        {
            tick();
            next = Instant::now() + TICK;
        }
    }
}

fn attend(listener: &Listener, work: &Work) {
    match listener.accept() {
        // What goes wrong is the client's to report.
        Ok(client) => drop(answer(&client, work)),
        // Out of descriptors, say: the client stays in the queue, and asking
        // again at once would only burn time.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => thread::sleep(TICK),
        Err(_) => {}
    }
}

fn answer(client: &UnixStream, work: &Work) -> Result<(), frame::FrameError> {
    let uid = socket::peer(client)?.uid;
    if uid != 0 && uid != effective_uid() {
        return Ok(());
    }
    let mut timed = Timed::new(client, PATIENCE);
    let request = frame::read_bytes(&mut timed)?;
    let response = match understand(&request) {
        // Whoever asked is gone.
        Ok(Request::ThawAfterLock(thaw)) => return Ok(work.thaw_after_lock(thaw)?),
        Ok(request) => match request.long_work() {
            Some(name) => match work.begin(name, request, client) {
                Ok(()) => return Ok(()),
                Err(refusal) => Response::Error(refusal),
            },
            None => work.answer(request),
        },
        Err(refusal) => Response::Error(refusal),
    };
    frame::write(&mut timed, &Versioned::new(response))
}
