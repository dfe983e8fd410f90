"""Processes that stay: they are asked by lines on stdin and answer in JSON."""
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

from runner import Skip, kill_group


class Live:
    """One such process, in a group of its own; ended with the block that it is used in, whatever state it is in."""

    def __init__(self, runner, mode, command, env=None, timeout=120):
        self.runner, self.heard = runner, b""
        self.complaints = self.file_of_complaints()
        self.name = os.path.basename(command[0] if len(command) < 2 or not command[1].endswith(".py") else command[1])
        self.child = self.begin(command, runner.environment(mode, env, self.name))
        runner.live.append(self.child)
        try:
            self.ready = self.hear(timeout)
        except BaseException:
            self.end()
            raise

    def file_of_complaints(self):
        return tempfile.TemporaryFile()

    def begin(self, command, environment):
        """Starts it, with channels for lines both ways."""
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints,
                                 bufsize=0, start_new_session=True)
        self.input, self.output = child.stdin, child.stdout
        return child

    @property
    def pid(self):
        return self.child.pid

    def ask(self, line, timeout=60):
        try:
            self.input.write(line.encode() + b"\n")
        except OSError as error:
            raise Skip(f"{self.name}: {self.last_words()}") from error
        return self.hear(timeout)

    def hear(self, timeout):
        """Its next JSON object; other lines are passed over."""
        until = time.monotonic() + timeout
        while True:
            line, ended, rest = self.heard.partition(b"\n")
            if ended:
                self.heard = rest
                said = parsed(line)
                if said is None:
                    continue
                for refusal in ("error", "skipped"):
                    if refusal in said:
                        raise Skip(f"{self.name}: {said[refusal]}")
                return said
            if not select.select([self.output], [], [], max(0, until - time.monotonic()))[0]:
                raise Skip(f"{self.name} says nothing for {timeout} s")
            data = os.read(self.output.fileno(), 1 << 16)
            if not data:
                raise Skip(f"{self.name}: {self.last_words()}")
            self.heard += data

    def last_words(self):
        try:
            code = self.child.wait(10)
        except subprocess.TimeoutExpired:
            return "closed its output"
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}: {' '.join(lines[-1:])[-300:]}"

    def end(self):
        kill_group(self.child)
        self.input.close()
        self.output.close()
        self.complaints.close()
        self.runner.live.remove(self.child)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Restorable(Live):
    """One that CRIU can take away and bring back: its channels are named pipes, which it finds again under their names."""

    PR_SET_CHILD_SUBREAPER = 36

    def file_of_complaints(self):
        # What is restored becomes a child of this process, which has to take note of its end: else its pid stays taken.
        if ctypes.CDLL(None, use_errno=True).prctl(self.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise Skip("cannot become the parent of what is restored")
        self.folder = tempfile.mkdtemp(dir=self.runner.scratch)
        return open(os.path.join(self.folder, "stderr"), "w+b")

    def begin(self, command, environment):
        for name in ("in", "out"):
            os.mkfifo(os.path.join(self.folder, name))
        # Open at both ends here, so that neither side ever sees an end.
        self.input, self.output = (open(os.path.join(self.folder, name), "r+b", buffering=0) for name in ("in", "out"))
        return subprocess.Popen(command, env=environment, stdin=self.input, stdout=self.output, stderr=self.complaints,
                                start_new_session=True)

    def leaves(self):
        """It is about to be checkpointed."""
        self.size = os.path.getsize(self.complaints.name)

    def gone(self):
        """It was checkpointed, and has ended."""
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired as error:
            raise Skip(f"{self.name}: runs on after its checkpoint") from error
        self.reap()

    def returns(self):
        """It is about to be restored. CRIU does not restore a process whose files have grown."""
        os.truncate(self.complaints.name, self.size)
        self.restored = True

    def kill(self):
        """Ends what was restored, and waits until all of it has ended."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.reap()

    def reap(self):
        """Takes note of the end of all that it started."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                os.waitpid(-self.pid, os.WNOHANG)
            except ChildProcessError:
                return
            time.sleep(0.002)

    def end(self):
        if getattr(self, "restored", False):
            self.kill()
        super().end()
        shutil.rmtree(self.folder, ignore_errors=True)


def parsed(line):
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
