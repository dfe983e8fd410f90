//! `cuCheckpointProcess*`, for this process and, over a socket, for others.

use crate::codes::{
    Answer, CUresult, ERROR_INVALID_VALUE, ERROR_NOT_INITIALIZED, ERROR_OPERATING_SYSTEM, SUCCESS,
    fail, require,
};
use crate::entry::driver_calls;
use crate::ffi::{In, Out};
use crate::journal::tid;
use crate::world::{self, World};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::Ordering;

/// What is asked of a process.
#[derive(Clone, Copy)]
enum Request {
    State = 0,
    RestoreThread = 1,
    Lock = 2,
    Checkpoint = 3,
    Restore = 4,
    Unlock = 5,
}

const REQUESTS: [Request; 6] = [
    Request::State,
    Request::RestoreThread,
    Request::Lock,
    Request::Checkpoint,
    Request::Restore,
    Request::Unlock,
];

/// Name of the thread that answers other processes: as long as a name can be.
const RESTORE_THREAD: &str = "simcuda-restore";

/// The socket of a process, which goes when the process does.
fn address(pid: i32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("simcuda-checkpoint-{pid}"))
}

/// Starts the thread that answers other processes. Without a socket the process cannot be reached.
pub fn serve(world: &'static World) {
    let listener =
        address(std::process::id() as i32).and_then(|address| UnixListener::bind_addr(&address));
    let Ok(listener) = listener else { return };
    let (started, start) = std::sync::mpsc::channel();
    let answer_all = move || {
        world
            .checkpoint
            .restore_thread
            .store(tid(), Ordering::Release);
        let _ = started.send(());
        for mut client in listener.incoming().flatten() {
            // A client that goes away early is its own problem.
            let _ = answer(world, &mut client);
        }
    };
    let thread = std::thread::Builder::new()
        .name(RESTORE_THREAD.into())
        .spawn(answer_all);
    if thread.is_ok() {
        let _ = start.recv();
    }
}

/// A request is two numbers, what and its argument; an answer is two, the code and the value.
fn answer(world: &'static World, client: &mut UnixStream) -> std::io::Result<()> {
    let mut words = [0; 8];
    client.read_exact(&mut words)?;
    let [request, argument] = split(words);
    let result = match REQUESTS.get(request as usize) {
        Some(request) => here(world, *request, argument),
        None => Err(ERROR_INVALID_VALUE),
    };
    let (code, value) = match result {
        Ok(value) => (SUCCESS, value),
        Err(code) => (code, 0),
    };
    client.write_all(&join(code, value))
}

fn split(words: [u8; 8]) -> [u32; 2] {
    let all = u64::from_ne_bytes(words);
    [all as u32, (all >> 32) as u32]
}

fn join(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_ne_bytes()
}

fn here(world: &'static World, request: Request, argument: u32) -> Answer<u32> {
    let checkpoint = &world.checkpoint;
    match request {
        Request::State => Ok(checkpoint.state()),
        Request::RestoreThread => Ok(checkpoint.restore_thread.load(Ordering::Acquire) as u32),
        Request::Lock => checkpoint.lock(world, argument).map(|()| 0),
        Request::Checkpoint => checkpoint.checkpoint(world).map(|()| 0),
        Request::Restore => checkpoint.restore(world).map(|()| 0),
        Request::Unlock => checkpoint.unlock().map(|()| 0),
    }
}

/// Names of sockets are a network namespace's own, and pids in them the process's own.
fn connect(pid: i32) -> std::io::Result<UnixStream> {
    let own_pid =
        status_of(pid, "NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse().ok());
    let address = address(own_pid.unwrap_or(pid))?;
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let there = network(&pid.to_string());
    if there.is_none() || there == network("self") {
        return UnixStream::connect_addr(&address);
    }
    let connect_there = || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
        // SAFETY: an open descriptor. It is this thread that changes, and ends.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        UnixStream::connect_addr(&address)
    };
    std::thread::scope(|scope| scope.spawn(connect_there).join())
        .unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
}

/// A line of `/proc/PID/status`.
fn status_of(pid: i32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.to_owned())
}

/// A process that cannot be reached does not use this driver.
fn there(pid: i32, request: Request, argument: u32) -> Answer<u32> {
    let talk = || -> std::io::Result<[u32; 2]> {
        let mut server = connect(pid)?;
        server.write_all(&join(request as u32, argument))?;
        let mut words = [0; 8];
        server.read_exact(&mut words)?;
        Ok(split(words))
    };
    match talk() {
        Ok([SUCCESS, value]) => Ok(value),
        Ok([code, _]) => fail::<u32>(code as CUresult),
        Err(_) => fail(ERROR_NOT_INITIALIZED),
    }
}

/// The process that a thread belongs to, if it exists and is not another user's.
fn process_of(thread: i32) -> Answer<i32> {
    let number = |name: &str| -> Option<u32> {
        let line = status_of(thread, name)?;
        line.split_whitespace().next()?.parse().ok()
    };
    // SAFETY: has no requirements.
    let own = unsafe { libc::geteuid() };
    require(
        own == 0 || number("Uid:") == Some(own),
        ERROR_OPERATING_SYSTEM,
    )?;
    let process = number("Tgid:").ok_or(ERROR_OPERATING_SYSTEM)?;
    Ok(process as i32)
}

/// These calls work before `cuInit`, as their use on other processes needs no device.
fn ask(thread: i32, request: Request, argument: u32) -> Answer<u32> {
    let pid = process_of(thread)?;
    if pid == std::process::id() as i32 {
        return here(world::current()?, request, argument);
    }
    match request {
        // Whoever stops all threads but that one asks for it.
        Request::RestoreThread => restore_thread_of(pid).ok_or(ERROR_NOT_INITIALIZED),
        _ => there(pid, request, argument),
    }
}

/// Found from outside: the process may be stopped.
fn restore_thread_of(pid: i32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads.flatten().find_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let is_it = name.trim_end() == RESTORE_THREAD;
        is_it.then(|| thread.file_name())?.to_str()?.parse().ok()
    })
}

fn lock(pid: i32, arguments: In<u32>) -> Answer {
    let timeout = if arguments.given() {
        arguments.get()?
    } else {
        0
    };
    ask(pid, Request::Lock, timeout).map(drop)
}

driver_calls! {
    /// The state of a process.
    free fn cuCheckpointProcessGetState(pid: i32, state: Out<u32>) = |_world| state.put(ask(pid, Request::State, 0)?);
    /// The thread of a process that must run while the others are frozen.
    free fn cuCheckpointProcessGetRestoreThreadId(pid: i32, thread: Out<u32>) = |_world| thread.put(ask(pid, Request::RestoreThread, 0)?);
    /// Blocks the calls of a process; the arguments begin with a time limit in milliseconds.
    free fn cuCheckpointProcessLock(pid: i32, arguments: In<u32>) = |_world| lock(pid, arguments);
    /// Takes device memory to host memory.
    free fn cuCheckpointProcessCheckpoint(pid: i32, arguments: In<u64>) = |_world| ask(pid, Request::Checkpoint, 0).map(drop);
    /// Brings it back.
    free fn cuCheckpointProcessRestore(pid: i32, arguments: In<u64>) = |_world| ask(pid, Request::Restore, 0).map(drop);
    /// Lets calls go on.
    free fn cuCheckpointProcessUnlock(pid: i32, arguments: In<u64>) = |_world| ask(pid, Request::Unlock, 0).map(drop);
}
