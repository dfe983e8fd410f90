"""The rows about whole processes: checkpoint and restore with CRIU, by rewarm against the driver's own calls; see README.md."""
import contextlib
import itertools
import os
import time

import storage
from freezing import Broken, Found, compared, environment, holder, need_memory, reached, remove, scaled, told
from live import Restorable
from report import row, size_name
from runner import GIB, Skip, say

# What CRIU has to be told of a process with torch; rewarm finds it out.
CRIU_OPTIONS = ["--ext-unix-sk", "--link-remap", "--file-locks", "-v1"]
RESTORED = "the process after each restore: every word by a kernel and by a graph, or the same tokens"


class Checkpointed:
    """A process that is on disk, and is brought back and ended again and again."""

    def __init__(self, runner, live, folder, env):
        self.runner, self.live, self.folder, self.env, self.checks = runner, live, folder, env, 0

    def timed(self, *command):
        """A program's last line, if it is JSON, with the seconds from its start to its end as `wall_s`."""
        result = self.runner.once("plain", list(map(str, command)), env=self.env)
        return {**(result["lines"][-1] if result["lines"] else {}), "wall_s": result["wall_s"]}

    def size(self):
        """Bytes on the disk."""
        files = (os.path.join(path, name) for path, _, names in os.walk(self.folder) for name in names)
        return sum(os.lstat(file).st_blocks * 512 for file in files)

    def checkpoint(self):
        self.live.leaves()
        begin = time.perf_counter()
        parts = self.out()
        seconds = time.perf_counter() - begin
        self.live.gone()
        return {"seconds": seconds, "parts": parts, "bytes": self.size()}

    def restore(self):
        """Brings it back until it runs with verified memory, asks it once, and ends it."""
        self.live.returns()
        begin = time.perf_counter()
        parts = self.back()
        seconds = time.perf_counter() - begin
        try:
            said = self.live.ask("check")
            answered = time.perf_counter() - begin
        except Skip as reason:
            raise Broken(f"after the restore: {reason}") from reason
        finally:
            self.live.kill()
        if not said["same"]:
            raise Broken(f"WRONG BYTES after the restore: {said}")
        self.checks += 1
        return {"seconds": seconds, "answered": answered, "parts": parts}


class Stock(Checkpointed):
    """The driver's calls and CRIU, one after the other."""

    def criu(self, what, *more):
        images = os.path.join(self.folder, "images")
        try:
            return self.timed(self.runner.criu(), what, "-D", images, "-o", f"{what}.log", *CRIU_OPTIONS, *more)["wall_s"]
        except Skip as reason:
            with open(os.path.join(images, f"{what}.log")) as log:
                errors = " ".join(line.strip() for line in log if "Error" in line)
            raise Skip(f"criu {what}: {errors[-400:] or reason}") from reason

    def out(self):
        os.makedirs(os.path.join(self.folder, "images"))
        driver = self.timed(self.runner.program("checkpoint"), self.live.pid, "lc")
        return {"driver": driver["wall_s"], "criu": self.criu("dump", "-t", self.live.pid)}

    def back(self):
        criu = self.criu("restore", "-d")
        return {"criu": criu, "driver": self.timed(self.runner.program("checkpoint"), self.live.pid, "ru")["wall_s"]}


class Rewarm(Checkpointed):
    """`rewarm checkpoint` and `rewarm restore`."""

    def out(self):
        return self.timed(self.runner.tool(), "checkpoint", "--pid", self.live.pid, "--to", self.folder, "--criu", self.runner.criu(), "--json")

    def back(self):
        return self.timed(self.runner.tool(), "restore", "--from", self.folder, "--detach", "--criu", self.runner.criu(), "--json")


WAYS = {"stock": (Stock, "plain"), "without": (Rewarm, "plain"), "rewarm": (Rewarm, "freezable")}


@contextlib.contextmanager
def checkpointed(runner, found, command, folder, way):
    """A process that was checkpointed in that way, or None."""
    kind, mode = WAYS[way]
    env, there = environment(runner), os.path.join(folder, way)
    with Restorable(runner, mode, command, env) as live:
        process = kind(runner, live, there, env)
        found.part(f"{way} out", process.checkpoint)
        try:
            yield process if f"{way} out" in found.values else None
        finally:
            remove(there)


def rounds(runner, seconds, command, folder, count, label, ways=tuple(WAYS)):
    """(what was found, the processes): checkpointed once in each way, restored in turn."""
    found, processes = Found(), {}

    def do(number, found):
        turn = list(processes.items())
        for way, process in turn[number % len(turn):] + turn[:number % len(turn)]:
            found.part(f"{way} back", process.restore)
    with contextlib.ExitStack() as stack:
        for way in ways:
            try:
                process = stack.enter_context(checkpointed(runner, found, command, folder, way))
            except Broken as reason:
                found.gone[f"{way} out"] = str(reason)
                process = None
            if process:
                processes[way] = process
            else:
                found.gone[f"{way} back"] = found.gone.get(f"{way} out", "no checkpoint")
        if processes:
            found.repeat(do, count, seconds, label)
    return found, processes


def seconds_row(found, group, label, way, part, key, target="", most=None, **detail):
    return compared(found, group, label, "s", ("stock " + part, key), (f"{way} {part}", key), target,
                    reached(most) if most else None, **detail)


def rows_of(found, group, what, restore, without, answer, answer_without, checkpoint):
    """The rows of one kind of process; the numbers are the targets in seconds."""
    note = "until it runs, its memory verified"
    yield seconds_row(found, group, f"restore of {what}, files in memory", "rewarm", "back", "seconds", f"<= {restore}", restore,
                      note=note, parts=found.values)
    if without:
        yield seconds_row(found, group, f"restore of {what}, without the preloaded library", "without", "back", "seconds", f"<= {without}",
                          without, note=note)
    if answer:
        yield seconds_row(found, group, f"restore of {what} until its first tokens", "rewarm", "back", "answered", f"<= {answer}", answer)
        yield seconds_row(found, group, "restore until its first tokens, without the preloaded library", "without", "back", "answered", f"<= {answer_without}", answer_without)
    yield seconds_row(found, group, f"checkpoint of {what}, files in memory", "rewarm", "out", "seconds", f"<= {checkpoint}", checkpoint)
    yield seconds_row(found, group, f"checkpoint of {what}, without the preloaded library", "without", "out", "seconds")
    yield compared(found, group, f"{what} on disk", "GB", ("stock out", gigabytes), ("rewarm out", gigabytes))


def gigabytes(one):
    return one["bytes"] / 1e9


def verified(processes, group):
    checks = sum(process.checks for process in processes.values())
    return row(group, RESTORED, "restores", [], [checks], "all", checks > 0)


def count_of(runner, full=3):
    return 1 if runner.options.quick else full


def process(runner, seconds):
    """One C program with random device memory."""
    size, folder = scaled(runner, 16 * GIB, 4 * GIB), runner.memory_folder()
    need_memory(4 * size)
    found, processes = rounds(runner, seconds * 0.7, holder(runner, size), folder, count_of(runner), f"process, {size_name(size)}")
    yield from told(rows_of(found, "process", f"a C process with {size_name(size)}", 0.9, None, None, None, 3.5), found)
    yield verified(processes, "process")


def process_transformers(runner, seconds):
    """A model of transformers."""
    folder = runner.memory_folder()
    need_memory(scaled(runner, 64 * GIB, 20 * GIB))
    found, processes = rounds(runner, seconds * 0.7, model(runner), folder, count_of(runner), "process, transformers")
    yield from told(rows_of(found, "process_transformers", "a transformers Llama", 1.3, 2.7, 1.9, 3.3, 4.0), found)
    yield verified(processes, "process_transformers")


def process_cold(runner, seconds):
    """From the disk, nothing of it in the page cache."""
    folder = runner.disk_folder()
    if storage.in_memory(folder):
        raise Skip(f"{folder} is in memory")
    command = holder(runner, scaled(runner, 0, 0)) if runner.options.sim else model(runner)
    found = Found()
    with checkpointed(runner, found, command, folder, "rewarm") as one:
        if not one:
            raise Skip(found.gone["rewarm out"])
        data = os.path.join(one.folder, "gpu", str(one.live.pid))
        disk = storage.Disk(storage.listed(data), runner.options.fio, runner.scratch, say)
        disk.search(seconds * 0.2)

        def do(_, found):
            found.part("disk", lambda: speed_of(runner, disk))
            left = storage.evict(everything(one.folder))
            found.part("cold", lambda: {**one.restore(), "left": left, "bytes": one.size()})
        found.repeat(do, count_of(runner), seconds * 0.7, "process, cold")

    def rate(one):
        return one["bytes"] / one["seconds"] / 1e9
    yield compared(found, "process_cold", f"restore of a transformers Llama, cold (plain: the disk, {disk.name()})", "GB/s",
                   ("disk", rate), ("cold", rate), ">= 90 % of it", reached(ratio=0.9), "higher", parts=found.values)
    yield verified({"rewarm": one}, "process_cold")


def model(runner):
    return runner.python("frozen_model.py", "--layers", 8 if runner.options.quick else 32)


def speed_of(runner, disk):
    storage.evict(disk.paths)
    line = runner.once("plain", disk.command())["lines"][-1]
    if "jobs" in line:
        return {"bytes": storage.rate_of_fio(line) * 1e9, "seconds": 1}
    return line


def everything(folder):
    return [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]


def process_four(runner, seconds):
    """Four of them at once, in one tree, against one."""
    each, folder = scaled(runner, 4 * GIB, GIB), runner.memory_folder()
    one = holder(runner, each)
    found, processes = Found(), {}

    def tree(count):
        return runner.python("family.py", "--count", count, "--", *one)
    with contextlib.ExitStack() as stack:
        for way, count in (("one", 1), ("four", 4)):
            env, there = environment(runner), os.path.join(folder, way)
            live = stack.enter_context(Restorable(runner, "freezable", tree(count), env))
            processes[way] = Family(runner, live, there, env)
            stack.callback(remove, there)
            found.part(f"{way} out", processes[way].checkpoint)

        def do(number, found):
            for way, process in itertools.islice(itertools.cycle(processes.items()), number % 2, number % 2 + 2):
                found.part(f"{way} back", process.restore)
        found.repeat(do, count_of(runner), seconds * 0.7, "process, four at once")
    for part, what in (("out", "checkpoint"), ("back", "restore")):
        yield compared(found, "process_four", f"{what} of a tree with four processes of {size_name(each)} (plain: with one)", "s",
                       (f"one {part}", "seconds"), (f"four {part}", "seconds"), "<= 1.3x", reached(ratio=1 / 1.3), parts=found.values)
    yield verified(processes, "process_four")


class Family(Rewarm):
    """A tree of several processes."""

    def out(self):
        return self.timed(self.runner.tool(), "checkpoint", "--pid", self.live.pid, "--tree", "--to", self.folder, "--criu", self.runner.criu(), "--json")
