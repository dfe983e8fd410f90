//! `rewarm page-server` in place of `criu lazy-pages`: every byte arrives whatever
//! the processes do meanwhile, and when it does not, they do not live on.

mod common;

use common::cli::{documented, text};
use common::criu::{adopt, criu_or_skip, dump, restore};
use common::{Link, Scratch, app, shared_library, until};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// A tree of `tests/apps/pages.c`, dumped, and what it wrote.
struct Dumped {
    scratch: Scratch,
    pid: u32,
    pids: Vec<u32>,
}

impl Dumped {
    /// `None` where there is no CRIU, or no userfaultfd.
    fn new(mode: &str, mib: &str) -> Option<Dumped> {
        criu_or_skip()?;
        if let Err(why) = rewarm::criu::pages::can_serve() {
            eprintln!("SKIPPED, as pages cannot come later here: {why}");
            return None;
        }
        adopt();
        let scratch = Scratch::new();
        let mut command = Command::new(app("pages", Link::Dlopen));
        command
            .args([mode, mib])
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call, after the fork.
        unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
        let mut root = command.spawn().expect("the program starts");
        let ready = scratch.file("ready");
        until("ready", || ready.exists());
        let pid = root.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut pids: Vec<u32> = children
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        dump(pid, &scratch.file("images"), &[]).unwrap();
        root.wait().unwrap();
        for child in &pids {
            reap(*child);
        }
        pids.push(pid);
        File::create(scratch.file("go")).unwrap();
        Some(Dumped { scratch, pid, pids })
    }

    fn images(&self) -> PathBuf {
        self.scratch.file("images")
    }

    fn result(&self) -> String {
        fs::read_to_string(self.scratch.file("result")).unwrap_or_default()
    }

    fn restore(&self) -> Result<(), String> {
        restore(&self.images(), &["--lazy-pages"])
    }

    /// Insists that all processes say that all is well, and end so.
    #[track_caller]
    fn is_whole(&self, names: &[&str]) {
        until("all have looked", || {
            let result = self.result();
            assert!(!result.contains("bad"), "{result}");
            names
                .iter()
                .all(|name| result.contains(&format!("ok {name}\n")))
        });
        File::create(self.scratch.file("end")).unwrap();
        assert_eq!(reap(self.pid), 0, "{}", self.result());
    }

    /// Insists that nobody lives, and nobody has seen what is not so.
    #[track_caller]
    fn is_dead(&self) {
        for pid in &self.pids {
            until("the processes are dead", || is_dead(*pid));
        }
        assert!(!self.result().contains("bad"), "{}", self.result());
        assert!(!self.result().contains("ok root"), "{}", self.result());
    }
}

impl Drop for Dumped {
    fn drop(&mut self) {
        for pid in &self.pids {
            if !is_dead(*pid) {
                // SAFETY: numbers only.
                unsafe { libc::kill(*pid as i32, libc::SIGKILL) };
            }
            reap(*pid);
        }
    }
}

/// Waits for a process that is this one's child, or was adopted by it.
fn reap(pid: u32) -> i32 {
    let mut status = 0;
    // SAFETY: one number is written.
    unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
    status
}

/// Whether it is gone, or nobody has asked yet how it ended.
fn is_dead(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// `rewarm page-server --once`, listening.
struct Server(Child);

impl Server {
    fn start(dumped: &Dumped, environment: &[(&str, String)], options: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rewarm"))
            .args(["page-server", "--once", "--images", text(&dumped.images())])
            .args(options)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rewarm starts");
        let socket = dumped.images().join("lazy-pages.socket");
        until("it listens", || {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended");
            socket.exists()
        });
        Server(child)
    }

    /// With a file in which nothing is read beyond a byte, or that fails there.
    fn faulty(dumped: &Dumped, mode: &str, at: u64) -> Server {
        let preload = shared_library("faulty_files");
        let environment = [
            ("LD_PRELOAD", text(&preload).to_owned()),
            ("FAULTY_DO", mode.to_owned()),
            ("FAULTY_NAME", "pages-1.img".to_owned()),
            ("FAULTY_AT", at.to_string()),
        ];
        Server::start(dumped, &environment, &[])
    }

    /// The process that fills.
    fn child(&self) -> u32 {
        let pid = self.0.id();
        let mut child = String::new();
        until("it has a child", || {
            let of_threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            child = of_threads
                .flatten()
                .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
                .collect();
            !child.is_empty()
        });
        child.trim().parse().unwrap()
    }

    /// Its exit status, and what it said.
    fn finish(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = BufReader::new(self.0.stdout.take().unwrap());
        let mut stderr = BufReader::new(self.0.stderr.take().unwrap());
        stdout.read_to_string(&mut out).unwrap();
        stderr.read_to_string(&mut err).unwrap();
        (self.0.wait().unwrap().code(), out, err)
    }
}

fn kill(pid: u32) {
    send(pid, libc::SIGKILL);
}

fn send(pid: u32, signal: i32) {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// Bytes of a file of pages.
fn pages(dumped: &Dumped) -> u64 {
    let path = dumped.images().join("pages-1.img");
    fs::metadata(path).unwrap().len()
}

#[test]
fn every_byte_arrives_whatever_a_tree_does_meanwhile() {
    let Some(dumped) = Dumped::new("tree", "12") else {
        return;
    };
    let server = Server::start(&dumped, &[], &["--json"]);
    dumped.restore().unwrap();
    let (status, out, err) = server.finish();
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["version"], 1);
    documented(&told, "docs/checkpoint.md", "### Of a page server");
    let (bytes, copied) = (told["bytes"].as_u64(), told["copied"].as_u64());
    assert!(bytes > Some((3 * 7 * 12) << 20), "{told}");
    assert!(copied > Some(0), "{told}");
    assert!(!dumped.images().join("lazy-pages.socket").exists());
    dumped.is_whole(&["child0", "child1", "first fork", "second fork", "root"]);
}

#[test]
fn what_a_child_moves_at_once_goes_with_it() {
    let Some(dumped) = Dumped::new("moves", "32") else {
        return;
    };
    let server = Server::start(&dumped, &[], &[]);
    dumped.restore().unwrap();
    let (status, _, err) = server.finish();
    assert_eq!((status, err.as_str()), (Some(0), ""));
    dumped.is_whole(&["root"]);
}

/// Fewer descriptors than the program has children while it is filled.
#[test]
fn children_that_have_ended_are_forgotten() {
    let Some(dumped) = Dumped::new("forks", "16") else {
        return;
    };
    let server = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_rewarm"))
        .args(["page-server", "--once", "--images", text(&dumped.images())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it listens", || {
        dumped.images().join("lazy-pages.socket").exists()
    });
    dumped.restore().unwrap();
    let (status, _, err) = Server(server).finish();
    assert_eq!((status, err.as_str()), (Some(0), ""));
    dumped.is_whole(&["root"]);
}

#[test]
fn the_socket_may_be_elsewhere_and_the_line_says_where() {
    let Some(dumped) = Dumped::new("simple", "1") else {
        return;
    };
    let work = dumped.scratch.file("a folder with a name that is longer than any address of a socket may be, which is one hundred and eight");
    fs::create_dir(&work).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_rewarm"))
        .args(["page-server", "--once", "--images", text(&dumped.images())])
        .args(["--work", text(&work)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let socket = work.join("lazy-pages.socket");
    assert_eq!(line, format!("listening on {}\n", socket.display()));
    let options = ["--lazy-pages", "--work-dir", text(&work)];
    restore(&dumped.images(), &options).unwrap();
    assert!(server.wait().unwrap().success());
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("in place: "), "{line}");
    dumped.is_whole(&["root"]);
}

#[test]
fn when_the_process_that_fills_is_killed_so_are_the_restored() {
    let Some(dumped) = Dumped::new("tree", "2") else {
        return;
    };
    let server = Server::faulty(&dumped, "hang", pages(&dumped) / 2);
    let filling = server.child();
    dumped.restore().unwrap();
    kill(filling);
    let (status, _, err) = server.finish();
    assert_eq!(status, Some(1), "{err}");
    for words in ["page server was killed", "restored processes were killed"] {
        assert!(err.contains(words), "{err}");
    }
    dumped.is_dead();
}

#[test]
fn when_the_process_that_guards_is_killed_so_are_the_restored() {
    let Some(dumped) = Dumped::new("tree", "2") else {
        return;
    };
    let mut server = Server::faulty(&dumped, "hang", pages(&dumped) / 2);
    let filling = server.child();
    dumped.restore().unwrap();
    kill(server.0.id());
    server.0.wait().unwrap();
    dumped.is_dead();
    reap(filling);
}

#[test]
fn when_the_guard_is_killed_before_it_has_read_anything_so_are_the_restored() {
    let Some(dumped) = Dumped::new("tree", "2") else {
        return;
    };
    let mut server = Server::start(&dumped, &[], &[]);
    let filling = server.child();
    send(server.0.id(), libc::SIGSTOP);
    let images = dumped.images();
    let restoring = std::thread::spawn(move || restore(&images, &["--lazy-pages"]));
    until("it is restored", || !is_dead(dumped.pid));
    // Some or all has been said by then.
    sleep(Duration::from_millis(300));
    kill(server.0.id());
    server.0.wait().unwrap();
    // It fails if one of its processes was killed before it had let it go.
    let _ = restoring.join().unwrap();
    dumped.is_dead();
    reap(filling);
}

#[test]
fn a_read_that_fails_kills_the_restored_and_names_the_file() {
    let Some(dumped) = Dumped::new("simple", "2") else {
        return;
    };
    let server = Server::faulty(&dumped, "eio", pages(&dumped) / 2);
    // It may be killed before CRIU has let it go.
    let _ = dumped.restore();
    let (status, _, err) = server.finish();
    assert_eq!(status, Some(1), "{err}");
    assert!(err.contains("pages-1.img, offset "), "{err}");
    dumped.is_dead();
}

#[test]
fn images_that_are_cut_are_named_and_whole_again_serve() {
    let Some(dumped) = Dumped::new("simple", "1") else {
        return;
    };
    let pages = dumped.images().join("pages-1.img");
    let bytes = fs::metadata(&pages).unwrap().len();
    let pages_file = File::options().write(true).open(&pages).unwrap();
    let mut last = [0; 4096];
    File::open(&pages)
        .unwrap()
        .read_exact_at(&mut last, bytes - 4096)
        .unwrap();
    pages_file.set_len(bytes - 4096).unwrap();
    let server = Server::start(&dumped, &[], &[]);
    let _ = dumped.restore();
    let (status, _, err) = server.finish();
    assert_eq!(status, Some(1), "{err}");
    assert!(err.contains("pages-1.img, which has"), "{err}");
    dumped.is_dead();
    reap(dumped.pid);
    pages_file.write_all_at(&last, bytes - 4096).unwrap();
    let server = Server::start(&dumped, &[], &[]);
    dumped.restore().unwrap();
    assert_eq!(server.finish().0, Some(0));
    dumped.is_whole(&["root"]);
}

/// Connects as CRIU does, names a process and hands over a descriptor; then forks a
/// process that keeps the connection, and waits.
const OTHER_CRIU: &str = "\
import ctypes, fcntl, os, socket, struct, sys, time
path, pid, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fd = os.open('/dev/null', os.O_RDONLY) if kind == 'null' else ctypes.CDLL(None).syscall(323, 0o2004000)
if kind == 'uffd':
    fcntl.ioctl(fd, 0xc018aa3f, bytearray(struct.pack('QQQ', 0xaa, 0, 0)))
stream = socket.socket(socket.AF_UNIX)
stream.connect(path)
stream.send(struct.pack('<i', pid))
if os.fork():
    time.sleep(0.3)
    os._exit(0)
socket.send_fds(stream, [b'x'], [fd])
time.sleep(60)
";

#[test]
fn what_is_no_userfaultfd_is_refused_and_so_is_a_criu_that_has_gone() {
    let Some(dumped) = Dumped::new("simple", "1") else {
        return;
    };
    for (kind, words) in [
        ("null", "/dev/null is none"),
        ("uffd", "criu was killed before all processes were restored"),
    ] {
        let server = Server::start(&dumped, &[], &[]);
        let socket = dumped.images().join("lazy-pages.socket");
        let said = Command::new("python3")
            .args([
                "-c",
                OTHER_CRIU,
                text(&socket),
                &dumped.pid.to_string(),
                kind,
            ])
            .status()
            .unwrap();
        assert!(said.success(), "{said}");
        let (status, _, err) = server.finish();
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains(words), "{err}");
    }
    dumped.is_dead();
}

#[test]
fn who_says_something_else_on_the_socket_is_refused() {
    let Some(dumped) = Dumped::new("simple", "1") else {
        return;
    };
    for said in [&b"\x01\0\0\0\x01"[..], b"\x01\0", b""] {
        let server = Server::start(&dumped, &[], &[]);
        let socket = dumped.images().join("lazy-pages.socket");
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        std::io::Write::write_all(&mut stream, said).unwrap();
        drop(stream);
        let (status, _, err) = server.finish();
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains("lazy-pages.socket"), "{err}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_rewarm"))
        .args(["page-server", "--images", "/nowhere"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere"));
}
