"""Processes that stay: they are asked by lines on stdin and answer in JSON."""
import json
import os
import select
import subprocess
import tempfile
import time

from runner import Skip, kill_group


class Live:
    """One such process, in a group of its own; ended with the block that it is used in, whatever state it is in."""

    def __init__(self, runner, mode, command, env=None, timeout=120):
        self.runner, self.heard = runner, b""
        self.complaints = tempfile.TemporaryFile()
        self.name = os.path.basename(command[0] if len(command) < 2 or not command[1].endswith(".py") else command[1])
        self.child = subprocess.Popen(command, env=runner.environment(mode, env, self.name), stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=self.complaints, bufsize=0, start_new_session=True)
        runner.live.append(self.child)
        try:
            self.ready = self.hear(timeout)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self):
        return self.child.pid

    def ask(self, line, timeout=60):
        try:
            self.child.stdin.write(line.encode() + b"\n")
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
            if not select.select([self.child.stdout], [], [], max(0, until - time.monotonic()))[0]:
                raise Skip(f"{self.name} says nothing for {timeout} s")
            data = os.read(self.child.stdout.fileno(), 1 << 16)
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
        self.child.stdin.close()
        self.child.stdout.close()
        self.complaints.close()
        self.runner.live.remove(self.child)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def parsed(line):
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
