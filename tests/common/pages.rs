//! The pages of the documentation, and running what they tell to type.

use super::packages::can_run_as_root;
use super::{Scratch, cli, criu, libraries, repository, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A fenced block of a page.
pub struct Block {
    /// The word behind the fence: `sh`, `text`…
    pub language: String,
    /// Its line in the page, counted from 1.
    pub line: usize,
    /// What is between the fences.
    pub text: String,
}

/// The text of a page, named from the repository's root.
#[track_caller]
pub fn page(name: &str) -> String {
    let path = repository().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md and all pages below docs/ and examples/.
pub fn all() -> Vec<String> {
    let mut names = vec!["README.md".to_owned()];
    for folder in ["docs", "examples"] {
        let found = walkdir::WalkDir::new(repository().join(folder));
        for entry in found.sort_by_file_name() {
            let path = entry.expect("the repository can be read").into_path();
            if path.extension().is_some_and(|ending| ending == "md") {
                let name = path.strip_prefix(repository()).expect("it is in it");
                names.push(cli::text(name).to_owned());
            }
        }
    }
    names
}

/// The fenced blocks of a page.
pub fn blocks(name: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page(name).lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    line: number + 1,
                    text: String::new(),
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block does not end");
    blocks
}

/// The blocks of commands of a page, each below a comment that tells where it is.
#[track_caller]
pub fn commands(name: &str) -> Vec<String> {
    let shell = blocks(name)
        .into_iter()
        .filter(|block| block.language == "sh");
    let texts = shell.map(|block| format!(": {name}:{}\n{}", block.line, block.text));
    let texts: Vec<_> = texts.collect();
    assert!(!texts.is_empty(), "{name} has no commands");
    texts
}

/// A machine for typing commands: mount, network and PID namespaces of its own, in which
/// `/srv` and `/opt` are empty, rewarm lies in `/opt/rewarm`, a GPU of the software
/// driver is there, and what a command names is there, too, as small as it can be.
pub struct Machine {
    scratch: Scratch,
}

/// What is done before the commands of a page.
const PROLOGUE: &str = r#"
# The loopback device is up: SIOCSIFFLAGS with IFF_UP.
python3 -c "import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', 1))"
mount -t tmpfs none /srv
mount -t tmpfs none /opt
mkdir /srv/snapshots /srv/checkpoints /opt/rewarm
cp "$REWARM_BUILT"/rewarm "$REWARM_BUILT"/*.so "$REWARM_BUILT"/cuda-checkpoint /opt/rewarm
"#;

/// A command that waits until another one succeeds.
const UNTIL: &str = r#"#!/bin/sh
tries=0
until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || exit 1
    sleep 0.1
done
"#;

impl Machine {
    /// Makes it; without root there is none, and the test that asks is skipped loudly.
    pub fn new() -> Option<Machine> {
        if !can_run_as_root(&["unshare", "setsid"]) {
            return None;
        }
        let scratch = Scratch::new();
        fs::create_dir(scratch.file("bin")).expect("it is ours");
        Some(Machine { scratch }.program("until-it-succeeds", UNTIL))
    }

    /// The folder in which the commands run.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Puts a program on PATH.
    pub fn program(self, name: &str, script: &str) -> Machine {
        let path = self.scratch.file("bin").join(name);
        fs::write(&path, script).expect("it is ours");
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("it is ours");
        self
    }

    /// Puts a file into the folder.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Machine {
        fs::write(self.scratch.file(name), content).expect("it is ours");
        self
    }

    /// Runs a script and returns what it prints; a command that fails ends it, and
    /// the test.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let path = self.scratch.file("script");
        fs::write(&path, format!("{PROLOGUE}\n{script}")).expect("it is ours");
        let spaces = ["--mount", "--net", "--pid", "--fork", "--kill-child"];
        let mut command = Command::new("unshare");
        command
            .args(spaces)
            .arg("--mount-proc")
            .args(["setsid", "--wait", "sh", "-eux", cli::text(&path)])
            .current_dir(self.scratch.path())
            .env_clear()
            .envs(self.environment())
            .stdin(Stdio::null());
        // SAFETY: between fork and exec it makes one system call.
        unsafe { command.pre_exec(run::close_the_rest_at_exec) };
        let output = command.output().expect("util-linux is installed");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let traced = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}\n{traced}");
        told
    }

    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let own = |name: &str| self.scratch.file(name);
        let mut path = own("bin").into_os_string();
        path.push(":/opt/rewarm:");
        if let Ok(criu) = criu::can_checkpoint() {
            path.push(criu.parent().expect("it is a file in a folder"));
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        vec![
            ("PATH", path.into()),
            ("HOME", own("")),
            ("TMPDIR", own("")),
            ("REWARM_BUILT", libraries()),
            ("REWARM_RUN_DIR", own("run")),
            ("SIMCUDA_MACHINE", own("machine")),
            ("LD_LIBRARY_PATH", libraries().join("sim")),
            ("REPOSITORY", repository().into()),
        ]
    }
}
