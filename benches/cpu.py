"""The rows of `scripts/bench --cpu`: the page reader against other readers of files, without a GPU."""
import os
import statistics

import inspecting
import loading
import storage
from report import at_least, row, skipped
from runner import Side, Skip, say

STRATEGIES = ("auto", "pread", "readahead", "direct", "io_uring")
CHUNK = ("bs=4M", "status=none")
TOUCHER = "mmap toucher"


def reader(runner):
    path = os.path.join(os.path.dirname(runner.library), "examples", "read_files")
    if not os.path.exists(path):
        raise Skip("read_files is not built (cargo build --release --example read_files)")
    return path


def rates(result):
    line = result["lines"][-1]
    return {"GB/s": line["bytes"] / line["seconds"] / 1e9}


def fetched(result):
    line = result["lines"][-1]
    return {"GB/s": line["read"] / line["seconds"] / 1e9}


def whole(paths):
    """Of a program without figures of its own, the time of the process counts."""
    size = sum(map(os.path.getsize, paths))
    return lambda result: {"GB/s": size / result["wall_s"] / 1e9}


def others(runner, paths, disk, before):
    """cat, dd, a toucher of mapped pages and fio."""
    each = 'for file; do dd if="$file" of=/dev/null %s; done'
    sides = [Side("cat", ["sh", "-c", 'cat "$@" > /dev/null', "cat", *paths], whole(paths)),
             Side("dd bs=4M", ["sh", "-c", each % " ".join(CHUNK), "dd", *paths], whole(paths)),
             Side(TOUCHER, [runner.program("touch"), *paths], rates)]
    if before:
        direct = each % " ".join((*CHUNK, "iflag=direct"))
        sides.append(Side("dd bs=4M iflag=direct", ["sh", "-c", direct, "dd", *paths], whole(paths)))
    if disk:
        disk_rates = rates if not disk.fio else lambda result: {"GB/s": storage.rate_of_fio(result["lines"][-1])}
        sides.append(Side(disk.name(), disk.command(), disk_rates))
    return [side._replace(before=before) for side in sides]


def ours(runner, paths, before, keep):
    """Every strategy of the page reader, and, where bytes are to stay in the cache, `rewarm prefetch`."""
    sides = [Side(f"page reader, {strategy}", [reader(runner), "--strategy", strategy, *paths], rates, before=before)
             for strategy in STRATEGIES]
    if keep:
        sides += [Side(f"rewarm prefetch, {strategy}", [runner.tool(), "prefetch", "--json", "--strategy", strategy, *paths], fetched,
                       before=before) for strategy in ("auto", "pread", "readahead")]
    return sides


def measure(runner, group, when, folder, seconds, disk, cold):
    """The rows of one state of the files: the others by themselves, ours against the best of them in the same rounds."""
    paths, stayed = storage.listed(folder), []

    def evict():
        stayed.append(storage.evict(paths))
    before = evict if cold else None
    rivals, mine = others(runner, paths, disk, before), ours(runner, paths, before, cold)
    found, gone, results = runner.contest(rivals + mine, loading.reduced(runner, 3), seconds, when)
    values = {name: [one["GB/s"] for one in measured] for name, measured in found.items()}
    # Touching cached pages copies nothing: no rival for readers.
    names = [side.name for side in rivals if side.name in values and (cold or side.name != TOUCHER)]
    best = max(names, key=lambda name: statistics.median(values[name]))
    note = f"NOT COLD: {max(stayed) * 100:.0f} % stayed" if cold and max(stayed) > loading.COLD else ""
    for side in rivals + mine:
        label = f"{when}: {side.name}"
        if side.name in gone:
            yield skipped(group, label, gone[side.name])
        elif side in rivals:
            yield row(group, label, "GB/s", values[side.name], [], note=note or "(best)" * (side.name == best))
        else:
            auto = side.name.endswith("auto")
            used = results[side.name][0]["lines"][-1].get("strategies")
            verdict = at_least(ratio=0.95) if auto and not note else None
            yield row(group, label, "GB/s", values[best], values[side.name], ">= 95 % of the best" if auto else "", verdict, note,
                      best=best, strategies=used)


def disk_folder(runner):
    """A folder on a disk: the one that was given, else one beside the results."""
    for folder in runner.options.files:
        if not storage.in_memory(folder):
            return loading.model(runner, folder, loading.model_bytes(runner.options))
    folder = os.path.join(runner.disk_folder(), "model")
    return loading.model(runner, folder, loading.model_bytes(runner.options))


def searched(runner, folder, seconds, engines, cold):
    disk = storage.Disk(storage.listed(folder), runner.options.fio, runner.scratch, say, engines, cold)
    disk.search(seconds)
    return disk


def pages_cold(runner, seconds):
    folder = disk_folder(runner)
    disk = searched(runner, folder, seconds * 0.3, storage.ON_DISK, cold=True)
    yield from measure(runner, "cold", f"cold ({storage.file_system(folder)})", folder, seconds * 0.7, disk, cold=True)


def pages_warm(runner, seconds):
    folder = loading.warm(disk_folder(runner))
    disk = searched(runner, folder, seconds * 0.2, storage.IN_CACHE, cold=False)
    yield from measure(runner, "warm", f"page cache ({storage.file_system(folder)})", folder, seconds * 0.8, disk, cold=False)


def pages_tmpfs(runner, seconds):
    folder = loading.model(runner, os.path.join(runner.memory_folder(), "model"), loading.model_bytes(runner.options))
    disk = searched(runner, folder, seconds * 0.2, storage.IN_CACHE, cold=False)
    yield from measure(runner, "tmpfs", "tmpfs", folder, seconds * 0.8, disk, cold=False)


def pages_slow(runner, seconds):
    folder = loading.model(runner, os.path.join(runner.memory_folder(), "small"), 2 * 10**8)
    try:
        with loading.slow_mount(runner, folder) as mounted:
            yield from measure(runner, "slow", "slow mount (1 ms a request, 1 GB/s), cold", mounted, seconds, None, cold=True)
    except OSError as error:
        yield skipped("slow", "slow mount", str(error))


# name: (function, seconds of a whole run, seconds of --quick)
GROUPS = {
    "warm": (pages_warm, 50, 15),
    "tmpfs": (pages_tmpfs, 50, 15),
    "cold": (pages_cold, 120, 40),
    "slow": (pages_slow, 60, 30),
    "inspect": (inspecting.inspect, 60, 10),
}
