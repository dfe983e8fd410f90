//! The container image: built from local files, it puts rewarm on a node, as root
//! without any right of root's.

mod common;

use common::cli::{stderr, text};
use common::packages::{can_run_as_root, copy_of_the_repository, output, script, succeeds};
use common::{Link, Scratch, app, repository};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// podman with a storage of its own.
struct Podman<'a>(&'a Scratch);

impl Podman<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut podman = Command::new("podman");
        podman
            .args(["--root", text(&self.0.file("storage"))])
            .args(["--runroot", text(&self.0.file("state"))])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file", "--runtime", "runc"])
            .args(arguments);
        podman
    }

    /// Of the image, as the DaemonSet runs it.
    fn run(&self, arguments: &[&str]) -> Command {
        let host = format!("{}:/host", self.0.file("host").display());
        let mut run = self.command(&["run", "--rm", "--network=none", "--cap-drop=all"]);
        run.args(["--read-only", "--security-opt=no-new-privileges"])
            .args([
                "--ulimit",
                "nofile=4096:4096",
                "--ulimit",
                "nproc=4096:4096",
            ])
            .args(["-v", &host, "localhost/rewarm"])
            .args(arguments);
        run
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // What is mounted is podman's to unmount; the files go with the folder.
        let _ = self.command(&["rm", "--all", "--force"]).output();
    }
}

/// In the place of Debian, for which there is no registry: a shell and the C library.
fn base_image(podman: &Podman) {
    let folder = podman.0.file("base");
    for path in ["bin", "lib64", "usr/bin", "tmp"] {
        fs::create_dir_all(folder.join(path)).unwrap();
    }
    let busybox = folder.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).unwrap();
    succeeds(
        Command::new("chroot")
            .arg(&folder)
            .args(["/bin/busybox", "--install", "-s", "/bin"]),
    );
    let libraries = succeeds(Command::new("ldd").arg(env!("CARGO_BIN_EXE_rewarm")));
    for library in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let path = folder.join(&library[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(library, path).unwrap();
    }
    let tar = podman.0.file("base.tar");
    succeeds(Command::new("tar").args(["-C", text(&folder), "-cf", text(&tar), "."]));
    succeeds(&mut podman.command(&["import", text(&tar), "localhost/base"]));
}

fn build(podman: &Podman, copy: &Path) {
    succeeds(&mut script(copy, "package", &["--built", "tree"]));
    let mut build = podman.command(&["build", "--quiet", "-f", "packaging/Containerfile"]);
    build
        .args([
            "--build-arg",
            "TREE=prebuilt",
            "--build-arg",
            "BASE=localhost/base",
        ])
        .args(["-t", "localhost/rewarm", "."])
        .current_dir(copy);
    succeeds(&mut build);
}

/// What a pod's process reads its commands from, and says its answers to.
const SERVE: &str = "\
mkfifo /tmp/in
sleep 1000 >/tmp/in &
/programs/freeze memory=plain,pool </tmp/in >/tmp/out
";

/// The commands of docs/kubernetes.md.
const USE: &str = "\
answers() { until [ $(wc -l </tmp/out) = $1 ]; do sleep 0.05; done; }
answers 1
mkdir -m 700 /snapshots/serve
rewarm freeze --pid 1 --tree --to /snapshots/serve
rewarm status
rewarm thaw --pid 1 --tree --wait
echo check >/tmp/in
answers 2
tail -n 1 /tmp/out
";

/// With the settings of `examples/kubernetes/pod.yaml`: an ordinary user, no rights, a
/// root that cannot be written to, and the folders that the DaemonSet has made.
#[track_caller]
fn a_pod_is_frozen_and_thawed(podman: &Podman, placed: &Path) {
    let manifest = fs::read_to_string(repository().join("examples/kubernetes/pod.yaml")).unwrap();
    for setting in [
        "runAsUser: 1000",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
    ] {
        assert!(manifest.contains(setting), "{setting}");
    }
    let programs = app("freeze", Link::Dlopen);
    let inside = format!("/opt/rewarm/{}", env!("CARGO_PKG_VERSION"));
    let folder = |from: &Path, to: &str| format!("{}:{to}", from.canonicalize().unwrap().display());
    // As the kubelet makes an emptyDir.
    let empty = |name: &str| {
        let path = podman.0.file(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        folder(&path, &format!("/{name}"))
    };
    let mut run = podman.command(&["run", "--detach", "--rm", "--name=serve", "--network=none"]);
    run.args(["--user=1000:1000", "--cap-drop=all", "--read-only"])
        .args([
            "--read-only-tmpfs=false",
            "--security-opt=no-new-privileges",
        ])
        .args(["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"])
        .args(["-v", &empty("tmp"), "-v", &empty("cache")])
        .args(["-v", &format!("{}:ro", folder(placed, &inside))])
        .args([
            "-v",
            &folder(&podman.0.file("host/snapshots"), "/snapshots"),
        ])
        .args(["-v", &format!("{}:/programs/freeze:ro", text(&programs))])
        .args([
            "--env",
            &format!("LD_PRELOAD={inside}/lib/rewarm/librewarm.so"),
        ])
        .args(["--env=CRIU_CUDA_CONTEXT_POOL=1", "--env=REWARM_FREEZABLE=1"])
        .args([
            "--env=HOME=/cache",
            "--env",
            &format!("LD_LIBRARY_PATH={inside}/lib/rewarm/sim"),
        ])
        .args(["--entrypoint=/bin/sh", "localhost/rewarm", "-c", SERVE]);
    succeeds(&mut run);
    let path = format!("PATH={inside}/bin:/bin");
    let exec = ["exec", "--env", &path, "serve", "sh", "-eux", "-c", USE];
    let said = succeeds(&mut podman.command(&exec));
    assert!(
        said.contains("frozen") && said.ends_with("\nok\n"),
        "{said}"
    );
    succeeds(&mut podman.command(&["kill", "serve"]));
}

#[test]
fn the_image_puts_whole_versions_on_a_node() {
    if !can_run_as_root(&["podman", "runc", "busybox", "strip"]) {
        return;
    }
    let is_static = succeeds(Command::new("sh").args(["-c", "ldd /bin/busybox 2>&1 || true"]));
    if !is_static.contains("not a dynamic executable") {
        eprintln!("SKIPPED: busybox is not static: apt-get install busybox-static");
        return;
    }
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    let podman = Podman(&scratch);
    base_image(&podman);
    build(&podman, &copy);
    fs::create_dir_all(scratch.file("host")).unwrap();

    let install = ["install", "/host/rewarm", "--snapshots", "/host/snapshots"];
    let version = env!("CARGO_PKG_VERSION");
    let path = format!("/host/rewarm/{version}\n");
    assert_eq!(succeeds(&mut podman.run(&install)), path);
    let placed = scratch.file("host/rewarm").join(version);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&scratch.file("host/snapshots")), 0o1777);
    assert_eq!(mode(&placed), 0o755);
    let run = ["run", "--sim", "--", "printenv", "LD_PRELOAD"];
    let preloaded = succeeds(
        Command::new(placed.join("bin/rewarm"))
            .args(run)
            .env_remove("LD_PRELOAD"),
    );
    let front = placed.join("lib/rewarm/librewarm.so");
    assert_eq!(preloaded.trim(), text(&front.canonicalize().unwrap()));
    // The manifests name this path.
    let pod = fs::read_to_string(repository().join("examples/kubernetes/pod.yaml")).unwrap();
    assert!(pod.contains(&format!("/opt/rewarm/{version}/lib/rewarm/librewarm.so")));

    a_pod_is_frozen_and_thawed(&podman, &placed);

    // Once more: what is there stays, the very same file.
    let number = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = number(&front);
    assert_eq!(succeeds(&mut podman.run(&install)), path);
    assert_eq!(number(&front), before);
    assert_eq!(
        fs::read_dir(scratch.file("host/rewarm")).unwrap().count(),
        1
    );
    // Another build under the same version is not put over it.
    fs::write(&front, "another build").unwrap();
    let refused = output(&mut podman.run(&install));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        stderr(&refused).contains("librewarm.so is not that of this image"),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(&front).unwrap(), "another build");

    let shown = succeeds(&mut podman.run(&["--version"]));
    assert_eq!(shown, format!("rewarm {version}\n"));
}
