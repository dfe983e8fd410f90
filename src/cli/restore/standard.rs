//! Standard input, output and error of restored processes whose pipes led out of
//! their tree: those of this command take their place.

use super::RestoreArgs;
use anyhow::{Context, Result};
use rewarm::checkpoint::Manifest;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};
use std::{ptr, thread};

/// What CRIU puts in the place of pipes.
pub(super) struct Standard {
    /// Inodes of the pipes, with the descriptors for them.
    pipes: Vec<(u32, OwnedFd)>,
    relays: Relays,
}

impl Standard {
    /// What a checkpoint asks for. This process must have one thread only. Where
    /// standard output is for JSON, standard error takes its place.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn of(manifest: &Manifest, args: &RestoreArgs) -> Result<Standard> {
        let mut relays = Relays(Vec::new());
        // What is written to one place keeps its order on one way.
        let is_joined = args.json || is_one_place(io::stdout().as_fd(), io::stderr().as_fd());
        let mut ends = BTreeMap::new();
        let mut pipes = Vec::new();
        for pipe in &manifest.pipes {
            let number = match pipe.standard {
                1 if is_joined => 2,
                number => number,
            };
            let end = match ends.entry(number) {
                Entry::Occupied(end) => end.into_mut(),
                Entry::Vacant(place) => {
                    let end = match number {
                        0 => relays.input(args.detach),
                        1 => relays.output(io::stdout().as_fd()),
                        _ => relays.output(io::stderr().as_fd()),
                    };
                    let cannot = || format!("cannot pass on descriptor {number}");
                    place.insert(end.with_context(cannot)?)
                }
            };
            let own = end.try_clone();
            pipes.push((pipe.inode, own.context("cannot copy a descriptor")?));
        }
        Ok(Standard { pipes, relays })
    }

    /// The options of `criu restore`.
    pub(super) fn options(&self) -> impl Iterator<Item = String> {
        self.pipes.iter().flat_map(|(inode, end)| {
            let name = format!("fd[{}]:pipe:[{inode}]", end.as_raw_fd());
            ["--inherit-fd".to_owned(), name]
        })
    }

    /// The descriptors that these name.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        self.pipes.iter().map(|(_, end)| end.as_raw_fd()).collect()
    }

    /// For the process that passes nothing on.
    pub(super) fn into_relays(self) -> Relays {
        self.relays
    }
}

/// Processes that copy between a pipe and a standard descriptor which CRIU cannot
/// open once more: it does so by its name in `/proc`, so that sockets fail, and files
/// would be written from their beginning. Terminals would be looked for by their
/// number after the next checkpoint. Relays end with the restored processes.
pub(super) struct Relays(Vec<i32>);

impl Relays {
    /// Standard input, or a pipe that comes from there. A terminal that others go on
    /// to read is theirs.
    fn input(&mut self, is_left_behind: bool) -> io::Result<OwnedFd> {
        let own = io::stdin();
        if is_left_behind && own.is_terminal() {
            return Ok(fs::File::open("/dev/null")?.into());
        }
        if can_be_opened_again(own.as_fd())? {
            return own.as_fd().try_clone_to_owned();
        }
        let (reader, writer) = io::pipe()?;
        self.start(own.as_fd(), writer.as_fd())?;
        Ok(reader.into())
    }

    /// Standard output or error, or a pipe that leads there.
    fn output(&mut self, own: BorrowedFd) -> io::Result<OwnedFd> {
        if can_be_opened_again(own)? {
            return own.try_clone_to_owned();
        }
        let (reader, writer) = io::pipe()?;
        self.start(reader.as_fd(), own)?;
        Ok(writer.into())
    }

    fn start(&mut self, from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
        // SAFETY: there is one thread, so the child can go on like this process.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => relay(from, to),
            pid => {
                self.0.push(pid);
                Ok(())
            }
        }
    }

    /// Waits until all that the processes have written is where it belongs, unless
    /// some of them live on.
    pub(super) fn finish(self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        const PAUSE: Duration = Duration::from_millis(2);
        let begun = Instant::now();
        for pid in self.0 {
            // SAFETY: no status is asked for. Who was waited for already is an error.
            while unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) } == 0
                && begun.elapsed() < PATIENCE
            {
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Whether two descriptors lead to the same file, pipe, socket or terminal.
fn is_one_place(one: BorrowedFd, other: BorrowedFd) -> bool {
    let place = |descriptor: BorrowedFd| {
        let found = fs::metadata(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
        Some((found.dev(), found.ino()))
    };
    place(one).is_some_and(|found| place(other) == Some(found))
}

/// Whether opening the name in `/proc` gives the same thing, and at once: of a pipe
/// with a name it waits for the other end. And the next checkpoint, too, has to find it.
fn can_be_opened_again(descriptor: BorrowedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let is_pipe = fs::read_link(&path)?.to_string_lossy().starts_with("pipe:");
    let is_device = fs::metadata(&path)?.file_type().is_char_device();
    Ok(is_pipe || is_device && !descriptor.is_terminal())
}

/// What is for this command and the processes. Reading a terminal in the background
/// stops a relay like everybody.
const IGNORED: [i32; 5] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGTERM,
    libc::SIGTTOU,
];

/// Copies until one of the two ends, and ends then, which the other one notices.
fn relay(from: BorrowedFd, to: BorrowedFd) -> ! {
    // SAFETY: numbers, and a text with its end. Whatever else is open, above all the
    // pipe's other end, is closed; nothing of it is used in this process any more.
    let (from, to) = unsafe {
        // It ends when all is copied, and is in the way of no file system.
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::chdir(c"/".as_ptr());
        libc::dup2(from.as_raw_fd(), 0);
        libc::dup2(to.as_raw_fd(), 1);
        libc::dup2(1, 2);
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        (OwnedFd::from_raw_fd(0), OwnedFd::from_raw_fd(1))
    };
    let _ = copy(from.into(), to.into());
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

fn copy(mut from: fs::File, mut to: fs::File) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        wait_for(&from, libc::POLLIN, &to, 0)?;
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(bytes) => rest = &rest[bytes..],
                Err(error) if is_passing(&error) => wait_for(&from, 0, &to, libc::POLLOUT)?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Who shares a descriptor may have made it one that does not wait.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}

/// Waits until one can be read or the other written.
///
/// # Errors
/// If nobody reads what is written any more.
fn wait_for(from: &fs::File, reads: i16, to: &fs::File, writes: i16) -> io::Result<()> {
    let poll = |file: &fs::File, events| libc::pollfd {
        fd: file.as_raw_fd(),
        events,
        revents: 0,
    };
    // Whose end is not asked for now would end the wait again and again.
    let from = (reads != 0).then(|| poll(from, reads));
    let mut both: Vec<_> = [poll(to, writes)].into_iter().chain(from).collect();
    // SAFETY: a list with its length.
    unsafe { libc::poll(both.as_mut_ptr(), both.len() as libc::nfds_t, -1) };
    match both[0].revents & (libc::POLLERR | libc::POLLHUP) {
        0 => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
