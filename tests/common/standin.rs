//! Processes that answer on control sockets as if they could be frozen.

use parking_lot::Mutex;
use rewarm::control::{
    FreezeReport, MemoryReport, Phase, PrepareReport, ProcessReport, Progress, REPORT_VERSION,
    Response, State, ThawReport, frame,
};
use serde_json::{Value, json};
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

/// A folder for control sockets. Its path is short: sockets do not take long ones.
pub struct RunDir(pub PathBuf);

impl RunDir {
    pub fn new() -> RunDir {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rewarm-standin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.expect("the temporary folder is writable");
        RunDir(path)
    }

    pub fn socket(&self, pid: u32) -> PathBuf {
        self.0.join(format!("{pid}.sock"))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a stand-in knows, and what it was asked.
pub struct Known {
    pub report: ProcessReport,
    /// Requests that it refuses, and with what words.
    pub refusals: Vec<(&'static str, &'static str)>,
    /// A request that is never answered, and who hears of it.
    unanswered: Option<(&'static str, Sender<()>)>,
    /// Every request but those for the status.
    pub asked: Vec<Value>,
}

/// A process that can be frozen, as far as one can see from outside.
#[derive(Clone)]
pub struct Standin(pub Arc<Mutex<Known>>);

impl Standin {
    pub fn new(pid: u32) -> Standin {
        let report = ProcessReport {
            version: REPORT_VERSION,
            pid,
            state: State::Active,
            memory: MemoryReport {
                freezable: true,
                movable_bytes: 3 << 30,
                ..MemoryReport::default()
            },
            ..ProcessReport::default()
        };
        Standin(Arc::new(Mutex::new(Known {
            report,
            refusals: Vec::new(),
            unanswered: None,
            asked: Vec::new(),
        })))
    }

    /// One that listens for a process that does not.
    pub fn serve(run_dir: &RunDir, pid: u32) -> Standin {
        let listener = UnixListener::bind(run_dir.socket(pid)).expect("the folder is ours");
        let standin = Standin::new(pid);
        standin.clone().answer_all(listener);
        standin
    }

    /// Starts a command that finds this listening as if it did so itself: to its
    /// peers, a socket belongs to the process that called `listen`. Some requests are
    /// refused.
    pub fn inside(
        run_dir: &RunDir,
        command: &mut Command,
        refusals: &[(&'static str, &'static str)],
    ) -> (Standin, Child) {
        // SAFETY: has no requirements.
        let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor that nobody else owns.
        let listener = unsafe { UnixListener::from_raw_fd(fd) };
        let (folder, fd) = (run_dir.0.clone(), listener.as_raw_fd());
        // SAFETY: the child only makes system calls and formats a path.
        unsafe { command.pre_exec(move || listen_as_child(&folder, fd)) };
        let child = command.spawn().expect("the command starts");
        let standin = Standin::new(child.id());
        standin.0.lock().refusals.extend(refusals);
        standin.clone().answer_all(listener);
        (standin, child)
    }

    pub fn refuse(&self, request: &'static str, words: &'static str) {
        self.0.lock().refusals.push((request, words));
    }

    /// Says when the request is there.
    pub fn leave_unanswered(&self, request: &'static str) -> Receiver<()> {
        let (hear, heard) = channel();
        self.0.lock().unanswered = Some((request, hear));
        heard
    }

    pub fn state(&self) -> State {
        self.0.lock().report.state
    }

    /// Every request of a kind.
    pub fn asked(&self, kind: &str) -> Vec<Value> {
        let known = self.0.lock();
        let of_kind = known.asked.iter().filter(|asked| asked["request"] == kind);
        of_kind.cloned().collect()
    }

    fn answer_all(self, listener: UnixListener) {
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Whoever only looks whether somebody listens says nothing.
                let _ = self.converse(client);
            }
        });
    }

    fn converse(&self, mut client: UnixStream) -> Result<(), frame::FrameError> {
        let request: Value = frame::read(&mut client)?;
        if self.is_left_unanswered(&request) {
            // Until whoever asked hangs up.
            return frame::read::<Value>(&mut client).map(drop);
        }
        for response in self.answer(&request) {
            let mut message = serde_json::to_value(response)?;
            message["version"] = json!(1);
            frame::write(&mut client, &message)?;
        }
        Ok(())
    }

    fn is_left_unanswered(&self, request: &Value) -> bool {
        let known = self.0.lock();
        let hear = known.unanswered.as_ref();
        hear.is_some_and(|(kind, hear)| request["request"] == *kind && hear.send(()).is_ok())
    }

    fn answer(&self, request: &Value) -> Vec<Response> {
        let mut known = self.0.lock();
        let kind = request["request"].as_str().unwrap_or("?");
        if kind == "status" {
            return vec![Response::Status(Box::new(known.report.clone()))];
        }
        known.asked.push(request.clone());
        let refusal = known.refusals.iter().find(|refusal| refusal.0 == kind);
        if let Some((_, words)) = refusal {
            return vec![Response::Error((*words).into())];
        }
        let mut responses = Vec::new();
        if kind != "discard" {
            responses.push(Response::Progress(Progress {
                phase: Phase::Storing,
                done: 1 << 30,
                total: 3 << 30,
            }));
        }
        responses.push(known.carry_out(request));
        responses
    }
}

impl Known {
    fn carry_out(&mut self, request: &Value) -> Response {
        let folder = |key: &str| request[key].as_str().map(PathBuf::from);
        let memory = &mut self.report.memory;
        match request["request"].as_str() {
            Some("prepare") => Response::Prepared(PrepareReport {
                snapshot: folder("to").unwrap_or_default(),
                bytes: memory.movable_bytes,
                seconds: 0.5,
            }),
            Some("freeze") => {
                self.report.state = State::Frozen;
                memory.snapshot = folder("to");
                Response::Frozen(FreezeReport {
                    snapshot: folder("to").unwrap_or_default(),
                    bytes: memory.movable_bytes,
                    seconds: 0.5,
                    ..FreezeReport::default()
                })
            }
            Some("thaw") => {
                self.report.state = State::Active;
                let snapshot = folder("from").or(memory.snapshot.take());
                Response::Thawed(ThawReport {
                    snapshot: snapshot.unwrap_or_default(),
                    bytes: memory.movable_bytes,
                    kept: request["keep_snapshot"] == true,
                    seconds: 0.5,
                    verified_by: "gpu".into(),
                    ..ThawReport::default()
                })
            }
            Some("discard") => Response::Discarded,
            other => Response::Error(format!("unknown request: {other:?}")),
        }
    }
}

/// In the child, before it becomes the command.
fn listen_as_child(folder: &Path, fd: libc::c_int) -> io::Result<()> {
    let path = folder.join(format!("{}.sock", std::process::id()));
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = *from as libc::c_char;
    }
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an open socket, and a whole address of the size given.
    let failed = unsafe {
        libc::bind(fd, (&raw const address).cast(), length) != 0 || libc::listen(fd, 16) != 0
    };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
