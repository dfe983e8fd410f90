"""Statistics of runs: mean, standard deviation and percentiles, and which of them the number of runs does not carry."""
import math
import statistics

# A percentile says something of its own from this many runs on; with fewer it lies between the two longest.
LEAST = {"p50": 3, "p95": 20, "p99": 100}
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
METHOD = ("Percentiles: linear interpolation between the two closest ranks (rank 1 + (n - 1) p of the sorted runs); "
          "standard deviation: of the sample, over n - 1")


def percentile(values, share):
    """The value below which a share of the runs lies, by linear interpolation between closest ranks."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * share
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def figures(values):
    """All figures of a list of seconds; None without any. `too_few` names those that need more runs."""
    if not values:
        return None
    found = {"n": len(values), "mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None,
             "min": min(values), "max": max(values)}
    found.update((name, percentile(values, share)) for name, share in PERCENTILES.items())
    found["too_few"] = [name for name, least in LEAST.items() if len(values) < least]
    if found["sd"] is None:
        found["too_few"].append("sd")
    return found


def summary(runs, names):
    """What the counted runs of one variant come to: in all, and by component."""
    counted = [run for run in runs if run["counted"]]
    parts = [{"name": name, **figures([run["components"][name] for run in counted])}
             for name in names if counted and name in counted[0]["components"]]
    return {"runs": len(runs), "counted": len(counted), "marked": len(runs) - len(counted),
            "seconds": figures([run["seconds"] for run in counted]), "parts": parts, "none": reason_for_none(runs, counted)}


def reason_for_none(runs, counted):
    """Why a variant has no figures, or None if it has."""
    if counted:
        return None
    if not runs:
        return "it was not run"
    kinds = sorted({mark["kind"] for run in runs for mark in run["marks"] if not mark["accepted"]})
    return f"no run counts: all {len(runs)} were marked ({', '.join(kinds)})"
