"""The rows about freezing and thawing: rewarm against the driver's own checkpoint calls on the same process; see README.md."""
import contextlib
import os
import shutil
import time

from live import Live
from report import row, size_name, skipped
from runner import GIB, MIB, Skip, say

WRITERS = 8
CHANGED = 0.01
EVERY_WORD = "every word after each thaw, by a kernel and by a graph captured before"
# Memory of a frozen process beyond a bare context's: small allocations share pages of 2 MiB.
SPARE = 32 * MIB


class Broken(Skip):
    """The process that is frozen and thawed is not what it was: nothing more can be measured on it."""


# ---------------------------------------------------------------- what is frozen

class Subject:
    """A process that is frozen and thawed, and another that sees how much of the GPU's memory is taken."""

    def __init__(self, runner, live, watcher, free_before, environment):
        self.runner, self.live, self.watcher, self.free_before, self.environment = runner, live, watcher, free_before, environment
        self.checks = 0

    @property
    def bytes(self):
        return self.live.ready["bytes"]

    def held(self):
        """Bytes of the GPU's memory that it holds now."""
        return self.free_before - self.watcher.ask("info")["free"]

    def check(self, after):
        """Its memory as it was: what it says to `check`."""
        try:
            said = self.live.ask("check")
        except Skip as reason:
            raise Broken(f"after {after}: {reason}") from reason
        if not said["same"]:
            raise Broken(f"WRONG BYTES after {after}: {said}")
        self.checks += 1
        return said

    def timed(self, *command):
        """A program's one line, with its seconds from start to end as `wall_s`."""
        result = self.runner.once("plain", list(map(str, command)), env=self.environment)
        return {**result["lines"][-1], "wall_s": result["wall_s"]}

    def by_driver(self):
        """Out and back by the driver's own calls."""
        steps = self.runner.program("checkpoint")
        return self.out_and_back([steps, self.live.pid, "lc"], [steps, self.live.pid, "ru"], "the driver's",
                                 lambda out: out["lock"] + out["checkpoint"], lambda back: back["restore"] + back["unlock"])

    def by_rewarm(self, folder, *more):
        """Out and back by rewarm; `more` are options of the thaw."""
        tool = self.runner.tool()
        return self.out_and_back([tool, "freeze", "--pid", self.live.pid, "--to", folder, "--json"],
                                 [tool, "thaw", "--pid", self.live.pid, "--json", *more], "rewarm's",
                                 lambda out: out["seconds"], lambda back: back["seconds"])

    def out_and_back(self, freeze, thaw, whose, freeze_seconds, thaw_seconds):
        """Runs both commands, and looks at the process after them; the functions find the seconds in what they print."""
        try:
            out = self.timed(*freeze)
        except Skip:
            self.check(f"{whose} freeze that failed")
            raise
        try:
            held = self.held()
            back = self.timed(*thaw)
        except Skip as reason:
            raise Broken(f"after {whose} freeze: {reason}") from reason
        return {"freeze_s": freeze_seconds(out), "thaw_s": thaw_seconds(back), "freeze_wall_s": out["wall_s"], "thaw_wall_s": back["wall_s"],
                "held": held, "check": self.check(f"{whose} thaw"), "freeze": out, "thaw": back}

    def prepare(self, folder):
        return self.timed(self.runner.tool(), "freeze", "--pid", self.live.pid, "--to", folder, "--prepare", "--json")


def environment(runner):
    """Of all processes of a group: control sockets of their own, and one machine's memory on the software driver."""
    found = {"REWARM_RUN_DIR": os.path.join(runner.scratch, "run")}
    os.makedirs(found["REWARM_RUN_DIR"], mode=0o700, exist_ok=True)
    if runner.options.sim:
        found["SIMCUDA_MACHINE"] = os.path.join(runner.scratch, "machine")
        os.makedirs(found["SIMCUDA_MACHINE"], exist_ok=True)
    return found


@contextlib.contextmanager
def subject(runner, command, mode="freezable"):
    """The process that runs `command`, ready, with a watcher beside it."""
    env = environment(runner)
    with Live(runner, "plain", holder(runner, 0), env) as watcher:
        before = watcher.ask("info")["free"]
        with Live(runner, mode, command, env) as live:
            yield Subject(runner, live, watcher, before, env)


def holder(runner, size, share=1.0):
    return [runner.program("holder"), "--bytes", str(size), "--each", str(min(GIB, max(size // 8, 2 * MIB))), "--share", str(share)]


def bare_context(runner):
    """GPU memory of a process without allocations."""
    with subject(runner, holder(runner, 0), "plain") as bare:
        return bare.held()


# ---------------------------------------------------------------- rounds

class Found:
    """What the parts of the rounds gave, and why a part was left out."""

    def __init__(self):
        self.values, self.gone, self.broken = {}, {}, None

    def part(self, name, function):
        """Does one part of a round, unless it failed before. Its trouble is its own while the process is whole."""
        if name in self.gone:
            return
        try:
            self.values.setdefault(name, []).append(function())
        except Broken:
            raise
        except Skip as reason:
            self.gone[name] = str(reason).removeprefix("plain: ")
            say(f"  {name}: not run: {self.gone[name]}")

    def column(self, part, value):
        """A figure of every round: `value` is a key, or a function of what the part gave."""
        of = value if callable(value) else lambda one: one[value]
        return [of(one) for one in self.values.get(part, [])]

    def repeat(self, do, count, seconds, label):
        """`count` rounds of do(number, self) while the time lasts; the process's end ends them."""
        begin, longest = time.perf_counter(), 0
        for number in range(count):
            started = time.perf_counter()
            if number and started - begin + 0.9 * longest > seconds:
                say(f"  {label}: stopped after {number} of {count} rounds ({seconds:.0f} s)")
                break
            try:
                do(number, self)
            except Skip as reason:
                self.broken = str(reason)
                say(f"  {label}: {reason}")
                break
            longest = max(longest, time.perf_counter() - started)
        say(f"  {label}: {time.perf_counter() - begin:.1f} s")


def reached(most=None, least=None, ratio=None):
    """Whether a row keeps its limits and has its ratio to the plain run, by medians; None: only the ratio is not known."""
    def verdict(one):
        median = one["rewarm"]["median"]
        if (most is not None and median > most) or (least is not None and median < least):
            return False
        if ratio is None:
            return True
        return one["ratio"]["median"] >= ratio if "ratio" in one else None
    return verdict


def compared(found, group, label, unit, plain, ours, target="", verdict=None, better="lower", note="", **detail):
    """A row of two columns of `found`, each (part, value); a part that did not run is told."""
    columns = [found.column(*side) if side else [] for side in (plain, ours)]
    if not columns[1]:
        return skipped(group, label, found.gone.get(ours[0]) or found.broken or "no round fitted")
    missing = f"plain: not run: {found.gone[plain[0]]}" if plain and plain[0] in found.gone else ""
    return row(group, label, unit, *columns, target, verdict, "; ".join(filter(None, [missing, note])), better, **detail)


def told(rows, found):
    """The rows without those that only repeat that the process was broken."""
    return (one for one in rows if found.broken is None or one.get("skipped") != found.broken)


def whole(found, group, subject, label):
    """The row that says whether the memory was right after each thaw."""
    if found.broken:
        return skipped(group, label, found.broken)
    return row(group, label, "thaws", [], [subject.checks], "all", subject.checks > 0)


def left(found, group, part, label, bare, target="", verdict=None):
    by_driver = found.column("driver", "held")
    note = f"(the driver's checkpoint leaves {max(by_driver) / MIB:.0f})" if by_driver else ""
    columns = found.column(part, lambda one: one["held"] / MIB)
    if not columns:
        return skipped(group, label, found.gone.get(part) or found.broken or "no round fitted")
    return row(group, label, "MiB", [bare / MIB] * len(columns), columns, target, verdict, note, "lower")


def by(found, part, step, key):
    """A remark on what looked at the chunks in that step: the GPU or the CPU."""
    who = sorted({one[step][key] for one in found.values.get(part, [])})
    return f"({key.replace('_', ' ')} {', '.join(who)})" if who else ""


def rate(size, key="seconds"):
    """GB/s, from the seconds of that key."""
    return lambda one: size / one[key] / 1e9


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)


def available():
    """Bytes of memory that can be had."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def need_memory(size, folder=None):
    """So much memory, with a tenth to spare; in files of the folder, if one is given."""
    free = min(available(), shutil.disk_usage(folder).free if folder else size * 2)
    if free < size * 1.1:
        raise Skip(f"{free / 1e9:.0f} GB of memory free, {size * 1.1 / 1e9:.0f} GB needed")


def writers(runner, folder, size):
    """What files take there without a GPU."""
    return runner.once("plain", [runner.program("writers"), folder, str(size), "--threads", str(WRITERS)])["lines"][-1]


def scaled(runner, full, quick):
    return 256 * MIB if runner.options.sim else quick if runner.options.quick else full


# ---------------------------------------------------------------- groups

def freeze(runner, seconds):
    """All memory random."""
    size, folder = scaled(runner, 16 * GIB, 4 * GIB), runner.memory_folder()
    need_memory(2 * size)
    need_memory(size, folder)
    ahead, fresh = (os.path.join(folder, name) for name in ("ahead", "fresh"))
    found = Found()

    def to_fresh_files(process):
        """A freeze, and another after a little has changed."""
        found.part("fresh", lambda: process.by_rewarm(fresh, "--keep-snapshot"))
        if os.path.exists(fresh):
            changed = process.live.ask(f"change {CHANGED}")["changed"]
            found.part("second", lambda: {**process.by_rewarm(fresh), "changed": changed})
        remove(fresh)

    def do(number, found):
        found.part("driver", process.by_driver)
        found.part("prepare", lambda: process.prepare(ahead))
        found.part("ahead", lambda: process.by_rewarm(ahead))
        remove(ahead)
        turns = [lambda: found.part("writers", lambda: writers(runner, folder, size)), lambda: to_fresh_files(process)]
        for turn in turns[::-1] if number % 2 else turns:
            turn()
    bare = bare_context(runner)
    plain = Found()
    with subject(runner, holder(runner, size), "plain") as process:
        plain.repeat(lambda _, found: found.part("driver", process.by_driver), 1, seconds, "a plain process by the driver")
    with subject(runner, holder(runner, size)) as process:
        found.repeat(do, 1 if runner.options.quick else 3, seconds * 0.75, f"freeze, {size_name(size)}")
    yield from told(freeze_rows(found, size, bare), found)
    yield whole(found, "freeze", process, EVERY_WORD)
    for key, label in (("freeze_s", "lock and checkpoint"), ("thaw_s", "restore and unlock")):
        values = plain.column("driver", key)
        label = f"the driver's {label} of a process without rewarm"
        if values:
            yield row("freeze", label, "s", values, [], better="lower")
        else:
            yield skipped("freeze", label, plain.broken or plain.gone.get("driver", "no round fitted"))


def freeze_rows(found, size, bare):
    group, all_of_it = "freeze", f"{size_name(size)}, random"
    yield compared(found, group, f"thaw of {all_of_it}, tmpfs", "GB/s", ("driver", rate(size, "thaw_s")), ("ahead", rate(size, "thaw_s")),
                   ">= 48 and 6x", reached(least=48, ratio=6), "higher", by(found, "ahead", "thaw", "verified_by"), parts=found.values)
    yield compared(found, group, "thaw, the command from start to end", "s", ("driver", "thaw_wall_s"), ("ahead", "thaw_wall_s"))
    yield compared(found, group, f"freeze of {all_of_it}, files made ahead", "s", ("driver", "freeze_s"), ("ahead", "freeze_s"),
                   "<= 0.6 and 10x", reached(0.6, ratio=10), note=by(found, "ahead", "freeze", "scanned_by"))
    yield compared(found, group, "freeze, files made ahead, the command from start to end", "s", ("driver", "freeze_wall_s"),
                   ("ahead", "freeze_wall_s"))
    yield compared(found, group, f"freeze, fresh files (plain: {WRITERS} writers without a GPU)", "GB/s", ("writers", rate(size)),
                   ("fresh", rate(size, "freeze_s")), ">= 90 % of it", reached(ratio=0.9), "higher")
    yield compared(found, group, "freeze, fresh files (plain: the driver)", "s", ("driver", "freeze_s"), ("fresh", "freeze_s"))
    yield compared(found, group, "room made ahead (--prepare)", "s", None, ("prepare", "seconds"))
    yield compared(found, group, f"second freeze, {CHANGED:.0%} changed", "s", ("driver", "freeze_s"), ("second", "freeze_s"))
    yield compared(found, group, f"bytes that it wrote, {CHANGED:.0%} changed in every allocation", "%", None,
                   ("second", lambda one: one["freeze"]["stored_bytes"] / one["freeze"]["bytes"] * 100), "<= 2", reached(2))
    yield left(found, group, "ahead", "GPU memory left while frozen (plain: a bare context)", bare, "a context's",
               reached((bare + SPARE) / MIB))


def freeze_large(runner, seconds):
    """Most of it never written. The driver's side last: it needs host memory for all of it."""
    size, share, folder = scaled(runner, 100 * GIB, 20 * GIB), 0.1, runner.memory_folder()
    target, written = os.path.join(folder, "large"), int(size * share)
    need_memory(written, folder)
    found = Found()

    def do(_, found):
        # Memory that the machine has touched before; and what files take.
        found.part("writers", lambda: writers(runner, folder, int(written * 1.1)))
        found.part("fresh", lambda: process.by_rewarm(target))
        remove(target)

    def last(_, found):
        def checkpoint():
            need_memory(size)
            return process.by_driver()
        found.part("driver", checkpoint)
    bare = bare_context(runner)
    with subject(runner, holder(runner, size, share)) as process:
        found.repeat(do, 1 if runner.options.quick else 3, seconds * 0.3, f"freeze, {size_name(size)}")
        by_rewarm = process.checks
        if not found.broken:
            by_driver = Found()
            by_driver.repeat(last, 1, seconds, "by the driver")
            found.values["driver"] = by_driver.values.get("driver", [])
            if reason := by_driver.gone.get("driver") or by_driver.broken:
                found.gone["driver"] = reason
    process.checks = by_rewarm
    yield from told(large_rows(found, size, share, process, bare), found)
    yield whole(found, "freeze_large", process, EVERY_WORD)


def large_rows(found, size, share, process, bare):
    group, what = "freeze_large", f"{size_name(size)}, {1 - share:.0%} never written"
    yield compared(found, group, f"freeze of {what}, tmpfs", "s", ("driver", "freeze_s"), ("fresh", "freeze_s"), "< 1", reached(1),
                   note=by(found, "fresh", "freeze", "scanned_by"), parts=found.values)
    yield compared(found, group, f"thaw of {what}, tmpfs", "s", ("driver", "thaw_s"), ("fresh", "thaw_s"), "< 0.5", reached(0.5),
                   note=by(found, "fresh", "thaw", "verified_by"))
    yield compared(found, group, "bytes stored (plain: written by the process)", "GB", ("fresh", lambda _: process.live.ready["written"] / 1e9),
                   ("fresh", lambda one: one["freeze"]["stored_bytes"] / 1e9), "<= 5 % more", reached(ratio=1 / 1.05),
                   "lower")
    yield compared(found, group, f"what was stored, per second of storing (plain: {WRITERS} writers)", "GB/s",
                   ("writers", lambda one: one["bytes"] / one["seconds"] / 1e9),
                   ("fresh", lambda one: one["freeze"]["stored_bytes"] / one["freeze"]["store_seconds"] / 1e9), better="higher")
    yield left(found, group, "fresh", "GPU memory left while frozen (plain: a bare context)", bare, "a context's",
               reached((bare + SPARE) / MIB))


def freeze_transformers(runner, seconds):
    """A model of transformers."""
    folder = runner.memory_folder()
    target = os.path.join(folder, "model-frozen")
    need_memory(scaled(runner, 16 * GIB, 5 * GIB), folder)
    found = Found()

    def do(_, found):
        found.part("driver", process.by_driver)
        found.part("prepare", lambda: process.prepare(target))
        found.part("ahead", lambda: process.by_rewarm(target))
        remove(target)
    bare = bare_context(runner)
    with subject(runner, runner.python("frozen_model.py", "--layers", 8 if runner.options.quick else 32)) as process:
        found.repeat(do, 1 if runner.options.quick else 3, seconds * 0.7, "freeze, transformers")
    yield from told(transformers_rows(found, process.live.ready, bare), found)
    yield whole(found, "freeze_transformers", process, "the same tokens after each thaw")


def transformers_rows(found, ready, bare):
    group, what = "freeze_transformers", f"a Llama of {ready['weights'] / 1e9:.1f} GB"
    yield compared(found, group, f"thaw of {what}, tmpfs", "s", ("driver", "thaw_s"), ("ahead", "thaw_s"), "<= 0.4", reached(0.4),
                   note=by(found, "ahead", "thaw", "verified_by"), parts=found.values, ready=ready)
    yield compared(found, group, f"freeze of {what}, files made ahead", "s", ("driver", "freeze_s"), ("ahead", "freeze_s"))
    yield compared(found, group, "the first tokens that it generates afterwards", "s", ("driver", lambda one: one["check"]["generate_s"]),
                   ("ahead", lambda one: one["check"]["generate_s"]), note=f"(before {ready['generate_s']:.2f} s)")
    yield compared(found, group, "thaw and generate, the command from start to end", "s",
                   ("driver", lambda one: one["thaw_wall_s"] + one["check"]["generate_s"]),
                   ("ahead", lambda one: one["thaw_wall_s"] + one["check"]["generate_s"]))
    yield left(found, group, "ahead", "GPU memory left while frozen (plain: a bare context without torch)", bare)
