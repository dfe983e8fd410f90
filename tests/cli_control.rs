//! The control socket, against clients that misbehave.

use rewarm::control::{
    Client, ControlError, ProcessReport, REPORT_VERSION, Response, Server, Tick, list,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

/// A folder that ends with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("rewarm-control-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Folder(path)
    }

    fn run_dir(&self) -> PathBuf {
        self.0.join("run")
    }

    fn serve(&self) -> Server {
        start(&[self.run_dir()], None).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(folders: &[PathBuf], tick: Option<Tick>) -> Result<Server, ControlError> {
    Server::start(
        folders,
        Arc::new(|_, _| Response::Status(Box::new(report()))),
        tick,
    )
}

fn report() -> ProcessReport {
    ProcessReport {
        version: REPORT_VERSION,
        pid: process::id(),
        ..ProcessReport::default()
    }
}

fn ask(server: &Server) -> ProcessReport {
    let folder = server.path().parent().unwrap().to_owned();
    Client::connect(&[folder], process::id())
        .unwrap()
        .status()
        .unwrap()
}

/// Sends bytes and returns all that comes back until the server hangs up.
fn send(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(server.path()).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn framed(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_process_reports_and_its_files_are_private() {
    let folder = Folder::new("report");
    let server = folder.serve();
    assert_eq!(ask(&server), report());
    assert_eq!(
        fs::metadata(folder.run_dir()).unwrap().mode() & 0o7777,
        0o700
    );
    assert_eq!(fs::metadata(server.path()).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(list(&[folder.run_dir()]), [process::id()]);
    let path = server.path().to_owned();
    server.stop();
    assert!(!path.exists());
    assert_eq!(list(&[folder.run_dir()]), [0; 0]);
}

#[test]
fn garbage_and_unknown_requests_are_answered_with_a_reason() {
    let folder = Folder::new("garbage");
    let server = folder.serve();
    let refusals = [
        ("}{", "not a request"),
        (r#"{"version":1,"request":"explode"}"#, "unknown request"),
        (r#"{"version":99,"request":"status"}"#, "version 99"),
    ];
    for (text, reason) in refusals {
        let answer = send(&server, &framed(text));
        let answer = String::from_utf8_lossy(&answer[4..]).into_owned();
        assert!(answer.contains(reason), "{text}: {answer}");
    }
    assert_eq!(ask(&server), report());
}

#[test]
fn an_oversized_message_is_hung_up_on() {
    let folder = Folder::new("oversized");
    let server = folder.serve();
    assert_eq!(send(&server, &u32::MAX.to_le_bytes()), b"");
    assert_eq!(ask(&server), report());
}

#[test]
fn a_stuck_client_does_not_block_others() {
    let folder = Folder::new("stuck");
    let server = folder.serve();
    let mut stuck = UnixStream::connect(server.path()).unwrap();
    stuck.write_all(&[9, 0]).unwrap();
    assert_eq!(ask(&server), report());
    let mut rest = Vec::new();
    let _ = stuck.read_to_end(&mut rest);
    assert_eq!(rest, b"", "hung up on");
}

#[test]
fn a_dripping_client_is_hung_up_on_too() {
    let folder = Folder::new("dripping");
    let server = folder.serve();
    let mut stream = UnixStream::connect(server.path()).unwrap();
    stream.write_all(&1000u32.to_le_bytes()).unwrap();
    let mut bytes = 0;
    while stream.write_all(b" ").is_ok() {
        bytes += 1;
        assert!(bytes < 900, "still served");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(ask(&server), report());
}

#[test]
fn another_user_is_refused() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("not checked: only root can become another user");
        return;
    }
    let folder = Folder::new("foreign");
    let server = folder.serve();
    // Even where the files would let the other user in.
    fs::set_permissions(folder.run_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(server.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let script = format!(
        "import os, socket, struct\n\
         os.setgid(65534); os.setuid(65534)\n\
         s = socket.socket(socket.AF_UNIX); s.connect({:?})\n\
         text = b'{{\"version\":1,\"request\":\"status\"}}'\n\
         try:\n    s.sendall(struct.pack('<I', len(text)) + text); print(len(s.recv(100)))\n\
         except (BrokenPipeError, ConnectionResetError): print(0)\n",
        server.path().to_str().unwrap()
    );
    let output = Command::new("/usr/bin/python3")
        .args(["-c", &script])
        .output();
    let Ok(output) = output else {
        println!("not checked: there is no python3");
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{error}");
    assert_eq!(ask(&server), report());
}

#[test]
fn a_folder_that_others_could_have_prepared_is_not_used() {
    let folder = Folder::new("folder");
    let refused = |path: &Path, reason: &str| {
        let error = start(&[path.to_owned()], None).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    };
    let open = folder.0.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&open, "other users may write");
    let link = folder.0.join("link");
    symlink("/tmp", &link).unwrap();
    refused(&link, "not a folder");
    refused(&folder.0.join("missing/run"), "cannot create the folder");
    refused(&folder.0.join("x".repeat(100)), "listen");
    // The next one in line serves instead.
    let server = start(&[open, folder.run_dir()], None).unwrap();
    assert_eq!(server.path().parent().unwrap(), folder.run_dir());
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_of_a_dead_process_removed() {
    let folder = Folder::new("stale");
    fs::create_dir(folder.run_dir()).unwrap();
    let own = folder.run_dir().join(format!("{}.sock", process::id()));
    let dead = folder.run_dir().join(format!("{}.sock", dead_pid()));
    let alive = folder.run_dir().join("1.sock");
    for path in [&own, &dead, &alive] {
        drop(UnixListener::bind(path).unwrap());
    }
    let server = folder.serve();
    assert_eq!(ask(&server), report());
    assert_eq!(list(&[folder.run_dir()]), [process::id()]);
    assert!(!dead.exists(), "of a dead process");
    assert!(alive.exists(), "of a process that lives");
}

#[test]
fn a_socket_that_someone_serves_is_not_replaced() {
    let folder = Folder::new("served");
    let _server = folder.serve();
    let error = start(&[folder.run_dir()], None).err().unwrap().to_string();
    assert!(error.contains("another container"), "{error}");
}

#[test]
fn a_process_that_does_not_listen_is_named_with_the_folders() {
    let folder = Folder::new("absent");
    let error = Client::connect(&[folder.run_dir()], 1).unwrap_err();
    assert!(
        matches!(error, ControlError::NotListening { pid: 1, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(folder.run_dir().to_str().unwrap())
    );
}

#[test]
fn the_tick_runs_beside_the_service() {
    let folder = Folder::new("tick");
    let (sender, ticks) = mpsc::channel();
    let count = AtomicU32::new(0);
    let tick: Tick = Box::new(move || {
        let _ = sender.send(count.fetch_add(1, Ordering::Relaxed));
    });
    let server = start(&[folder.run_dir()], Some(tick)).unwrap();
    assert_eq!(ticks.recv(), Ok(0));
    assert_eq!(ask(&server), report());
    assert_eq!(ticks.recv(), Ok(1));
    server.stop();
    while ticks.recv().is_ok() {}
}

#[test]
fn a_forked_child_lets_go_without_disturbing_the_parent() {
    let folder = Folder::new("fork");
    let server = folder.serve();
    let path = server.path().to_owned();
    // SAFETY: the child only lets go of the server, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        server.forget_after_fork();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child and a local.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(status, 0);
    assert!(path.exists());
    assert_eq!(ask(&server), report());
}
