"""The rows about loading files: rewarm against the plain run, the disk's own speed and other projects; see README.md."""
import functools
import glob
import os
import shutil
import statistics
import subprocess

import storage
import weights
from report import at_least, doubted, row, skipped
from runner import MIB, Side, Skip, evidence, fanned, say

STRATEGIES = ("pread", "readahead", "io_uring")
LOADERS = {
    "load_file": "load_file + .to('cuda')",
    "vllm": "vLLM's weight iterator",
    "from_pretrained": "transformers from_pretrained(device_map='cuda')",
    "load_file_device": "load_file(device='cuda:0')",
    "transformers": "transformers Llama .to('cuda'), no file",
}
# Above this share of its pages in the cache, a file is not cold.
COLD = 0.01


# ---------------------------------------------------------------- the files

def model_bytes(options):
    return options.loader_bytes or (2 * 10**8 if options.sim else 2 * 10**9 if options.quick or options.cpu
                                    else weights.FULL_BYTES)


def model(runner, folder, size):
    """The folder, with a model in it: files that are there already are used as they are."""
    if not weights.files(folder):
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(folder)) or "/").free
        if free < size * 1.05:
            raise Skip(f"{folder}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed")
        made = runner.once("plain", ["python3", os.path.join(os.path.dirname(__file__), "weights.py"), "make", folder,
                                     "--bytes", str(size)], timeout=300)["lines"][-1]
        say(f"  {folder}: {made['bytes'] / 1e9:.1f} GB in {made['seconds']:.1f} s")
    return folder


def models(runner):
    """The model's folders: those asked for, else one in memory."""
    folders = runner.options.files or [os.path.join(runner.memory_folder(), "model")]
    return [model(runner, folder, model_bytes(runner.options)) for folder in folders]


def on_disk(runner):
    """The first folder whose files can leave memory."""
    for folder in models(runner):
        if not storage.in_memory(folder):
            return folder
    raise Skip("no files on a disk (--files DIR)")


def warm(folder):
    paths = storage.listed(folder)
    if storage.resident(paths) < 0.999:
        storage.read(paths, 8, direct=False)
    return folder


def place(folder):
    kind = storage.file_system(folder)
    return kind if storage.in_memory(folder) else f"page cache ({kind})"


# ---------------------------------------------------------------- the sides

def loader_rates(result):
    line = result["lines"][-1]
    return {"first load": line["bytes"] / line["first_ns"], "later loads": line["bytes"] / line["median_ns"]}


def tool_rates(result):
    loads = result["lines"][-1]["loads"]
    later = [load["gb_per_s"] for load in loads[1:]] or [loads[0]["gb_per_s"]]
    return {"first load": loads[0]["gb_per_s"], "later loads": statistics.median(later)}


def loader(runner, name, folder, mode, reps=2, cold=False, more=None, verify=True):
    def command(number):
        return (runner.python("loaders.py", name, folder, "--reps", reps, "--bytes", model_bytes(runner.options))
                + ["--full"] * (verify and number == 0) + ["--cold"] * cold)
    more = {**(more or {}), "env": python_path(runner)}  # from_pretrained imports accelerate
    return Side(mode, command, loader_rates, mode, more=more)


def tool(runner, folder, *arguments, name="rewarm", verify=False, more=None):
    """`rewarm load` by itself, without the preloaded library."""
    def command(number):
        return [runner.tool(), "load", "--json", *arguments, *(["--verify"] * (verify and number == 0)), folder]
    return Side(name, command, tool_rates, more=more or {})


def disk_side(runner, disk):
    def rates(result):
        line = result["lines"][-1]
        return {"first load": storage.rate_of_fio(line) if "jobs" in line else line["bytes"] / line["seconds"] / 1e9}
    return Side("disk", disk.command(), rates, before=lambda: storage.evict(disk.paths))


def timed_side(name, command, paths, before=None):
    """A program whose whole run counts, process and all."""
    size = sum(map(os.path.getsize, paths))
    return Side(name, command, lambda result: {"first load": size / result["wall_s"] / 1e9}, before=before)


# ---------------------------------------------------------------- rows

def shares(results):
    """The most that was resident before a load, as a share, or None."""
    found = []
    for line in filter(None, (result["lines"] and result["lines"][-1] for result in results)):
        found += line.get("resident_before") if isinstance(line.get("resident_before"), list) else []
        for load in line.get("loads", []):
            there = load.get("resident_before")
            found += [there / line["bytes"]] if there is not None else []
    return max(found, default=None)


def compared(group, label, contest, ours, plain, target, verdict, what="first load", cold=False, proof=False):
    """One row out of a contest; `ours` and `plain` name the sides."""
    rates, gone, results = contest
    if not rates.get(ours):
        return skipped(group, label, gone.get(ours, "no round fitted"))
    notes = [f"plain: not run: {gone[plain]}"] if plain in gone else []
    preloaded = [{ours: result} for result in results[ours] if result["stats"]]
    if proof and fanned(preloaded):
        notes.append(fanned(preloaded))
    stayed = max((shares(results[side]) or 0 for side in (plain, ours) if results.get(side)), default=0)
    if cold and stayed > COLD:
        notes.append(f"NOT COLD: {stayed * 100:.0f} % stayed in the page cache")
    values = [[one[what] for one in rates.get(side) or [] if what in one] for side in (plain, ours)]
    detail = {"resident_before": stayed, "others": {name: [one.get(what) for one in found] for name, found in rates.items()}}
    if preloaded:
        detail["evidence"] = evidence(preloaded)
    lines = [result["lines"][-1] for result in results[ours]]
    detail["checked"] = [line.get("verified") for line in lines]
    if "loads" in lines[0]:
        pinned = max(line.get("pinned_bytes") or 0 for line in lines)
        detail.update(pinned_bytes=pinned, strategies=lines[0]["loads"][0].get("strategies"),
                      setup_seconds=[line.get("setup_seconds") for line in lines])
    one = doubted(row(group, label, "GB/s", *values, target, verdict, "; ".join(notes), **detail))
    if plain in gone:
        one["reached"] = None
    if not one["note"] and "disk" in rates and plain != "disk":
        one["note"] = f"(disk {statistics.median(r[what] for r in rates['disk']):.2f})"
    return one


def of_disk(one):
    """At least 95 % of what the disk gave in the same rounds."""
    measured = one["others"].get("disk")
    return one["rewarm"]["median"] >= 0.95 * statistics.median(measured) if measured else None


def reduced(runner, count):
    return 1 if runner.options.quick or runner.options.sim else count


# ---------------------------------------------------------------- groups

def load(runner, seconds):
    """`rewarm load`, warm, the first load of a fresh process."""
    folders = models(runner)
    for folder in folders:
        warm(folder)
        sides = [loader(runner, "load_file_device", folder, "plain", reps=1, verify=False),
                 tool(runner, folder, "--repeat", "2", verify=True)]
        sides += [tool(runner, folder, "--strategy", strategy, name=strategy) for strategy in STRATEGIES]
        contest = runner.contest(sides, reduced(runner, 3), seconds / len(folders), f"rewarm load, {place(folder)}")
        label = f"rewarm load, {weights.payload(folder) / 1e9:.1f} GB, {place(folder)}"
        yield compared("load", f"{label}, first load", contest, "rewarm", "plain", ">= 50", at_least(50))
        yield compared("load", f"{label}, later load", contest, "rewarm", "", "", None, "later loads")
        for strategy in STRATEGIES:
            yield compared("load", f"{label}, --strategy {strategy}", contest, strategy, "plain", "", None)


def loaders(runner, seconds):
    """Programs as they are, warm."""
    folder = warm(models(runner)[0])
    for name, label in LOADERS.items():
        by_device = name == "load_file_device"
        if name == "transformers" and runner.options.quick:
            continue
        reps = 1 if name == "transformers" else 2
        sides = [loader(runner, name, folder, mode, reps) for mode in ("plain", "rewarm")]
        contest = runner.contest(sides, reduced(runner, 2), seconds / len(LOADERS), label)
        size = model_bytes(runner.options) if name == "transformers" else weights.payload(folder)
        where = f"{label}, {size / 1e9:.1f} GB" + ("" if name == "transformers" else f", {place(folder)}")
        target, verdict = (">= 1.5x", at_least(ratio=1.5)) if by_device else (">= 40", at_least(40))
        yield compared("loaders", f"{where}, first load", contest, "rewarm", "plain", target, verdict, proof=not by_device)
        if reps > 1:
            yield compared("loaders", f"{where}, later loads", contest, "rewarm", "plain", "", None, "later loads",
                           proof=not by_device)


def cold(runner, seconds):
    """Nothing in the page cache, against the disk's best in the same minute."""
    folder = on_disk(runner)
    paths = storage.listed(folder)
    disk = storage.Disk(paths, runner.options.fio, runner.scratch, say)
    disk.search(seconds * 0.2)
    rival, share = disk_side(runner, disk), seconds * 0.2
    target, name = ">= 95 % of the disk", disk.name()
    for kind in ("vllm", "load_file"):
        sides = [rival] + [loader(runner, kind, folder, mode, 1, cold=True) for mode in ("plain", "rewarm")]
        contest = runner.contest(sides, reduced(runner, 2), share, f"{LOADERS[kind]}, cold")
        yield compared("cold", f"{LOADERS[kind]}, cold", contest, "rewarm", "plain", target, of_disk, cold=True)
    contest = runner.contest([rival, tool(runner, folder, "--cold", verify=True)], reduced(runner, 3), share, "rewarm load, cold")
    yield compared("cold", f"rewarm load --cold (plain: {name})", contest, "rewarm", "disk", target, of_disk, cold=True)
    yield from prefetch(runner, folder, disk, rival, share)


def prefetch(runner, folder, disk, rival, seconds):
    paths, evict = disk.paths, lambda: storage.evict(disk.paths)

    def rates(result):
        line = result["lines"][-1]
        return {"first load": line.get("gb_per_s") or line["read"] / line["seconds"] / 1e9}
    try:
        sides = [rival, timed_side("plain", ["sh", "-c", 'cat "$@" > /dev/null', "cat", *paths], paths, evict),
                 Side("rewarm", [runner.tool(), "prefetch", "--json", folder], rates, before=evict)]
    except Skip as reason:
        yield skipped("cold", "rewarm prefetch, cold", str(reason))
        return
    contest = runner.contest(sides, reduced(runner, 2), seconds, "rewarm prefetch, cold")
    yield compared("cold", "rewarm prefetch, cold (plain: cat)", contest, "rewarm", "plain", ">= 95 % of the disk", of_disk)


def few_cpus(runner, seconds):
    """Two CPUs."""
    two = {"cpus": set(sorted(os.sched_getaffinity(0))[:2])}
    try:
        places = [(on_disk(runner), True)]
    except Skip:
        places = []
    places.insert(0, (warm(models(runner)[0]), False))
    for folder, is_cold in places:
        when = "cold" if is_cold else f"warm, {place(folder)}"
        sides = [loader(runner, "vllm", folder, mode, 1, is_cold, two) for mode in ("plain", "rewarm")]
        contest = runner.contest(sides, 1, seconds / 4, f"2 CPUs, vLLM's iterator, {when}")
        yield compared("fewcpus", f"2 CPUs, vLLM's weight iterator, {when}", contest, "rewarm", "plain", "no slower (0.95x)",
                       at_least(ratio=0.95), cold=is_cold)
        sides = [loader(runner, "load_file", folder, "plain", 1, is_cold, two),
                 tool(runner, folder, *["--cold"] * is_cold, more=two)]
        contest = runner.contest(sides, 1, seconds / 4, f"2 CPUs, rewarm load, {when}")
        yield compared("fewcpus", f"2 CPUs, rewarm load, {when} (plain: load_file + .to)", contest, "rewarm", "plain",
                       "no slower (0.95x)", at_least(ratio=0.95), cold=is_cold)


SLOW_LATENCY_US, SLOW_BANDWIDTH = 1000, 10**9


def slow_mount(runner, folder):
    try:
        return storage.slow_mount(runner.program("slow-fs"), folder, os.path.join(runner.scratch, "slow"), SLOW_LATENCY_US,
                                  SLOW_BANDWIDTH)
    except OSError as error:
        raise Skip(str(error)) from error


def slow_file_system(runner, seconds):
    """A mount where each request takes 1 ms and the link carries 1 GB/s, cold."""
    folder = model(runner, os.path.join(runner.memory_folder(), "small"), 2 * 10**8 if runner.options.sim else 10**9)
    try:
        with slow_mount(runner, folder) as mounted:
            sides = [loader(runner, "vllm", mounted, mode, 1, cold=True) for mode in ("plain", "rewarm")]
            contest = runner.contest(sides, reduced(runner, 2), seconds / 2, "slow mount, vLLM's iterator")
            yield compared("slowfs", "slow mount, vLLM's weight iterator, cold", contest, "rewarm", "plain", "no slower (0.95x)",
                           at_least(ratio=0.95), cold=True)
            sides = [loader(runner, "load_file", mounted, "plain", 1, cold=True), tool(runner, mounted, "--cold")]
            contest = runner.contest(sides, reduced(runner, 2), seconds / 2, "slow mount, rewarm load")
            yield compared("slowfs", "slow mount, rewarm load, cold (plain: load_file + .to)", contest, "rewarm", "plain",
                           "no slower (0.95x)", at_least(ratio=0.95), cold=True)
    except OSError as error:
        yield skipped("slowfs", "slow mount", str(error))


# ---------------------------------------------------------------- peers

# name in peers.py: (for people, the start of its wheel's name or none)
PEERS = {
    "instanttensor": ("InstantTensor", "instanttensor-"),
    "safetensors-prefetch": ("safetensors 0.9 prefetch", "safetensors-0.9"),
    "fastsafetensors": ("fastsafetensors", "fastsafetensors-"),
    "flashpack": ("flashpack (own format)", "flashpack-"),
    "runai": ("Run:ai streamer", "runai_model_streamer-"),
    "safetensors": ("safetensors load_file(device)", ""),
}
# Small projects that some of them import.
SHARED_WHEELS = ("humanize-", "accelerate-", "psutil-", "typer-")


@functools.cache
def site(runner, *starts):
    """Wheels of `--wheels` in a folder of their own, as a search path; none where there are no such wheels."""
    wheels = [path for start in starts for path in glob.glob(os.path.join(runner.options.wheels or "-", start + "*.whl"))]
    if not wheels:
        return []
    target = os.path.join(runner.scratch, "site-" + starts[0])
    done = subprocess.run([runner.options.python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                           "--target", target, *wheels], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"pip: {done.stderr.strip()[-200:]}")
    return [target]


def python_path(runner, *starts):
    """PYTHONPATH with these wheels, and the small ones that several projects import."""
    sites = (site(runner, *starts) if starts else []) + site(runner, *SHARED_WHEELS)
    return {"PYTHONPATH": ":".join([*sites, *filter(None, [os.environ.get("PYTHONPATH")])])} if sites else {}


def peer_environment(runner, start):
    env = python_path(runner, *filter(None, [start]))
    runtime = glob.glob(os.path.join(runner.runtime, "libcudart.so.1[0-9]")) if runner.runtime else []
    if runtime:  # fastsafetensors opens the bare name, which only development packages have
        folder = os.path.join(runner.scratch, "runtime")
        os.makedirs(folder, exist_ok=True)
        if not os.path.lexists(os.path.join(folder, "libcudart.so")):
            os.symlink(os.path.abspath(runtime[0]), os.path.join(folder, "libcudart.so"))
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
    return env


def peer_rates(result):
    line = result["lines"][-1]
    return {"first load": line["bytes"] / line["first_ns"], "later loads": line["bytes"] / line["second_ns"]}


def peers(runner, seconds):
    """Each peer beside `rewarm load`, in the same rounds, on the same files."""
    folder = warm(models(runner)[0])
    pack = os.path.join(runner.memory_folder(), "converted.flashpack")
    ours = tool(runner, folder, "--repeat", "2", verify=True)
    for name, (title, start) in PEERS.items():
        try:
            environment = peer_environment(runner, start)
        except Skip as reason:
            yield skipped("peers", title, str(reason))
            continue

        def command(number, name=name):
            return runner.python("peers.py", name, folder, "--pack", pack) + ["--full"] * (number == 0)
        rival = Side("plain", command, peer_rates, more={"env": environment, "timeout": 90})
        contest = runner.contest([rival, ours], reduced(runner, 2), seconds / len(PEERS), title)
        for what, words in (("first load", "first load"), ("later loads", "second load")):
            yield peer_row(title, what, words, contest, folder)
        if os.path.exists(pack):
            os.unlink(pack)


def peer_row(title, what, words, contest, folder):
    rates, gone, results = contest
    label = f"{title}, {words}, {place(folder)} (rewarm: rewarm load)"
    if "plain" in gone:
        return skipped("peers", label, gone["plain"])
    one = compared("peers", label, contest, "rewarm", "plain", ">= 1x", at_least(ratio=1), what)
    line = results["plain"][0]["lines"][-1]
    if "skipped" in one:  # without our side: the peer's figure stays
        one = row("peers", label, "GB/s", [rate[what] for rate in rates["plain"]], [], note=f"rewarm: {gone['rewarm']}")
    told = [f"{who} pins {size / MIB:.0f} MiB" for who, size in (("it", line["pinned_bytes"]), ("rewarm", one.get("pinned_bytes")))
            if size is not None]
    one.update(version=line["version"], peer_pinned_bytes=line["pinned_bytes"], verified=line["verified"])
    one["note"] = "; ".join(filter(None, [one["note"], f"({line['version']}; {', '.join(told)})"]))
    return one
