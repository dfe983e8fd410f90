"""Statistics of pairs, verdicts, and the three forms of the result: table, JSON, Markdown."""
import ctypes
import datetime
import glob
import json
import os
import platform
import statistics
import subprocess


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def row(group, name, unit, plain, rewarm, target="", reached=None, note="", better="higher", **detail):
    """One line of the table. `plain` and `rewarm` hold one value for each pair; `reached` may be a function of the row."""
    one = {"group": group, "row": name, "unit": unit, "better": better, "target": target, "note": note}
    if plain:
        one["plain"] = spread(plain)
    if rewarm:
        one["rewarm"] = spread(rewarm)
    if plain and rewarm and len(plain) == len(rewarm) and min(plain) > 0 and min(rewarm) > 0:
        one["ratio"] = spread([b / a if better == "higher" else a / b for a, b in zip(plain, rewarm)])
        one["difference"] = spread([b - a for a, b in zip(plain, rewarm)])
    one.update(detail)
    one["reached"] = reached(one) if callable(reached) else reached
    return one


def skipped(group, name, reason):
    return {"group": group, "row": name, "skipped": reason}


def doubted(one):
    """No "yes" for a run that rewarm took no part in."""
    if one["note"] and one["reached"]:
        one["reached"] = None
    return one


def at_least(rate=None, ratio=None):
    """Whether a row has its rate, and its ratio to the plain run, by medians."""
    def verdict(one):
        return ((rate is None or one["rewarm"]["median"] >= rate)
                and (ratio is None or one.get("ratio", {}).get("median", 0) >= ratio))
    return verdict


def number(value):
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 or not size \
        else f"{value:.3f}"


def shown(stat):
    if not stat:
        return ""
    low, middle, high = number(stat["min"]), number(stat["median"]), number(stat["max"])
    return middle if low == high else f"{middle} ({low} to {high})"


HEAD = ("row", "unit", "plain", "rewarm", "ratio", "target", "reached")


def cells(one):
    if "skipped" in one:
        return (one["row"], "", "", "", "", "", "not run: " + " ".join(one["skipped"].split())[:160])
    reached = {True: "yes", False: "NO", None: ""}[one["reached"]]
    ratio = one.get("ratio")
    return (one["row"], one["unit"], shown(one.get("plain")), shown(one.get("rewarm")),
            number(ratio["median"]) + "x" if ratio else "", one["target"],
            reached + (" " if reached and one["note"] else "") + one["note"])


def table(rows):
    lines = [HEAD] + [cells(one) for one in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD) - 1)]
    text = []
    for number_, line in enumerate(lines):
        text.append("  ".join([cell.ljust(width) for cell, width in zip(line, widths)] + [line[-1]]).rstrip())
        if not number_:
            text.append("  ".join("-" * width for width in widths) + "  -------")
    return "\n".join(text)


def size_name(size):
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def markdown(data):
    text = []
    for run in data["runs"]:
        machine = run["machine"]
        text += [f"Measured {machine['date']} on {machine['gpu']}, driver {machine['driver']}, {machine['cpus']} CPUs "
                 f"({machine['cpu']}), {machine['memory_gib']} GiB of memory, Linux {machine['kernel']}, glibc {machine['glibc']}"
                 + "".join(f", {name} {version}" for name, version in machine["packages"].items()) + ".",
                 "", f"Command: `{run['command']}`", ""]
    text += ["Medians of alternating runs, with the lowest and highest in brackets.", "",
             "| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    text += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(one)) + " |" for one in data["rows"]]
    for one in data["rows"]:
        if "sizes" in one:
            text += ["", f"{one['row']}: ns per copy (median of the runs' medians; lowest copy)", "",
                     "| size | plain | rewarm | difference | plain, lowest | rewarm, lowest | verdict |",
                     "| --- | --- | --- | --- | --- | --- | --- |"]
            text += [f"| {size_name(s['bytes'])} | {s['plain']:.0f} | {s['rewarm']:.0f} | {s['difference']:+.0f} "
                     f"| {s['plain_min']:.0f} | {s['rewarm_min']:.0f} | {s['verdict']} |" for s in one["sizes"]]
    return "\n".join(text) + "\n"


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _line(path, start):
    try:
        with open(path) as file:
            for line in file:
                if line.startswith(start):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def machine(sim, python):
    gpu = _output("nvidia-smi", "--query-gpu=name,driver_version,pcie.link.gen.max,pcie.link.width.max,memory.total,persistence_mode",
                  "--format=csv,noheader").splitlines()
    parts = [part.strip() for part in gpu[0].split(",")] if gpu and "," in gpu[0] else []
    libc = ctypes.CDLL(None).gnu_get_libc_version
    libc.restype = ctypes.c_char_p
    names = ("torch", "cupy-cuda13x", "cupy-cuda12x", "numba", "numba-cuda", "jax", "safetensors", "transformers")
    script = ("import importlib.metadata as m\nfor n in " + repr(names) + ":\n try: print(n, m.version(n))\n except Exception: pass")
    packages = dict(line.split() for line in _output(python, "-c", script).splitlines() if len(line.split()) == 2)
    thp = "/sys/kernel/mm/transparent_hugepage/enabled"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "gpu": "the software driver (no GPU)" if sim else
               f"{parts[0]} (PCIe {parts[2]} x{parts[3]}, {parts[4]})" if len(parts) > 4 else "no GPU seen",
        "gpus": len(gpu), "driver": "simulated" if sim else parts[1] if len(parts) > 1 else "unknown",
        "persistence_mode": parts[5] if len(parts) > 5 else "",
        "cpu": _line("/proc/cpuinfo", "model name"), "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int((_line("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / (1 << 20)),
        "kernel": platform.release(), "glibc": libc().decode(),
        "python": _output(python, "-c", "import platform; print(platform.python_version())"),
        "transparent_hugepage": open(thp).read().strip() if os.path.exists(thp) else "",
        "packages": packages,
        "settings": {name: value for name, value in os.environ.items()
                     if name.startswith(("REWARM_", "CRIU_CUDA_", "SIMCUDA_"))},
    }


def write(out, data):
    os.makedirs(out, exist_ok=True)
    for name, text in (("bench.json", json.dumps(data, indent=1) + "\n"), ("bench.md", markdown(data))):
        path = os.path.join(out, name)
        with open(path + ".new", "w") as file:
            file.write(text)
        os.replace(path + ".new", path)


def merge(paths):
    """Several runs as one: a later row takes the place of an earlier one of the same name."""
    runs, rows = [], {}
    for path in paths:
        for file in glob.glob(os.path.join(path, "bench.json")) if os.path.isdir(path) else [path]:
            with open(file) as opened:
                data = json.load(opened)
            runs += data["runs"]
            for one in data["rows"]:
                key = (one["group"], one["row"])
                if "skipped" not in one or key not in rows:
                    rows[key] = one
    return {"version": 1, "runs": runs, "rows": list(rows.values())}
