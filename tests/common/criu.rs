//! CRIU for the tests: finding it, and dumping and restoring with it as anybody
//! would.

use super::cli::text;
use super::plugins::Plugins;
use super::{run, target};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// Longer than any dump or restore takes that is not stuck, in seconds.
const LONGEST: &str = "120";

/// The oldest CRIU that these tests work with.
const OLDEST: (u32, u32) = (4, 2);

/// The CRIU that checkpoints processes on this machine, or why there is none:
/// `REWARM_CRIU`, what `scripts/criu` unpacked, or the one on `PATH`.
pub fn can_checkpoint() -> Result<&'static Path, &'static str> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(find);
    found.as_deref().map_err(String::as_str)
}

/// The same; where there is none, says loudly that the test is skipped.
pub fn criu_or_skip() -> Option<&'static Path> {
    match can_checkpoint() {
        Ok(criu) => Some(criu),
        Err(why) => {
            eprintln!("SKIPPED, as no process can be checkpointed here: {why}");
            None
        }
    }
}

fn find() -> Result<PathBuf, String> {
    // SAFETY: has no requirements.
    if unsafe { libc::geteuid() } != 0 {
        return Err("it needs root".into());
    }
    let unpacked = target().join("criu/bin/criu");
    let criu = match std::env::var_os("REWARM_CRIU") {
        Some(given) => PathBuf::from(given),
        None if unpacked.exists() => unpacked,
        None => PathBuf::from("criu"),
    };
    let version = version_of(&criu)?;
    if version < OLDEST {
        return Err(format!(
            "{} is version {version:?}, older than {OLDEST:?}: run scripts/criu",
            criu.display()
        ));
    }
    said(Command::new(&criu).arg("check"))?;
    Ok(criu)
}

fn version_of(criu: &Path) -> Result<(u32, u32), String> {
    let said = said(Command::new(criu).arg("--version"))
        .map_err(|why| format!("{why}: run scripts/criu, or set REWARM_CRIU"))?;
    let numbers = said.lines().find_map(|line| line.strip_prefix("Version:"));
    let mut numbers = numbers.unwrap_or_default().trim().split('.');
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(format!("{} is no CRIU: run scripts/criu", criu.display())),
    }
}

/// Whether this kernel and CRIU have something that `criu check --feature` knows.
pub fn has(feature: &str) -> bool {
    can_checkpoint()
        .is_ok_and(|criu| said(Command::new(criu).args(["check", "--feature", feature])).is_ok())
}

/// Whether CRIU has the right to take processes of other users.
pub fn can_take_others() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let rights = rewarm::proc::status_line(std::process::id(), "CapEff:");
    let rights = rights.and_then(|rights| u64::from_str_radix(rights.trim(), 16).ok());
    rights.is_some_and(|rights| rights >> SYS_RESOURCE & 1 == 1)
}

/// What a command prints if it succeeds.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?}: {}", text(&output.stderr)))
    }
}

/// Dumps a tree of processes into a folder, which is made. Unless the options say
/// otherwise, CRIU kills them.
///
/// # Errors
/// The last lines of CRIU's log.
pub fn dump(pid: u32, images: &Path, options: &[&str]) -> Result<(), String> {
    let pid = pid.to_string();
    std::fs::create_dir_all(images).expect("the scratch folder is writable");
    act("dump", images, &[&["--tree", &pid], options].concat(), None)
}

/// Restores them. They become children of this process (see [`adopt`]).
///
/// # Errors
/// The last lines of CRIU's log.
pub fn restore(images: &Path, options: &[&str]) -> Result<(), String> {
    adopt();
    let options = [&["--restore-detached"], options].concat();
    act("restore", images, &options, None)
}

/// Has processes whose parents end become children of this one.
pub fn adopt() {
    // SAFETY: numbers only.
    let failed = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// A process and its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        for thread in threads.flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().flat_map(str::parse::<u32>));
        }
        next += 1;
    }
    found
}

/// Waits until processes that were killed are gone, so that their pids are free.
/// Those that are this process's children are reaped.
#[track_caller]
pub fn gone(pids: &[u32]) {
    for pid in pids {
        let is_gone = || {
            // SAFETY: only a child of ours is reaped.
            unsafe { libc::waitpid(*pid as i32, std::ptr::null_mut(), libc::WNOHANG) };
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        };
        if run::repeat(Duration::from_secs(60), is_gone).is_none() {
            panic!("process {pid} does not go");
        }
    }
}

/// `criu dump` or `criu restore`, with plugins or without.
///
/// # Errors
/// The last lines of CRIU's log.
pub fn act(
    action: &str,
    images: &Path,
    options: &[&str],
    plugins: Option<&Plugins>,
) -> Result<(), String> {
    let criu = can_checkpoint().expect("who has no CRIU skips");
    let log = format!("{action}.log");
    let mut command = Command::new("timeout");
    // Without plugins, the tests do what they want done themselves.
    let folder = plugins.map_or(images.to_owned(), Plugins::folder);
    if let Some(plugins) = plugins {
        command.envs(plugins.environment());
    }
    let output = command
        .args([LONGEST, text(criu), action, "--images-dir", text(images)])
        .args(["--libdir", text(&folder), "-v4", "--log-file", &log])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("coreutils are installed");
    if output.status.success() {
        return Ok(());
    }
    let log = std::fs::read_to_string(images.join(&log)).unwrap_or_default();
    let errors: Vec<_> = log.lines().filter(|line| line.contains("Error")).collect();
    Err(format!(
        "criu {action} {options:?}: {}\n{}\n{}",
        output.status,
        errors.join("\n"),
        String::from_utf8_lossy(&output.stderr)
    ))
}
