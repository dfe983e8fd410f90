//! Containers of plain runc: a bundle whose files are this machine's, with a program
//! on the software driver.

use super::cli::text;
use super::live::Live;
use super::plugins::Plugins;
use super::{Link, Scratch, app, criu, libraries, repository, target};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where snapshots go, as the program sees it.
pub const SNAPSHOTS: &str = "/snapshots";

/// Whether containers can be run here; if not, says so.
pub fn runc_or_skip() -> bool {
    let version = Command::new("runc").arg("--version").output();
    // SAFETY: has no requirements.
    let is_root = unsafe { libc::geteuid() } == 0;
    let why = match version {
        Err(_) => "runc is not installed: apt-get install runc",
        Ok(_) if !is_root => "it needs root",
        Ok(_) => return true,
    };
    eprintln!("SKIPPED, as no container can be run here: {why}");
    false
}

/// How a container is to be.
#[derive(Default)]
pub struct Wanted<'a> {
    /// Whether its program runs under rewarm, and can be frozen.
    pub rewarmed: bool,
    /// Where its control socket is, otherwise where it is by itself.
    pub run_dir: Option<&'a str>,
    /// Whether its bundle is one without rewarm, which `examples/runc` sets up.
    pub by_example: bool,
    /// Host's user that its root is, in a user namespace of its own.
    pub root_is: Option<u32>,
}

/// A container, its program, and how they were set up.
pub struct Container {
    /// Goes before the program's folder does.
    runtime: Runtime,
    /// The program.
    pub live: Live,
}

/// `runc` with what it finds on `PATH`, for one container.
struct Runtime {
    folder: PathBuf,
    plugins: Plugins,
}

impl Container {
    /// Starts one. Where CRIU's own CUDA plugin is given, it takes part.
    #[track_caller]
    pub fn start(wanted: &Wanted, cuda: Option<&Path>) -> Container {
        Self::start_by(wanted, cuda, |runtime| {
            if wanted.by_example {
                let output = example("set-up", &runtime.folder, cuda);
                assert!(output.status.success(), "{output:?}");
            }
            let bundle = runtime.folder.join("bundle");
            runtime.must("run", &["-d", "--bundle", text(&bundle)]);
        })
    }

    /// Starts one by commands that are typed, in a bundle without rewarm.
    #[track_caller]
    pub fn start_typed(block: &str, cuda: &Path) -> Container {
        let wanted = Wanted {
            by_example: true,
            ..Wanted::default()
        };
        Self::start_by(&wanted, Some(cuda), |runtime| {
            runtime.offer_commands();
            runtime.type_in(block, Some(cuda));
        })
    }

    #[track_caller]
    fn start_by(wanted: &Wanted, cuda: Option<&Path>, start: impl FnOnce(&Runtime)) -> Container {
        criu::adopt();
        let scratch = Scratch::new();
        let plugins = match cuda {
            Some(cuda) => Plugins::with_cuda(scratch.path(), cuda),
            None => Plugins::new(scratch.path()),
        };
        for folder in ["bundle/rootfs", "snapshots", "machine"] {
            fs::create_dir_all(scratch.file(folder)).expect("it is our folder");
        }
        let config = config(&scratch, wanted);
        let file = scratch.file("bundle/config.json");
        fs::write(file, config.to_string()).expect("it is our folder");
        if wanted.by_example {
            plugins.install(&scratch.file("opt"));
        }
        let options = format!("libdir {}\nfile-locks\n", text(&plugins.folder()));
        fs::write(scratch.file("criu.conf"), options).expect("it is our folder");
        // Absolute, as in many images.
        symlink("/run", scratch.file("bundle/rootfs/links")).expect("it is our folder");
        if let Some(user) = wanted.root_is {
            for folder in ["", "bundle", "bundle/rootfs", "snapshots", "machine"] {
                chown(scratch.file(folder), Some(user), Some(user)).expect("we are root");
            }
        }
        let folder = scratch.path().to_owned();
        let runtime = Runtime { folder, plugins };
        let live = Live::of_runtime(scratch, || {
            for pipe in ["input", "output"] {
                let owner = wanted.root_is;
                chown(runtime.folder.join(pipe), owner, owner).expect("we are root");
            }
            start(&runtime);
            runtime.pid()
        });
        Container { runtime, live }
    }

    /// Types commands that restore it.
    #[track_caller]
    pub fn restore_typed(&mut self, block: &str) {
        self.runtime.type_in(block, None);
        self.live.is_back_as(self.runtime.pid());
    }

    /// Types commands at whose end its program is no more.
    #[track_caller]
    pub fn end_typed(&mut self, block: &str) {
        self.runtime.type_in(block, None);
        self.live.is_gone();
    }

    /// Has the plugin start a script in the place of `rewarm`, which is `$rewarm` in it.
    pub fn instead_of_rewarm(&self, script: &str) {
        self.runtime.plugins.instead_of_rewarm(script);
    }

    /// What `runc state` says of it.
    pub fn status(&self) -> String {
        let output = self.runtime.command("state", &[]).output();
        let output = output.expect("coreutils are installed").stdout;
        let state: Value = serde_json::from_slice(&output).unwrap_or_default();
        state["status"].as_str().unwrap_or("not there").to_owned()
    }

    /// Removes what is left of a container whose program has ended.
    pub fn delete(&self) {
        self.runtime.run("delete", &["--force"]);
    }

    /// Lets the program end.
    #[track_caller]
    pub fn quit(mut self) {
        self.live.must("quit");
        let status = self.live.wait();
        assert!(status.success(), "{status}");
    }

    /// `examples/runc/rewarm-bundle` of its bundle.
    pub fn example(&self, action: &str) -> Output {
        example(action, self.live.scratch(), None)
    }

    /// A file of what belongs to it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.live.scratch().join(name)
    }

    /// `runc checkpoint`.
    #[track_caller]
    pub fn checkpoint(&mut self) {
        let images = self.file("images");
        let _ = fs::remove_dir_all(&images);
        let work = self.file("work");
        let places = ["--image-path", text(&images), "--work-path", text(&work)];
        self.runtime.must("checkpoint", &places);
        self.live.is_gone();
    }

    /// `runc restore`.
    #[track_caller]
    pub fn restore(&mut self) {
        assert!(self.try_restore(), "runc restore: {}", self.runtime.why());
        self.live.is_back_as(self.runtime.pid());
    }

    /// `runc restore`, and whether it succeeds.
    pub fn try_restore(&self) -> bool {
        let (images, work) = (self.file("images"), self.file("work"));
        let bundle = self.file("bundle");
        let places = ["--image-path", text(&images), "--work-path", text(&work)];
        let options = [&["-d", "--bundle", text(&bundle)], &places[..]].concat();
        self.runtime.run("restore", &options).status.success()
    }
}

fn example(action: &str, folder: &Path, cuda: Option<&Path>) -> Output {
    let mut command = Command::new(repository().join("examples/runc/rewarm-bundle"));
    command.envs(cuda.map(|plugin| ("CUDA_PLUGIN", plugin)));
    command
        .arg(action)
        .arg(folder.join("bundle"))
        .env("REWARM_FOLDER", folder.join("opt"))
        .stdin(Stdio::null())
        .output()
        .expect("it can be started")
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Its processes, if there are some yet, end; and runc forgets it.
        self.run("delete", &["--force"]);
    }
}

impl Runtime {
    fn command(&self, action: &str, options: &[&str]) -> Command {
        let states = self.folder.join("states");
        let mut command = Command::new("timeout");
        command.args(["120", "runc", "--root", text(&states), action]);
        command.args(options);
        if ["run", "restore"].contains(&action) {
            command.args(["--pid-file", text(&self.folder.join("pid"))]);
        }
        command
            .arg(self.name())
            .envs(self.plugins.environment())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, action: &str, options: &[&str]) -> Output {
        // With a pipe, this would wait for the container's end.
        let log = fs::File::create(self.folder.join("runc.log")).expect("it is our folder");
        let mut command = self.command(action, options);
        command.stdout(Stdio::null()).stderr(log);
        command.output().expect("coreutils are installed")
    }

    /// What is typed finds: `runc` with states of its own, and CRIU.
    fn offer_commands(&self) {
        let folder = self.folder.join("typed");
        fs::create_dir(&folder).expect("it is our folder");
        let script = format!(
            "#!/bin/sh\naction=$1\nshift\ncase $action in run | restore) set -- --pid-file '{0}/pid' \"$@\" ;; esac\n\
             real=$(PATH={1} && command -v runc)\nexec \"$real\" --root '{0}/states' \"$action\" \"$@\"\n",
            text(&self.folder),
            "${PATH#*typed:}"
        );
        let runc = folder.join("runc");
        fs::write(&runc, script).expect("it is our folder");
        fs::set_permissions(runc, fs::Permissions::from_mode(0o755)).expect("it is our file");
        for (name, place) in [
            ("criu", self.plugins.bin().join("criu")),
            ("rewarm", self.folder.join("opt/rewarm")),
        ] {
            if place.exists() {
                symlink(place, folder.join(name)).expect("it is our folder");
            }
        }
    }

    /// Types commands, in the repository. What one block exports, the next ones have.
    #[track_caller]
    fn type_in(&self, block: &str, cuda: Option<&Path>) {
        let exported = self.folder.join("exported");
        let before = fs::read_to_string(&exported).unwrap_or_default();
        let exports = block.lines().filter(|line| line.starts_with("export "));
        let exports: String = exports.map(|line| format!("{line}\n")).collect();
        fs::write(&exported, before.clone() + &exports).expect("it is our folder");
        let environment = self.plugins.environment();
        let log = fs::File::create(self.folder.join("runc.log")).expect("it is our folder");
        let mut path = self.folder.join("typed").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let status = Command::new("timeout")
            .args(["120", "sh", "-euc", &format!("{before}{block}")])
            .current_dir(repository())
            .envs(environment)
            .env("PATH", path)
            .envs(cuda.map(|plugin| ("CUDA_PLUGIN", plugin)))
            .env("REWARM_FOLDER", self.folder.join("opt"))
            .env("BUNDLE", self.folder.join("bundle"))
            .env("IMAGES", self.folder.join("images"))
            .env("WORK", self.folder.join("work"))
            .env("NAME", self.name())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .expect("coreutils are installed");
        assert!(status.success(), "{block}\n{}", self.why());
    }

    #[track_caller]
    fn must(&self, action: &str, options: &[&str]) {
        let output = self.run(action, options);
        assert!(output.status.success(), "runc {action}: {}", self.why());
    }

    /// Names of containers are those of control groups, too.
    fn name(&self) -> &str {
        text(Path::new(self.folder.file_name().expect("it has one")))
    }

    fn pid(&self) -> u32 {
        let pid = fs::read_to_string(self.folder.join("pid")).expect("runc has written it");
        pid.trim().parse().expect("it is a number")
    }

    /// What runc, CRIU and the program say.
    fn why(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let mut text = read("runc.log") + &read("stderr");
        for log in ["work/dump.log", "work/restore.log"] {
            let said = read(log);
            let errors = said.lines().filter(|line| line.contains("Error"));
            text += &errors
                .map(|line| format!("{log}: {line}\n"))
                .collect::<String>();
        }
        text
    }
}

/// `config.json`.
fn config(scratch: &Scratch, wanted: &Wanted) -> Value {
    let folder = text(scratch.path());
    let program = app("freeze", Link::Dlopen);
    let command = format!(
        "exec '{}' memory=tiny,own,zero <'{folder}/input' >'{folder}/output' 2>'{folder}/stderr'",
        text(&program)
    );
    let sim = libraries().join("sim");
    let mut environment = vec![
        "PATH=/usr/bin:/bin".to_owned(),
        format!("LD_LIBRARY_PATH={}", text(&sim)),
        format!("SIMCUDA_MACHINE={folder}/machine"),
    ];
    if wanted.rewarmed {
        let front = libraries().join("librewarm.so");
        environment.extend([
            format!("LD_PRELOAD={}", text(&front)),
            "REWARM_FREEZABLE=1".to_owned(),
            format!("REWARM_SNAPSHOT_DIR={SNAPSHOTS}"),
        ]);
    }
    let run_dir = wanted.run_dir.iter();
    environment.extend(run_dir.map(|folder| format!("REWARM_RUN_DIR={folder}")));
    let kinds = ["pid", "network", "ipc", "uts", "mount"];
    let mut namespaces: Vec<_> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({});
    if let Some(user) = wanted.root_is {
        namespaces.push(json!({ "type": "user" }));
        let mapping = json!([{ "containerID": 0, "hostID": user, "size": 1000 }]);
        linux["uidMappings"] = mapping.clone();
        linux["gidMappings"] = mapping;
    }
    linux["namespaces"] = json!(namespaces);
    let annotations = match wanted.by_example {
        true => json!({}),
        false => json!({ "org.criu.config": format!("{folder}/criu.conf") }),
    };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/sh", "-c", command],
            "env": environment,
            "cwd": "/",
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "box",
        "mounts": mounts(scratch),
        "linux": linux,
        "annotations": annotations,
    })
}

/// This machine's programs and libraries, read-only, and what the tests have built, without
/// what other tests have mounted there.
fn mounts(scratch: &Scratch) -> Vec<Value> {
    let bind = |from: &Path, to: &str, mode: &str| json!({ "destination": to, "source": from, "type": "bind", "options": ["bind", mode] });
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] }),
        json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] }),
        json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }),
    ];
    for name in ["usr", "lib", "lib64", "bin"] {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(link) => {
                symlink(link, scratch.file("bundle/rootfs").join(name)).expect("it is our folder")
            }
            Err(_) => mounts.push(bind(&path, text(&path), "ro")),
        }
    }
    for folder in [target(), libraries()] {
        mounts.push(bind(&folder, text(&folder), "rw"));
    }
    mounts.push(bind(&scratch.file("snapshots"), SNAPSHOTS, "rw"));
    mounts
}
