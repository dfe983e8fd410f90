"""Runs bench programs in pairs, plain and preloaded in turn, and collects their JSON lines."""
import atexit
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SCRATCH = "rewarm-bench-"
PRELOADED = ("rewarm", "prewarm", "freezable")


class Skip(Exception):
    """A row that cannot be measured here, and why."""


class Side(NamedTuple):
    """One of the ways that are compared: what runs, and how its result becomes a number."""

    name: str
    command: object  # a list, or a function of the round's number
    rates: object  # result -> {what: GB/s}
    mode: str = "plain"
    before: object = None  # called before each run
    more: dict = {}  # for Runner.once


def say(text):
    print(text, file=sys.stderr, flush=True)


def kill_group(child):
    """Ends a process that leads a group, and the group, if it still runs."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()


def wait_for(child, timeout):
    """Its exit status, noticed at once: Popen.wait with a time limit looks only every 50 ms."""
    handle = os.pidfd_open(child.pid)
    try:
        if not select.select([handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(child.args, timeout)
    finally:
        os.close(handle)
    return child.wait()


def remove_stale(folder):
    """What an earlier run left that was killed outright."""
    for name in os.listdir(folder):
        pid = name[len(SCRATCH):].split("-")[0]
        if name.startswith(SCRATCH) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def json_in(text):
    """The objects in a program's output: one over all of it, or one a line."""
    try:
        whole = json.loads(text)
        return [whole] if isinstance(whole, dict) else []
    except ValueError:
        found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            pass
    return [one for one in found if isinstance(one, dict)]


class Runner:
    def __init__(self, options, library, programs):
        self.options, self.library, self.programs = options, library, programs
        self.child, self.live, self.started = None, [], None
        remove_stale(tempfile.gettempdir())
        self.scratch = tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-")
        self.shm = self.disk = None
        self.runtime = None
        atexit.register(self.clean)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.stop)

    def stop(self, number, _frame):
        sys.exit(128 + number)  # through atexit

    def clean(self):
        for child in filter(None, [self.child, *self.live]):
            kill_group(child)
        for folder in (self.scratch, self.shm, self.disk):
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def memory_folder(self):
        """A folder whose files are in memory."""
        if not self.shm:
            remove_stale("/dev/shm")
            self.shm = tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir="/dev/shm")
        return self.shm

    def disk_folder(self):
        """A folder beside the results, for files on a disk."""
        if not self.disk:
            os.makedirs(self.options.out, exist_ok=True)
            remove_stale(self.options.out)
            self.disk = tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=self.options.out)
        return self.disk

    def tool(self):
        """The built command line."""
        path = os.path.join(os.path.dirname(self.library), "rewarm")
        if not os.path.exists(path):
            raise Skip(f"no {path}")
        return path

    def criu(self):
        """The program criu: --criu, or that of PATH."""
        path = shutil.which(self.options.criu or "criu")
        if not path:
            raise Skip("no criu (--criu EXE)")
        return path

    def program(self, name):
        path = os.path.join(self.programs, name)
        if not os.path.exists(path):
            raise Skip(f"{name} is not built (scripts/bench --build)")
        return path

    def python(self, script, *arguments):
        here = os.path.dirname(os.path.abspath(__file__))
        return [self.options.python, os.path.join(here, script), *map(str, arguments)]

    def environment(self, side, extra=None, program=""):
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        runtime = self.runtime if program == "copies-dynamic" else None
        paths = [path for path in (self.options.sim, runtime, env.get("LD_LIBRARY_PATH")) if path]
        if paths:
            env["LD_LIBRARY_PATH"] = ":".join(paths)
        env.update(extra or {})
        if side in PRELOADED:
            env["LD_PRELOAD"] = self.library
        if side == "prewarm":
            env["CRIU_CUDA_CONTEXT_POOL"] = "1"
        else:
            env.pop("CRIU_CUDA_CONTEXT_POOL", None)
        if side == "freezable":
            env["REWARM_FREEZABLE"] = "1"
        else:
            env.pop("REWARM_FREEZABLE", None)
        return env

    def once(self, side, command, cpus=None, env=None, timeout=150):
        """One process; {"lines", "stats", "wall_s"}. Raises Skip when it says that it cannot."""
        environment = self.environment(side, env, os.path.basename(command[0]))
        stats = os.path.join(self.scratch, "stats.json")
        if os.path.exists(stats):
            os.unlink(stats)
        if side in PRELOADED:
            environment["REWARM_STATS"] = stats

        def limit():
            os.sched_setaffinity(0, cpus)

        begin = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          start_new_session=True, preexec_fn=limit if cpus else None)
            if self.started:
                self.started.add(self.child.pid)
            try:
                code = wait_for(self.child, timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
                code = f"none after {timeout} s"
            wall = time.perf_counter() - begin
            self.child = None
            out.seek(0)
            err.seek(0)
            text, complaint = out.read(), err.read()
        lines = json_in(text) + json_in("\n".join(l for l in complaint.splitlines() if l.startswith('{"error"')))
        for line in lines:
            if "error" in line:
                raise Skip(f"{side}: {line['error']}")
        for line in lines:
            if isinstance(line.get("skipped"), str) and len(lines) == 1:
                raise Skip(line["skipped"])
        if code != 0:
            words = complaint.strip().splitlines()[-1:] if "Traceback" in complaint else [complaint.strip()]
            raise Skip(f"{side}: exit status {code}: {''.join(words)[-300:]}")
        report = None
        if os.path.exists(stats):
            try:
                with open(stats) as file:
                    report = json.load(file)
            except ValueError:
                pass
        return {"lines": lines, "stats": report, "wall_s": wall}

    def rounds(self, sides, command, count, seconds, label, **more):
        """`count` rounds over the sides, in turning order, while the time lasts; [{side: result}].

        `command` is a list, or a function of the round's number.
        """
        begin, results, longest = time.perf_counter(), [], 0
        for number in range(count):
            started = time.perf_counter()
            if number and started - begin + 0.6 * longest > seconds:  # the first round is the slowest: it checks every byte
                say(f"  {label}: stopped after {number} of {count} rounds ({seconds:.0f} s)")
                break
            order = sides[number % len(sides):] + sides[:number % len(sides)]
            this = command(number) if callable(command) else command
            results.append({side: self.once(side, this, **more) for side in order})
            longest = max(longest, time.perf_counter() - started)
        say(f"  {label}: {len(results)} rounds, {time.perf_counter() - begin:.1f} s")
        return results

    def contest(self, sides, count, seconds, label):
        """Like `rounds`, for sides that run different programs: ({name: [{what: GB/s}]}, {name: why it did not run},
        {name: [result]}). A side that fails leaves; the others go on."""
        begin, longest, gone = time.perf_counter(), 0, {}
        rates, results = ({side.name: [] for side in sides} for _ in range(2))
        for number in range(count):
            started = time.perf_counter()
            if number and started - begin + 0.8 * longest > seconds:
                say(f"  {label}: stopped after {number} of {count} rounds ({seconds:.0f} s)")
                break
            for side in sides[number % len(sides):] + sides[:number % len(sides)]:
                if side.name in gone:
                    continue
                try:
                    if side.before:
                        side.before()
                    result = self.once(side.mode, side.command(number) if callable(side.command) else side.command, **side.more)
                    rates[side.name].append(side.rates(result))
                    results[side.name].append(result)
                except (Skip, KeyError, IndexError) as reason:
                    gone[side.name] = " ".join(str(reason).removeprefix(f"{side.mode}: ").split())
                    say(f"  {label}: {side.name}: not run: {gone[side.name]}")
            longest = max(longest, time.perf_counter() - started)
        say(f"  {label}: {time.perf_counter() - begin:.1f} s")
        for name in gone:
            del rates[name], results[name]
        return rates, gone, results

    def pairs(self, command, count, seconds, label, **more):
        return self.rounds(["plain", "rewarm"], command, count, seconds, label, **more)


def evidence(results):
    """What the preloaded runs did, from their reports: proof that rewarm was in force."""
    total = {"fanned_out_bytes": 0, "fanned_out_copies": 0, "in_place_bytes": 0, "file_bytes": 0, "bypassed": {}, "states": []}
    for result in results:
        for side, one in result.items():
            report = one["stats"]
            if side == "plain":
                continue
            total["states"].append(report["state"] if report else "no report")
            for device in (report or {}).get("devices", []):
                for direction in ("h2d", "d2h"):
                    entry = device[direction]
                    for key in ("fanned_out_bytes", "fanned_out_copies", "in_place_bytes", "file_bytes"):
                        total[key] += entry.get(key, 0)
                    for reason, count in entry["bypassed"].items():
                        name = f"{direction}.{reason}"
                        total["bypassed"][name] = total["bypassed"].get(name, 0) + count
    total["states"] = sorted(set(total["states"]))
    return total


def fanned(results):
    """A remark where the preloaded side did nothing: then the row compares plain with plain."""
    proof = evidence(results)
    return "" if proof["fanned_out_bytes"] else f"nothing was fanned out ({', '.join(proof['states']) or 'no report'})"
