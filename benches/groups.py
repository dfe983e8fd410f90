"""The rows of the table, by group. Each function takes a Runner and yields rows; see README.md."""
import json
import os
import select
import statistics
import subprocess

import freezing
import loading
import overhead
import podman
import processes
from report import at_least, doubted, row, size_name, skipped
from runner import GIB, KIB, MIB, Skip, evidence, fanned, say

APIS = (("cuMemcpyHtoD", "copies-driver"), ("cudaMemcpy, static libcudart", "copies-static"),
        ("cudaMemcpy, dynamic libcudart", "copies-dynamic"))


def gbps(size, ns):
    return size / ns


def column(results, side, size, key="median_ns"):
    return [next(line[key] for line in result[side]["lines"] if line.get("bytes") == size) for result in results]


def rates(results, size, key="median_ns"):
    return [[gbps(size, ns) for ns in column(results, side, size, key)] for side in ("plain", "rewarm")]


def verified(results):
    words = {line.get("verified", "no") for result in results for one in result.values() for line in one["lines"]}
    return "bytes checked" if "no" not in words else ""


def bandwidth(runner, group, label, command, sizes, count, seconds, target, verdict, name=None, key="median_ns", **more):
    try:
        results = runner.pairs(command, count, seconds, label, **more)
    except Skip as reason:
        say(f"  {label}: not run: {reason}")
        yield skipped(group, label, str(reason))
        return
    proof, note = evidence(results), fanned(results)
    for size in sizes:
        plain, rewarm = rates(results, size, key)
        first = {side: spread_of([gbps(size, ns) for ns in column(results, side, size, "first_ns")])
                 for side in ("plain", "rewarm")}
        wanted = target(size) if callable(target) else target
        one = row(group, (name or "{label} {size}").format(label=label, size=size_name(size)), "GB/s", plain, rewarm, wanted,
                  verdict(size) if wanted else None, note, checked=verified(results), first=first, evidence=proof)
        yield doubted(one)


def spread_of(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def listed(sizes):
    return ",".join(map(str, sizes))


def large_sizes(runner, most=8 * GIB):
    if runner.options.sim:
        return [32 * MIB, 64 * MIB, 128 * MIB]
    if runner.options.quick:
        return [size for size in (GIB, 2 * GIB) if size <= most]
    return [size for size in (GIB, 2 * GIB, 8 * GIB) if size <= most]


FRAMEWORKS = (("torch", "torch .to('cuda')"), ("cupy", "cupy.asarray"), ("cupy-set", "cupy ndarray.set"), ("numba", "numba cuda.to_device"),
              ("jax", "jax.device_put"))


def h2d(runner, seconds):
    quick, sim = runner.options.quick, runner.options.sim

    def measure(label, prefix, sizes, count, share):
        def command(number):
            return prefix + ["--sizes", listed(sizes), "--reps", "3"] + ["--full"] * (number == 0)
        return bandwidth(runner, "h2d", label, command, sizes, count, seconds * share, ">= 52 and 5x", lambda _: at_least(52, 5),
                         env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})

    for label, program in APIS:
        by_driver = program == APIS[0][1]
        sizes = large_sizes(runner) if by_driver or sim or quick else [GIB, 8 * GIB]
        try:
            prefix = [runner.program(program), "large", "--dir", "h2d"]
        except Skip as reason:
            yield skipped("h2d", label, str(reason))
            continue
        yield from measure(label, prefix, sizes, 2 if quick else 3, 0.2 if by_driver else 0.12)
    for name, label in FRAMEWORKS:
        if not quick or name == "torch":
            sizes = large_sizes(runner, 8 * GIB if name == "torch" else 2 * GIB)
            yield from measure(label, runner.python("frameworks.py", "copy", name), sizes, 1 if quick else 2,
                               0.18 if name == "torch" else 0.125)


MID = {4 * MIB: 1.3, 16 * MIB: 2, 64 * MIB: 3, 256 * MIB: 4.5}


def mid_program(runner):
    """cudaMemcpy where it is there, else the driver's own."""
    for label, program in (APIS[1], APIS[0]):
        if os.path.exists(os.path.join(runner.programs, program)) and not (runner.options.sim and program != APIS[0][1]):
            return label, program
    raise Skip("no copy program is built")


def mid(runner, seconds):
    label, program = mid_program(runner)
    command = [runner.program(program), "mid", "--dir", "h2d", "--sizes", listed(MID), "--budget-ms", "250"]
    yield from bandwidth(runner, "mid", label, command, MID, 2 if runner.options.quick else 4, seconds,
                         lambda size: f">= {MID[size]:g}x", lambda size: at_least(ratio=MID[size]),
                         name="{label}, source in cache, {size}")


def cpus(runner, seconds):
    allowed = sorted(os.sched_getaffinity(0))
    wanted = ((1, 1.8), (2, 2), (4, 4))
    sizes = [64 * MIB] if runner.options.sim else [GIB] if runner.options.quick else [GIB, 2 * GIB]
    for count, ratio in wanted:
        if count > len(allowed):
            yield skipped("cpus", f"cuMemcpyHtoD with {count} CPUs", f"this machine has {len(allowed)}")
            continue
        command = [runner.program("copies-driver"), "large", "--dir", "h2d", "--sizes", listed(sizes), "--reps", "3"]
        yield from bandwidth(runner, "cpus", f"cuMemcpyHtoD with {count} CPU" + "s" * (count > 1), command, sizes,
                             1 if runner.options.quick else 3, seconds / 3, f">= {ratio:g}x",
                             lambda _, ratio=ratio: at_least(ratio=ratio), cpus=set(allowed[:count]))


def d2h(runner, seconds):
    sizes = large_sizes(runner)

    def command(number):
        return [runner.program("copies-driver"), "large", "--dir", "d2h", "--sizes", listed(sizes), "--reps", "3"] \
            + ["--full"] * (number == 0)
    yield from bandwidth(runner, "d2h", "cuMemcpyDtoH", command, sizes, 2 if runner.options.quick else 3, seconds * 0.7,
                         ">= 40", lambda _: at_least(40))
    command_mid = [runner.program("copies-driver"), "mid", "--dir", "d2h", "--sizes", listed(MID), "--budget-ms", "150"]
    yield from bandwidth(runner, "d2h", "cuMemcpyDtoH", command_mid, MID, 2 if runner.options.quick else 3, seconds * 0.3,
                         "", lambda _: None, name="{label}, destination in cache, {size}")


def first(runner, seconds):
    """Fresh processes: plain, preloaded, preloaded with the prewarmed context."""
    try:
        results = runner.rounds(["plain", "rewarm", "prewarm"], runner.python("frameworks.py", "first"),
                                2 if runner.options.quick else 5, seconds, "first use")
    except Skip as reason:
        yield skipped("first", "first CUDA use after import torch", str(reason))
        return

    def values(side, key):
        return [result[side]["lines"][-1][key] for result in results]
    waits = [result["prewarm"]["stats"] for result in results if result["prewarm"]["stats"]]
    context = [report["context"] for report in waits]
    name = "first CUDA use after import torch"
    yield row("first", name + ", prewarmed", "s", values("plain", "first_use_s"), values("prewarm", "first_use_s"), "<= 0.10",
              lambda one: one["rewarm"]["median"] <= 0.10, better="lower", context=context)
    yield row("first", name + ", preloaded only", "s", values("plain", "first_use_s"), values("rewarm", "first_use_s"),
              better="lower")
    yield row("first", "import torch itself, prewarmed", "s", values("plain", "import_s"), values("prewarm", "import_s"),
              better="lower")
    yield row("first", "the whole script, prewarmed", "s", [r["plain"]["wall_s"] for r in results],
              [r["prewarm"]["wall_s"] for r in results], better="lower")


def inert(runner, seconds):
    del seconds
    runs = 40 if runner.options.quick else runner.options.inert_runs
    for command in (["bash", "-c", "true"], ["python3", "-c", "pass"]):
        label = " ".join(command)
        try:
            result = runner.once("plain", [runner.program("spawn"), runner.library, str(runs), *command], timeout=200)
        except Skip as reason:
            yield skipped("inert", label, str(reason))
            continue
        lines = {line["side"]: line for line in result["lines"]}
        plain, with_it, more = lines["plain"], lines["rewarm"], lines["difference"]
        one = row("inert", f"{label}, {runs} runs", "ms", [plain["median_ns"] / 1e6], [with_it["median_ns"] / 1e6],
                  "<= 0.1 ms more", more["median_ns"] <= 100e3, better="lower", raw=lines)
        one["note"] = ("unclear " if one["reached"] is None else "") + f"({more['median_ns'] / 1e6:+.3f} ms median, {more['mean_ns'] / 1e6:+.3f} mean)"
        yield one
    look = "import os; print('{\"threads\": %d, \"descriptors\": %d}' % (len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd'))))"
    try:
        seen = {side: runner.once(side, ["python3", "-c", look])["lines"][-1] for side in ("plain", "rewarm")}
        same = seen["plain"] == seen["rewarm"]
        yield row("inert", "threads + descriptors of python3", "", [sum(seen["plain"].values())], [sum(seen["rewarm"].values())],
                  "the same", same, better="lower", seen=seen)
    except Skip as reason:
        yield skipped("inert", "threads + descriptors of python3", str(reason))


def memory_of(pid):
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    names = ("VmRSS", "VmLck", "VmPin", "HugetlbPages", "Threads")
    return {name: int(fields[name].split()[0]) for name in names if name in fields}


def hold(runner, side, size):
    """The stages of one process: {stage: {"status": …, "report": …}}, and its report at the end."""
    stats = os.path.join(runner.scratch, f"hold-{size}.json")
    env = runner.environment(side)
    if side != "plain":
        env["REWARM_STATS"] = stats
    tool = os.path.join(os.path.dirname(runner.library), "rewarm")
    stages = {}
    with open(os.path.join(runner.scratch, "hold.err"), "w+") as err:
        runner.child = child = subprocess.Popen([runner.program("hold"), "--bytes", str(size)], env=env, stdin=subprocess.PIPE,
                                                stdout=subprocess.PIPE, stderr=err, text=True, bufsize=1, start_new_session=True)
        while True:
            if not select.select([child.stdout], [], [], 60)[0]:
                raise Skip(f"{side}: hold says nothing")
            line = child.stdout.readline()
            if not line:
                break
            said = json.loads(line)
            if "error" in said:
                raise Skip(f"{side}: {said['error']}")
            entry = stages[said["stage"]] = {"status": memory_of(child.pid)}
            if side != "plain" and os.path.exists(tool):
                asked = subprocess.run([tool, "status", "--pid", str(child.pid), "--json"], env=runner.environment("plain"),
                                       capture_output=True, text=True, timeout=20)
                try:
                    entry["report"] = json.loads(asked.stdout)
                except ValueError:
                    entry["complaint"] = asked.stderr.strip()[-200:]
            child.stdin.write("\n")
            child.stdin.flush()
        if child.wait(60):
            raise Skip(f"{side}: hold ended with {child.returncode}")
        runner.child = None
    final = None
    if os.path.exists(stats):
        with open(stats) as file:
            final = json.load(file)
    return stages, final


def pinned(report):
    """Most pinned bytes of a device, in a report of one process or a list of them; None where there is none."""
    if isinstance(report, dict) and "processes" in report:
        report = report["processes"]
    if isinstance(report, list):
        report = report[0] if report else None
    if not isinstance(report, dict) or "devices" not in report:
        return None
    return max([device["pinned_bytes"] for device in report["devices"]], default=0)


def memory(runner, seconds):
    del seconds
    size = 64 * MIB if runner.options.sim else GIB
    try:
        plain, _ = hold(runner, "plain", size)
        small, before = hold_small(runner)
        stages, final = hold(runner, "rewarm", size)
    except Skip as reason:
        yield skipped("memory", "pinned memory", str(reason))
        return

    def value(stage, fallback):
        live = pinned(stages.get(stage, {}).get("report"))
        return live if live is not None else pinned(fallback)
    detail = {"plain_stages": plain, "stages": stages, "final": final, "without_large": before, "small": small}
    for stage, fallback, most in (("small", before, 0), ("large", final, 160)):
        got = value(stage, fallback)
        label = "pinned per device " + ("before the first large copy" if stage == "small" else "after it")
        if got is None:
            yield skipped("memory", label, "no report (REWARM_STATS, rewarm status)")
            continue
        yield row("memory", label, "MiB", [], [got / MIB], "none" if not most else f"<= {most}", got <= most * MIB, better="lower", **detail)
        detail = {}
    grown = [(s["large"]["status"]["VmRSS"] - s["context"]["status"]["VmRSS"]) / 1024 for s in (plain, stages)]
    yield row("memory", "resident memory gained by the first large copy", "MiB", [grown[0]], [grown[1]], better="lower",
              note=f"threads {plain['large']['status']['Threads']} and {stages['large']['status']['Threads']}")


def hold_small(runner):
    """A process that never makes a large copy, for drivers of this script that have only the report at the end."""
    return hold(runner, "rewarm", 64 * KIB)


SWEEP_SMALL = [4**n for n in range(1, 13)] + [64 * MIB]  # 4 B to 64 MiB
SWEEP_LARGE = [256 * MIB, GIB, 4 * GIB, 8 * GIB]


def compare(results, direction, size):
    """Paired differences of the medians and of the lowest, against 2 % or 200 ns, whichever is more."""
    def values(side, key):
        return [next(line[key] for line in result[side]["lines"] if (line["dir"], line["bytes"]) == (direction, size))
                for result in results]
    plain, rewarm = values("plain", "median_ns"), values("rewarm", "median_ns")
    differences = [b - a for a, b in zip(plain, rewarm)]
    difference, base = statistics.median(differences), statistics.median(plain)
    low_base, low_rewarm = statistics.median(values("plain", "min_ns")), statistics.median(values("rewarm", "min_ns"))
    by_median, by_lowest = difference > max(0.02 * base, 200), low_rewarm - low_base > max(0.02 * low_base, 200)
    noise = max(plain) - min(plain)
    verdict = "ok"
    if by_median and by_lowest:
        verdict = "SLOWER" if difference > noise else "slower, within the plain runs' spread"
    elif by_median or by_lowest:
        verdict = "unclear: " + ("median" if by_median else "lowest") + " only"
    return {"bytes": size, "plain": base, "rewarm": statistics.median(rewarm), "difference": difference,
            "differences": differences, "plain_min": low_base, "rewarm_min": low_rewarm, "plain_spread": noise,
            "pairs": len(results), "verdict": verdict}


DIRECTIONS = ("h2d", "d2h")


def sweep_kind(runner, kind, seconds):
    """{(direction, size): comparison} of one kind of host memory; one process goes through both directions."""
    options, found = runner.options, {}
    small = [size for size in SWEEP_SMALL if size <= 16 * MIB] if options.sim else SWEEP_SMALL
    large = [] if options.sim else SWEEP_LARGE[:2] if options.quick else SWEEP_LARGE

    def measure(sizes, budget, count, share, what):
        command = [runner.program("copies-driver"), "sweep", "--dir", "both", "--kind", kind, "--sizes", listed(sizes),
                   "--budget-ms", str(budget), "--reps", "2"]
        results = runner.pairs(command, count, seconds * share, f"{kind}, {what}")
        return {(direction, size): compare(results, direction, size) for direction in DIRECTIONS for size in sizes}

    found.update(measure(small, 40, 3 if options.quick else 5, 0.45, "small"))
    if large:
        found.update(measure(large, 0, 2, 0.35, "large"))
    # A doubtful size is measured again, by itself and longer, before it is called slower.
    doubtful = sorted({size for (_, size), entry in found.items() if entry["verdict"] != "ok"})
    for some, what in (([s for s in doubtful if s in small], "small"), ([s for s in doubtful if s in large], "large")):
        if some:
            say(f"  again: {', '.join(map(size_name, some))}")
            for key, entry in measure(some, 80, 6 if what == "small" else 2, 0.3, what + ", again").items():
                if found[key]["verdict"] != "ok":
                    found[key] = dict(entry, at_first=found[key])
    return found


def sweep(runner, seconds):
    for kind in ("pageable", "pinned"):
        try:
            found = sweep_kind(runner, kind, seconds / 2)
        except Skip as reason:
            yield skipped("sweep", f"{kind}, every size", str(reason))
            continue
        for direction in DIRECTIONS:
            entries = [found[key] for key in sorted(found) if key[0] == direction]
            bad = [entry for entry in entries if entry["verdict"] == "SLOWER"]
            noisy = [entry for entry in entries if entry["verdict"].startswith("slower")]
            vague = [entry for entry in entries if entry["verdict"].startswith("unclear")]
            worst = max(entries, key=lambda entry: entry["difference"] / max(0.02 * entry["plain"], 200))
            note = (f"(worst: {size_name(worst['bytes'])} {worst['difference']:+.0f} ns, "
                    f"{worst['difference'] / worst['plain'] * 100:+.1f} %)")
            for words, which in (("slower", bad), ("slower, but within plain's spread", noisy), ("unclear", vague)):
                if which:
                    note += f" {words}: " + ", ".join(size_name(entry["bytes"]) for entry in which)
            yield row("sweep", f"{kind} {direction}, {size_name(entries[0]['bytes'])} to {size_name(entries[-1]['bytes'])}",
                      "ns at 4 B", [entries[0]["plain"]], [entries[0]["rewarm"]], "none > 2 % or 200 ns slower",
                      False if bad else None if noisy else True, note,
                      better="lower", sizes=entries)


def pin(runner, seconds):
    sizes = [64 * MIB] if runner.options.sim else [2 * GIB] if runner.options.quick else [2 * GIB, 8 * GIB]
    plan = (("cuMemHostAlloc", [runner.program("hostalloc"), "--sizes", listed(sizes), "--reps", "1"]),
            ("torch pin_memory()", runner.python("frameworks.py", "pin", "--sizes", listed(sizes))))
    for label, command in plan:
        try:
            results = runner.pairs(command, 1 if runner.options.quick else 2, seconds / 2, label)
        except Skip as reason:
            yield skipped("pin", label, str(reason))
            continue
        for size in sizes:
            def values(side):
                return [next(line["median_ns"] for line in result[side]["lines"]
                             if line["bytes"] == size and line["call"] != "cuMemFreeHost") / 1e9 for result in results]
            yield row("pin", f"{label} {size_name(size)}", "s", values("plain"), values("rewarm"), "3x, if built",
                      lambda one: True if one["ratio"]["median"] >= 3 else None, better="lower")


# name: (function, seconds of a whole run, seconds of --quick)
GROUPS = {
    "h2d": (h2d, 130, 24),
    "d2h": (d2h, 20, 6),
    "mid": (mid, 10, 3),
    "cpus": (cpus, 30, 8),
    "loaders": (loading.loaders, 130, 25),
    "load": (loading.load, 45, 15),
    "first": (first, 25, 10),
    "calls": (overhead.calls, 35, 5),
    "inert": (inert, 10, 3),
    "memory": (memory, 5, 5),
    "sweep": (sweep, 70, 10),
    "pin": (pin, 20, 6),
    "cold": (loading.cold, 170, 40),
    "fewcpus": (loading.few_cpus, 75, 20),
    "slowfs": (loading.slow_file_system, 60, 30),
    "peers": (loading.peers, 230, 60),
    "freeze": (freezing.freeze, 150, 40),
    "freeze_large": (freezing.freeze_large, 100, 30),
    "freeze_transformers": (freezing.freeze_transformers, 100, 60),
    "process": (processes.process, 150, 60),
    "process_transformers": (processes.process_transformers, 200, 60),
    "process_cold": (processes.process_cold, 100, 40),
    "process_four": (processes.process_four, 100, 40),
    "freezable": (overhead.freezable, 100, 30),
    "podman": (podman.restores, 100, 60),
}
