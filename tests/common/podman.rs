//! podman with storage, settings and a set-up of rewarm of its own, in a scratch folder.

use super::cli::{stderr, text};
use super::{Link, Scratch, app, criu, libraries, plugins, repository, until};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

/// The name of the image.
pub const IMAGE: &str = "localhost/freeze";

/// What its containers run: they are spoken to through named pipes in a volume.
const COMMAND: &str =
    r#"["sh", "-c", "exec freeze memory=small,own,zero <>/data/in 1<>/data/out"]"#;

/// podman, all of whose files are in a folder.
pub struct Podman {
    scratch: Scratch,
    cuda_plugin: PathBuf,
}

impl Podman {
    /// `None` where no containers can be checkpointed; then says loudly why.
    pub fn or_skip() -> Option<Podman> {
        let criu = criu::criu_or_skip()?;
        let cuda_plugin = plugins::cuda_plugin_or_skip()?;
        for tool in ["podman", "runc"] {
            let found = Command::new(tool)
                .arg("--version")
                .stdout(Stdio::null())
                .status();
            if !found.is_ok_and(|status| status.success()) {
                eprintln!("SKIPPED, as there is no {tool}: run apt-get install podman runc");
                return None;
            }
        }
        let podman = Podman {
            scratch: Scratch::new(),
            cuda_plugin,
        };
        podman.write_settings(criu);
        podman.make_image();
        Some(podman)
    }

    /// A file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// Where rewarm is set up.
    pub fn prefix(&self) -> PathBuf {
        self.file("rewarm")
    }

    /// The folder of snapshots.
    pub fn store(&self) -> PathBuf {
        self.prefix().join("store")
    }

    /// What is in it.
    pub fn snapshots(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).expect("it was set up");
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Storage, limits that this user may set, no network, and a `criu` to whose
    /// plugins the software driver is the one.
    fn write_settings(&self, criu: &Path) {
        let write = |name: &str, content: String| fs::write(self.file(name), content).unwrap();
        let path = |name: &str| text(&self.file(name)).to_owned();
        write(
            "containers.conf",
            format!(
                "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\nnetns = \"none\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\ntmp_dir = \"{}\"\n",
                path("tmp")
            ),
        );
        write(
            "storage.conf",
            format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
                path("root"),
                path("runroot")
            ),
        );
        // `CRIU_FAULT`: the CUDA plugin acts without NVIDIA's kernel module, too.
        write(
            "criu",
            format!(
                "#!/bin/sh\nexport CRIU_FAULT=138 LD_LIBRARY_PATH='{}'\nexec {} \"$@\"\n",
                text(&libraries().join("sim")),
                text(criu)
            ),
        );
        fs::set_permissions(self.file("criu"), fs::Permissions::from_mode(0o755)).unwrap();
        self.write_command("commands", &format!("--prefix '{}'", text(&self.prefix())));
        self.write_command("defaults", "");
    }

    /// The docs name the script alone: one of that name, in a folder, with an option.
    fn write_command(&self, folder: &str, option: &str) {
        let command = self.file(folder).join("rewarm-podman");
        fs::create_dir(self.file(folder)).unwrap();
        let script = format!(
            "#!/bin/sh\nset -- \"$@\" && command=$1 && shift\nmore=\ncase $command in setup | check) more='{}' ;; esac\n\
             # shellcheck disable=SC2086\nexec '{}' \"$command\" {option} $more \"$@\"\n",
            self.host_options().join(" "),
            text(&script()),
        );
        fs::write(&command, script).unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a script of the shell on a host of its own, as far as files go: what it makes
    /// in the system's folders is in memory, and nobody else sees it. What it says goes
    /// to a file, as a container holds the streams that its command was given.
    pub fn on_a_host_of_its_own(&self, script: &str) -> (ExitStatus, PathBuf) {
        let layers = self.file("layers");
        fs::create_dir(&layers).unwrap();
        let mut whole = format!(
            "set -eux\nmount -t tmpfs layers '{0}'\ncd '{0}'\n",
            text(&layers)
        );
        for (name, folder) in [
            ("etc", "/etc"),
            ("lib", "/var/lib"),
            ("local", "/usr/local"),
        ] {
            whole += &format!(
                "mkdir {name} {name}.work\n\
                 mount -t overlay -o lowerdir={folder},upperdir=$PWD/{name},workdir=$PWD/{name}.work overlay {folder}\n"
            );
        }
        let said = self.file("said");
        let out = File::create(&said).unwrap();
        let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let status = self
            .command("unshare")
            .args(["--mount", "sh", "-c", &(whole + script)])
            .env("PATH", format!("{}:{usual}", text(&self.file("defaults"))))
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .status()
            .expect("unshare is of util-linux");
        (status, said)
    }

    /// What `setup` and `check` cannot find by themselves on a machine without an
    /// installation.
    fn host_options(&self) -> [String; 6] {
        let (libraries, criu) = (libraries(), self.file("criu"));
        [
            ("--rewarm", &libraries),
            ("--criu", &criu),
            ("--cuda-plugin", &self.cuda_plugin),
        ]
        .map(|(option, path)| [option.to_owned(), text(path).to_owned()])
        .concat()
        .try_into()
        .expect("three options")
    }

    /// The test programs, the C library, a shell and the software driver.
    fn make_image(&self) {
        let root = self.file("image");
        let loader = ["/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        let names = [
            "libc.so.6",
            "libdl.so.2",
            "libpthread.so.0",
            "libm.so.6",
            "libgcc_s.so.1",
        ];
        let libraries_of_c = names.map(library_of_c);
        for (folder, files) in [
            ("lib64", &loader[..]),
            ("lib/x86_64-linux-gnu", &libraries_of_c),
            ("bin", &[PathBuf::from("/bin/sh")]),
            ("driver", &[libraries().join("sim/libcuda.so.1")]),
        ] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).unwrap();
            for file in files {
                let name = file.file_name().expect("a file");
                fs::copy(file, folder.join(name))
                    .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            }
        }
        for program in ["freeze", "connected"] {
            let to = root.join("bin").join(program);
            fs::copy(app(program, Link::Dlopen), to).unwrap();
        }
        for folder in ["tmp", "data", "proc", "sys", "dev", "run", "etc"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        let tar = self.file("image.tar");
        let packed = Command::new("tar")
            .args(["-C", text(&root), "-cf", text(&tar), "."])
            .status()
            .expect("tar is installed");
        assert!(packed.success());
        self.podman(&[
            "import",
            "--change",
            &format!("CMD {COMMAND}"),
            "--change",
            "ENV LD_LIBRARY_PATH=/driver",
            text(&tar),
            IMAGE,
        ]);
        fs::remove_file(tar).unwrap();
    }

    /// The option of podman for a network of its own, with nothing but loopback: without
    /// one, a restored container's is down.
    pub fn network_or_skip(&self) -> Option<String> {
        let file = self.file("network");
        fs::write(&file, "").unwrap();
        let made = Command::new("unshare")
            .arg(format!("--net={}", text(&file)))
            .args(["ip", "link", "set", "lo", "up"])
            .status();
        if !made.is_ok_and(|made| made.success()) {
            eprintln!("SKIPPED, as no network can be made: run apt-get install iproute2 iptables");
            return None;
        }
        Some(format!("--network=ns:{}", text(&file)))
    }

    /// A program in podman's environment, on the `PATH` that a set-up wants.
    pub fn command(&self, program: &str) -> Command {
        let mut path = OsString::new();
        for folder in [self.prefix().join("bin"), self.file("commands")] {
            path.push(folder);
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .env("CONTAINERS_CONF", self.file("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.file("storage.conf"))
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null());
        command
    }

    /// Runs it: what it says on both of its streams, and whether it succeeds.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        // A container holds the pipe that a command was given as its error stream.
        let (out, err) = (self.file("stdout"), self.file("stderr"));
        let status = self
            .command(program)
            .args(arguments)
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .status()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let [stdout, stderr] = [out, err].map(|file| fs::read(file).unwrap());
        Output {
            status,
            stdout,
            stderr,
        }
    }

    #[track_caller]
    fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        if !output.status.success() {
            panic!(
                "{program} {arguments:?}: {}\n{}\n{}",
                output.status,
                stderr(&output),
                self.logs()
            );
        }
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// `podman ARGUMENTS`, which has to succeed.
    #[track_caller]
    pub fn podman(&self, arguments: &[&str]) -> String {
        self.must("podman", arguments)
    }

    /// `rewarm-podman ARGUMENTS`, which has to succeed.
    #[track_caller]
    pub fn rewarm(&self, arguments: &[&str]) -> String {
        self.must("rewarm-podman", arguments)
    }

    /// The lines of CRIU's logs that tell of errors.
    pub fn logs(&self) -> String {
        let mut found = String::new();
        let containers = fs::read_dir(self.file("root/overlay-containers"));
        for container in containers.into_iter().flatten().flatten() {
            for name in ["dump.log", "restore.log", "rewarm-pages.log"] {
                let log = container.path().join("userdata").join(name);
                let log = fs::read_to_string(log).unwrap_or_default();
                let is_told = |line: &&str| name.starts_with("rewarm") || line.contains("Error");
                for line in log.lines().filter(is_told) {
                    found += &format!("{name}: {line}\n");
                }
            }
        }
        found
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.output("podman", &["rm", "--all", "--force", "--time", "0"]);
        // Where the storage driver has made a mount of its folder.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = text(self.scratch.path());
        for mount in mounts.lines().rev() {
            if let Some(place) = mount
                .split(' ')
                .nth(1)
                .filter(|place| place.starts_with(own))
            {
                let _ = Command::new("umount").arg(place).status();
            }
        }
    }
}

/// The script under test.
pub fn script() -> PathBuf {
    repository().join("examples/podman/rewarm-podman")
}

fn library_of_c(name: &str) -> PathBuf {
    let folders = ["/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"];
    let mut places = folders.iter().map(|folder| Path::new(folder).join(name));
    let found = places.find(|place| place.exists());
    found.unwrap_or_else(|| panic!("{name} is in none of {folders:?}"))
}

/// The two named pipes of a container, in the folder that is its volume.
pub struct Pipes {
    folder: PathBuf,
    input: File,
    output: File,
    unread: String,
}

impl Pipes {
    /// New ones.
    pub fn new(podman: &Podman, name: &str) -> Pipes {
        let folder = podman.file(name);
        fs::create_dir(&folder).unwrap();
        let open = |name: &str| {
            let path = folder.join(name);
            let made = Command::new("mkfifo").arg(&path).status();
            assert!(made.is_ok_and(|status| status.success()), "mkfifo");
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK);
            options.open(path).unwrap()
        };
        let (input, output) = (open("in"), open("out"));
        Pipes {
            folder,
            input,
            output,
            unread: String::new(),
        }
    }

    /// The option of podman that gives a container the pipes.
    pub fn volume(&self) -> String {
        format!("--volume={}:/data", text(&self.folder))
    }

    /// Lets every user of a container talk through them.
    pub fn open_to_all(&self) {
        for name in ["in", "out"] {
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(self.folder.join(name), mode).unwrap();
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The next line that the container prints.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        until("the container answers", || {
            let mut bytes = [0; 4096];
            let read = self.output.read(&mut bytes).unwrap_or(0);
            self.unread += &String::from_utf8_lossy(&bytes[..read]);
            self.unread.contains('\n')
        });
        let (line, rest) = self.unread.split_once('\n').expect("there is a line");
        let (line, rest) = (line.to_owned(), rest.to_owned());
        self.unread = rest;
        line
    }

    /// Sends a line without waiting for the answer.
    pub fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the pipe has room");
    }

    /// Sends a line and returns the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }
}

/// Programs for a `PATH` of few: links to the host's, and scripts.
pub fn path_of(folder: &Path, scripts: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    let tools = [
        "sh", "id", "sed", "sort", "head", "printf", "dirname", "readlink", "find", "grep",
        "mkdir", "ln", "chmod", "mv", "rm", "rmdir", "cat", "tr", "paste",
    ];
    for tool in tools {
        let places = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        if let Some(place) = places.iter().find(|place| place.exists()) {
            symlink(place, folder.join(tool)).unwrap();
        }
    }
    for (name, script) in scripts {
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
