"""The rows of podman: containers restored by unmodified podman, with CRIU alone and on a host set up by rewarm-podman."""
import contextlib
import os
import select
import shutil
import subprocess
import time

import loading
import storage
from report import at_least, row, skipped
from runner import Skip, say

IMAGE = "localhost/rewarm-bench"
MIB = 1024
# Of a container with device memory: that of the host, and that of the device.
WITH_DEVICE = (512, 512)
SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples", "podman", "rewarm-podman")
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
"""
STORAGE_CONF = """[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/runroot"
"""
WORDS = {"ready": 120, "pong": 120, "ok": 300}


class Host:
    """podman with storage of its own, and a set-up of rewarm-podman beside it; taken back with the block.

    With device memory, both sides have CRIU's CUDA plugin and the software driver; the plain one has no library of rewarm's in the
    process, so that its device memory goes through the driver and CRIU."""

    def __init__(self, runner, mib, device_mib):
        if os.geteuid():
            raise Skip("podman without root cannot checkpoint")
        for tool in ("podman", "runc"):
            if not shutil.which(tool):
                raise Skip(f"no {tool} (apt-get install {tool})")
        self.runner, self.mib, self.device_mib = runner, mib, device_mib
        self.folder = os.path.join(runner.disk_folder(), "podman")
        self.prefix = os.path.join(self.folder, "rewarm")
        os.makedirs(os.path.join(self.folder, "bin"))
        target = os.path.dirname(runner.library)
        self.driver = os.path.join(target, "sim", "libcuda.so.1")
        self.plugin = os.path.join(os.path.dirname(target), "criu-cuda-plugin", "cuda_plugin.so")
        for path in (self.driver, self.plugin) if device_mib else ():
            if not os.path.exists(path):
                raise Skip(f"no {path}")
        self.make_criu(os.path.join(self.folder, "bin", "criu"))
        for name, text in (("containers.conf", CONTAINERS_CONF), ("storage.conf", STORAGE_CONF)):
            with open(os.path.join(self.folder, name), "w") as file:
                file.write(text.format(folder=self.folder))
        plain_path = os.path.join(self.folder, "bin") + ":" + os.environ["PATH"]
        self.env = {"plain": self.environment(plain_path), "rewarm": self.environment(self.prefix + "/bin:" + plain_path)}

    def make_criu(self, path):
        """One whose CUDA plugin acts on the software driver, without NVIDIA's kernel module."""
        with open(path, "w") as file:
            more = f"export CRIU_FAULT=138 LD_LIBRARY_PATH='{os.path.dirname(self.driver)}'\n" if self.device_mib else ""
            file.write(f"#!/bin/sh\n{more}exec '{os.path.abspath(self.runner.criu())}' \"$@\"\n")
        os.chmod(path, 0o755)

    def options(self, side):
        """The beginning of `podman run`."""
        if side == "rewarm":
            return (SCRIPT, "run", "--prefix", self.prefix)
        if not self.device_mib:
            return ("podman", "run", "--runtime", "runc")
        plugins, config = os.path.join(self.folder, "plugins"), os.path.join(self.folder, "plain.conf")
        os.makedirs(plugins)
        os.symlink(self.plugin, os.path.join(plugins, "cuda_plugin.so"))
        os.symlink(os.path.join(os.path.dirname(self.runner.library), "cuda-checkpoint"), os.path.join(self.folder, "bin", "cuda-checkpoint"))
        with open(config, "w") as file:
            file.write(f"libdir {plugins}\n")
        return ("podman", "run", "--runtime", "runc", "--annotation", "org.criu.config=" + config)

    def environment(self, path):
        return {**os.environ, "PATH": path, "CONTAINERS_CONF": os.path.join(self.folder, "containers.conf"),
                "CONTAINERS_STORAGE_CONF": os.path.join(self.folder, "storage.conf")}

    def __enter__(self):
        self.run("rewarm", SCRIPT, "setup", "--prefix", self.prefix,
                 "--cuda-plugin", self.plugin if self.device_mib else "none", "--rewarm", os.path.dirname(self.runner.library))
        self.make_image()
        return self

    def __exit__(self, *_):
        for arguments in (("podman", "rm", "--all", "--force", "--time", "0"), (SCRIPT, "undo", "--prefix", self.prefix)):
            with contextlib.suppress(Skip):
                self.run("plain", *arguments)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, side, *command):
        # A container holds the streams that its command was given.
        with open(os.path.join(self.folder, "said"), "w+") as said:
            code = subprocess.run(command, env=self.env[side], stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=150,
                                  check=False).returncode
            said.seek(0)
            text = said.read()
        if code:
            raise Skip(f"{' '.join(command[:3])}: {' '.join(text.split())[-300:]}")
        return text

    def make_image(self):
        """The program, the driver, and what they and rewarm link with."""
        root, program = os.path.join(self.folder, "image"), self.runner.program("container")
        core = os.path.join(os.path.dirname(self.runner.library), "librewarm_core.so")
        linked = subprocess.run(["ldd", program, core], capture_output=True, text=True, check=True).stdout.splitlines()
        for path in {line.split()[-2] for line in linked if "(" in line and "/" in line}:
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            shutil.copy(path, root + path)
        shutil.copy(program, os.path.join(root, "container"))
        if self.device_mib:
            os.makedirs(root + "/driver")
            shutil.copy(self.driver, root + "/driver")
        for folder in ("data", "proc", "sys", "dev", "run", "tmp", "etc"):
            os.makedirs(os.path.join(root, folder), exist_ok=True)
        tar = os.path.join(self.folder, "image.tar")
        subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
        self.run("plain", "podman", "import", tar, IMAGE)


class Container:
    """One that is checkpointed once and restored again and again."""

    def __init__(self, host, side):
        self.host, self.side = host, side
        data = os.path.join(host.folder, side + "-data")
        os.makedirs(data)
        for name in ("in", "out"):
            os.mkfifo(os.path.join(data, name))
        self.input, self.output = (os.open(os.path.join(data, name), os.O_RDWR) for name in ("in", "out"))
        host.run(side, *host.options(side), "--detach", "--name", side, "--volume", data + ":/data", "--env", "LD_LIBRARY_PATH=/driver", IMAGE,
                 "/container", str(host.mib), "/data/in", "/data/out", str(host.device_mib))
        self.hear("ready")
        host.run(side, "podman", "container", "checkpoint", "--keep", side)
        mount = host.run(side, "podman", "inspect", "--format", "{{.StaticDir}}", side).strip()
        self.images = os.path.join(mount, "checkpoint")
        self.aside = os.path.join(host.folder, side + "-images")

    def hear(self, word):
        """The next line, which has to be that."""
        heard, until = b"", time.monotonic() + WORDS[word]
        while not heard.endswith(b"\n"):
            if not select.select([self.output], [], [], max(0, until - time.monotonic()))[0]:
                raise Skip(f"{self.side}: the container says nothing")
            heard += os.read(self.output, 4096)
        if heard.decode().strip() != word:
            raise Skip(f"{self.side}: {heard.decode().strip()}")

    def ask(self, line, word):
        os.write(self.input, line.encode() + b"\n")
        self.hear(word)

    def restored(self):
        """Seconds until podman is done, until the first reply, and until every byte was looked at."""
        begun = time.perf_counter()
        self.host.run(self.side, "podman", "container", "restore", "--keep", self.side)
        done = time.perf_counter()
        self.ask("ping", "pong")
        replied = time.perf_counter()
        self.ask("check", "ok")
        whole = time.perf_counter()
        self.end()
        return {"done": done - begun, "reply": replied - begun, "whole": whole - begun}

    def end(self):
        """`podman wait` would wait for conmon to be reaped, which takes the init of some machines long."""
        self.host.run(self.side, "podman", "stop", "--time", "0", self.side)

    @contextlib.contextmanager
    def slow(self):
        """The images from a file system where each request takes 1 ms, with nothing of them in the page cache."""
        os.rename(self.images, self.aside)
        os.mkdir(self.images)
        try:
            with storage.slow_mount(self.host.runner.program("slow-fs"), self.aside, self.images, loading.SLOW_LATENCY_US,
                                    loading.SLOW_BANDWIDTH):
                yield
        finally:
            os.rmdir(self.images)
            os.rename(self.aside, self.images)


def rows(when, found, target, verdict):
    def values(side, what):
        return [one[what] for one in found[side]]
    for what, name in (("reply", "until the first reply"), ("done", "podman container restore"), ("whole", "until every byte was read")):
        first = what == "reply"
        yield row("podman", f"{when}, {name}", "s", values("plain", what), values("rewarm", what), target if first else "",
                  verdict if first else None, better="lower", checked="bytes checked")


def restores(runner, seconds):
    """Restores of a container with 1 GiB of host memory, and of one with device memory, too."""
    yield from compared(runner, seconds / 2, MIB, 0)
    try:
        yield from compared(runner, seconds / 2, *WITH_DEVICE)
    except Skip as why:
        yield skipped("podman", "with device memory", str(why))


def compared(runner, seconds, mib, device_mib):
    """Restores of both sides, in turn."""
    container_of = f"container of {mib} MiB" + (f" and {device_mib} MiB on the device" if device_mib else "")
    with Host(runner, mib, device_mib) as host:
        containers = {side: Container(host, side) for side in ("plain", "rewarm")}
        for when, around, target, verdict in (
                ("warm", contextlib.nullcontext, "no slower (0.95x)", at_least(ratio=0.95)),
                ("slow mount (1 ms a request, 1 GB/s), cold", None, ">= 2x", at_least(ratio=2))):
            if device_mib and around is None:
                # The images alone would be slow, and not the snapshot that belongs to them.
                break
            found, begun, longest = {side: [] for side in containers}, time.perf_counter(), 0
            for number in range(2 if runner.options.quick else 5):
                started = time.perf_counter()
                if number and started - begun + longest > seconds / 2:
                    break
                for side in list(containers)[:: -1 if number % 2 else 1]:
                    container = containers[side]
                    try:
                        with (around or container.slow)():
                            found[side].append(container.restored())
                    except OSError as error:
                        yield skipped("podman", when, str(error))
                        return
                longest = max(longest, time.perf_counter() - started)
            say(f"  {container_of}, {when}: {len(found['plain'])} rounds, {time.perf_counter() - begun:.1f} s")
            yield from rows(f"{container_of}, {when}", found, target, verdict)
