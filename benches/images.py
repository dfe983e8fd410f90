"""Checkpoints of the measured program, and how each kind comes back."""
import os
import time

import served
import variants
from processes import Rewarm, Stock
from runner import Skip

# Bytes that a checkpoint may take more than the one before it.
SPARE = 1.2


class Imaged:
    """What both kinds share: a checkpoint that is restored for one variant at a time."""

    def prepare(self, options):
        """Makes the checkpoint; the seconds it took."""
        self.options, self.files = options, served.files_of(self.live.pid)
        self.cuda = served.users_of_cuda(self.live.pid, bool(options.sim))
        done = self.checkpoint()
        self.runner.started.processes.clear()  # they ended with the checkpoint
        return done["seconds"]

    def timed(self, *command):
        result = self.runner.once("plain", list(map(str, command)), env=self.env, timeout=self.options.timeout)
        return {**(result["lines"][-1] if result["lines"] else {}), "wall_s": result["wall_s"]}

    def reads(self):
        """All files that a restore reads."""
        there = [os.path.join(path, name) for path, _, names in os.walk(self.folder) for name in names]
        return [*there, *self.files, self.runner.criu(), self.runner.tool()]

    def came(self):
        """It runs again, under its old pid."""
        self.runner.started.add(self.live.pid)

    def measure(self, variant):
        """(seconds until the first reply, components, moments, what it answered)."""
        self.live.returns()
        self.runner.started.expect(self.live.pid)
        begin = time.perf_counter()
        question, parts = self.back(variant)
        wall = time.perf_counter() - begin
        answer, at = question.reply()
        return at - begin, *self.components(parts, wall, at - begin), answer

    def question(self):
        return served.Question(self.live, self.options.timeout)

    def stop(self):
        self.live.kill()


class StockImage(Imaged, Stock):
    """The driver's calls and CRIU, one after the other: NVIDIA's cuda-checkpoint if there is one, else the same calls by a program."""

    def driver(self, steps):
        for pid in self.cuda:
            if not self.options.cuda_checkpoint:
                self.timed(self.runner.program("checkpoint"), pid, "".join(step[0] for step in steps))
                continue
            for step in steps:
                limit = ["--timeout", "10000"] if step == "lock" else []
                self.timed(self.options.cuda_checkpoint, "--action", step, "--pid", pid, *limit)

    def criu(self, what, *more):
        return super().criu(what, *more, "--tcp-established", *self.options.criu_option)

    def out(self):
        os.makedirs(os.path.join(self.folder, "images"))
        self.driver(["lock", "checkpoint"])
        return {"criu": self.criu("dump", "-t", self.live.pid)}

    def back(self, variant):
        seconds = self.criu("restore", "-d")
        self.came()
        self.driver(["restore", "unlock"])
        return self.question(), seconds  # before, nothing of the GPU is there

    def components(self, criu, wall, answered):
        return variants.of_stock(criu, wall, answered)


class RewarmImage(Imaged, Rewarm):
    """`rewarm checkpoint` and `rewarm restore`."""

    def command(self, what, *more):
        return self.timed(self.runner.tool(), what, *more, "--criu", self.runner.criu(), "--json")

    def out(self):
        return self.command("checkpoint", "--pid", self.live.pid, "--tree", "--to", self.folder)

    def back(self, variant):
        question = self.question()
        try:
            report = self.command("restore", "--from", self.folder, "--detach", *variant.options)
        except BaseException:
            question.give_up()
            raise
        self.came()
        return question, report

    def components(self, report, wall, answered):
        return variants.of_rewarm(report, wall, answered)


KINDS = {"stock": StockImage, "rewarm": RewarmImage}


class ColdStart:
    """The program from its start, in the place of a checkpoint."""

    def __init__(self, begin, files, timeout):
        self.begin, self.files, self.timeout, self.live = begin, files, timeout, None

    def reads(self):
        return self.files

    def measure(self, variant):
        begin = time.perf_counter()
        self.live = self.begin(variant)
        ready = time.perf_counter() - begin
        answer = self.live.answer(self.timeout)
        answered = time.perf_counter() - begin
        return answered, *variants.of_start(ready, answered), answer

    def stop(self):
        if self.live:
            self.live.end()
            self.live = None


def need_room(folder, last):
    """Raises Skip where another checkpoint of that size does not fit."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if last * SPARE > free:
        raise Skip(f"no room for another checkpoint in {folder}: {free / 1e9:.1f} GB are free, it takes about {last * SPARE / 1e9:.1f} "
                   "(--files DIR, fewer --bytes, fewer --variants)")

