"""The program whose cold start is measured: the C program `holder`, or the user's own server."""
import os
import re
import select
import subprocess
import threading
import time

from live import Restorable
from runner import Skip
from started import reap_all, tree

MOST_OUTPUT = 1 << 20  # bytes of a server's output that are kept


class WrongAnswer(Exception):
    """The program answers, but not as it did before."""


class Measured(Restorable):
    """A program that is ended by the record of what was started, with all its descendants."""

    def begin(self, command, environment):
        child = super().begin(command, environment)
        self.runner.started.add(child.pid)
        return child

    def leaves(self):
        super().leaves()
        self.exe = os.readlink(f"/proc/{self.pid}/exe")

    def is_back(self):
        """Whether it runs again: until then a process that CRIU restores has CRIU's own program."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe") == self.exe
        except OSError:
            return False

    def kill(self):
        self.runner.started.end()
        reap_all()

    def end(self):
        if self.child.poll() is None:
            self.runner.started.add(self.child.pid)
        self.kill()
        super().end()


class Held(Measured):
    """`holder`: asked through its standard input, it compares every word of device memory with what was written."""

    asked = "a kernel and a CUDA graph compare every word of device memory with what was written"

    def answer(self, timeout):
        said = self.ask("check", timeout)
        if said.get("same") is not True:
            raise WrongAnswer(f"WRONG BYTES: {said}")
        return "same"

    def give_up(self):
        self.output.write(b'{"skipped": "it did not come back"}\n')

    def forget(self):
        """What was asked and not heard, or said and not read."""
        for pipe in (self.input, self.output):
            os.set_blocking(pipe.fileno(), False)
            while pipe.read(1 << 16):
                pass
            os.set_blocking(pipe.fileno(), True)
        self.heard = b""


class Server(Measured):
    """A program of the user: ready when a line of its output matches, asked by a command."""

    def __init__(self, runner, mode, command, env=None, timeout=120, ready="", ask=""):
        self.pattern, self.command, self.asking = re.compile(ready.encode()), ask, dict(env or {})
        self.asked = f"the command {ask}" if ask else "not at all: the end of the restore counts as the reply"
        self.is_ready, self.text, self.stopping, self.given_up = threading.Event(), b"", False, False
        if not ready:
            self.is_ready.set()
        super().__init__(runner, mode, command, env, timeout)

    def begin(self, command, environment):
        child = super().begin(command, environment)
        # Read all the time: a full pipe would stop the program.
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return child

    def read(self):
        complaints, at = os.open(self.complaints.name, os.O_RDONLY), 0
        while not self.stopping:
            there = select.select([self.output], [], [], 0.01)[0]
            data = os.read(self.output.fileno(), 1 << 16) if there else b""
            at = min(at, os.fstat(complaints).st_size)  # cut before a restore
            more = os.pread(complaints, 1 << 16, at)
            at += len(more)
            if data or more:
                self.text = (self.text + data + more)[-MOST_OUTPUT:]
                if not self.is_ready.is_set() and self.pattern.search(self.text):
                    self.is_ready.set()
        os.close(complaints)

    def hear(self, timeout):
        until = time.monotonic() + timeout
        while not self.is_ready.wait(0.05):
            if self.child.poll() is not None:
                raise Skip(f"{self.name}: {self.last_words()}")
            if time.monotonic() > until:
                raise Skip(f"{self.name}: no line matches --ready for {timeout:.0f} s")
        return {"ready": True}

    def answer(self, timeout):
        """What the command prints, once it succeeds."""
        if not self.command:
            if not os.path.exists(f"/proc/{self.pid}"):
                raise WrongAnswer("it has ended")
            return ""
        until, last, self.given_up = time.monotonic() + timeout, "no try", False
        while time.monotonic() < until and not self.given_up:
            try:
                done = subprocess.run(["/bin/sh", "-c", self.command], capture_output=True, stdin=subprocess.DEVNULL,
                                      timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
            if done.returncode == 0:
                return done.stdout.decode(errors="replace")
            last = f"exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
            if not os.path.exists(f"/proc/{self.pid}"):
                raise WrongAnswer(f"the program has ended; --ask: {last}")
            time.sleep(0.01)
        raise WrongAnswer(f"--ask does not succeed for {timeout:.0f} s: {last}")

    def give_up(self):
        self.given_up = True

    def forget(self):
        """Nothing of a question stays."""

    def end(self):
        self.stopping = True
        if hasattr(self, "reader"):
            self.reader.join(5)
        super().end()


class Question:
    """Put to a program from the moment on at which it is back, while the command that restores it may still be at work."""

    def __init__(self, live, timeout):
        self.live, self.timeout, self.given_up = live, timeout, False
        self.answer = self.at = self.error = None
        self.thread = threading.Thread(target=self.put, daemon=True)
        self.thread.start()

    def put(self):
        while not self.live.is_back():
            if self.given_up:
                return
            time.sleep(0.001)
        try:
            self.answer = self.live.answer(self.timeout)
            self.at = time.perf_counter()
        except (WrongAnswer, Skip, OSError) as error:
            self.error = error

    def reply(self):
        """(the answer, when it was there). The program was restored: where it is not back, it has ended."""
        while self.thread.is_alive():
            self.thread.join(0.2)
            if self.thread.is_alive() and not self.live.is_back():
                self.give_up()
                raise WrongAnswer("it has ended")
        if self.error:
            raise self.error
        return self.answer, self.at

    def give_up(self):
        """There was no restore."""
        self.given_up = True
        self.live.give_up()
        self.thread.join(5)
        self.live.forget()


def files_of(pid):
    """The regular files that a process and its descendants have mapped or open: what a start of it reads."""
    found = set()
    for one in tree(pid):
        try:
            with open(f"/proc/{one}/maps", errors="replace") as maps:
                found |= {line.split(None, 5)[5].rstrip("\n") for line in maps if " /" in line}
            for descriptor in os.listdir(f"/proc/{one}/fd"):
                found.add(os.readlink(f"/proc/{one}/fd/{descriptor}"))
        except OSError:
            continue
    return {path for path in found if path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/")) and os.path.isfile(path)}


def users_of_cuda(pid, simulated):
    """Those of a tree that use the driver: they have it mapped, and devices open."""
    found = []
    for one in tree(pid):
        try:
            with open(f"/proc/{one}/maps", errors="replace") as maps:
                loaded = "libcuda.so" in (text := maps.read()) or "libsimcuda.so" in text
            devices = any(os.readlink(f"/proc/{one}/fd/{name}").startswith("/dev/nvidia") for name in os.listdir(f"/proc/{one}/fd"))
        except OSError:
            continue
        if loaded and (simulated or devices):
            found.append(one)
    return found
