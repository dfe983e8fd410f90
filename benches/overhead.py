"""The rows about what rewarm costs where it has nothing to do: calls that pass through, and memory that could be frozen."""
import statistics

from report import row, size_name, skipped, spread
from runner import MIB, Skip


def calls(runner, seconds):
    quick = runner.options.quick
    amount = runner.options.calls or (5000 if runner.options.sim else 40000 if quick else 200000)
    try:
        results = runner.pairs([runner.program("calls"), "--calls", str(amount)], 2 if quick else 5, seconds, "calls")
    except Skip as reason:
        yield skipped("calls", "calls that pass through", str(reason))
        return
    yield from call_rows("calls", results, "rewarm")


def call_rows(group, results, side):
    """A row for each call that the program `calls` timed: `side` against the plain run."""
    for line in results[0]["plain"]["lines"]:
        name = line["call"]
        if "skipped" in line:
            yield skipped(group, name, line["skipped"])
            continue

        def values(side, key):
            return [next(l[key] for l in result[side]["lines"] if l.get("call") == name) for result in results]
        low = [b - a for a, b in zip(values("plain", "min_ns"), values(side, "min_ns"))]
        share = line["n"] * line["batch"] * len(results)

        def verdict(one):
            """None: the typical batch says more than 30 ns, the undisturbed one does not, and plain runs differ as much."""
            if one["difference"]["median"] <= 30:
                return True
            noisy = one["plain"]["max"] - one["plain"]["min"] > 30
            return None if noisy and one["lowest_difference"]["median"] <= 30 else False
        one = row(group, f"{name}, {share / 1e6:g} M calls", "ns", values("plain", "median_ns"), values(side, "median_ns"),
                  "<= 30 ns more", verdict, better="lower", lowest_difference=spread(low))
        more = one["difference"]
        one["note"] = ("unclear " if one["reached"] is None else "") + f"({more['median']:+.0f} ns, {more['min']:+.0f} to {more['max']:+.0f}; lowest batches {statistics.median(low):+.0f})"
        yield one


# ---------------------------------------------------------------- memory that could be frozen

SIDES = ["plain", "rewarm", "freezable"]


def freezable(runner, seconds):
    """`--freezable` (in the column rewarm), never frozen, against plain and against rewarm without it."""
    count = 1 if runner.options.quick or runner.options.sim else 5
    yield from throughput(runner, seconds * 0.6, count)
    yield from allocations(runner, seconds * 0.1, count)
    amount = 5000 if runner.options.sim else 100000
    try:
        results = runner.rounds(SIDES, [runner.program("calls"), "--calls", str(amount)], count, seconds * 0.3, "calls, freezable")
    except Skip as reason:
        yield skipped("freezable", "calls, freezable", str(reason))
        return
    for one in call_rows("freezable", results, "freezable"):
        one["row"] += ", --freezable"
        yield one


def triples(results, matching, key):
    """The figures of a line, per side."""
    return {side: [next(line[key] for line in result[side]["lines"] if matching(line)) for result in results] for side in SIDES}


def without(values, better):
    """A remark on rewarm without --freezable, as a ratio to plain."""
    pairs = zip(values["plain"], values["rewarm"])
    ratio = statistics.median(b / a if better == "higher" else a / b for a, b in pairs)
    return f"(without --freezable {ratio:.3f}x)"


def within_a_hundredth(one):
    """None: slower, but plain runs differ by more than that among themselves."""
    if one["ratio"]["median"] >= 0.99:
        return True
    plain = one["plain"]
    return None if (plain["max"] - plain["min"]) / plain["median"] > 0.01 else False


def throughput(runner, seconds, count):
    command = runner.python("throughput.py", "--seconds", 0.3 if runner.options.quick else 1)
    try:
        results = runner.rounds(SIDES, command, count, seconds, "throughput")
    except Skip as reason:
        yield skipped("freezable", "torch, steps a second", str(reason))
        return
    for work in [line["work"] for line in results[0]["plain"]["lines"]]:
        values = triples(results, lambda line, work=work: line["work"] == work, "per_s")
        one = row("freezable", f"torch, {work}, --freezable", "1/s", values["plain"], values["freezable"], "within 1 %",
                  within_a_hundredth, without=values["rewarm"])
        one["note"] = ("unclear " if one["reached"] is None else "") + f"({one['ratio']['median']:.3f}x) " + without(values, "higher")
        yield one


def allocations(runner, seconds, count):
    sizes = [2 * MIB, 20 * MIB, (64 if runner.options.sim else 512) * MIB]
    command = [runner.program("allocations"), "--sizes", ",".join(map(str, sizes)), "--reps", "200"]
    try:
        results = runner.rounds(SIDES, command, count, seconds, "allocations")
    except Skip as reason:
        yield skipped("freezable", "cuMemAlloc and cuMemFree", str(reason))
        return
    for size in sizes:
        for call in ("cuMemAlloc", "cuMemFree"):
            values = triples(results, lambda line, size=size, call=call: (line["bytes"], line["call"]) == (size, call), "median_ns")
            values = {side: [ns / 1e3 for ns in found] for side, found in values.items()}
            yield row("freezable", f"{call} {size_name(size)}, --freezable", "us", values["plain"], values["freezable"],
                      note=without(values, "lower"), better="lower", without=values["rewarm"])
