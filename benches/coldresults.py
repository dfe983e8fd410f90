"""The results of cold starts: results.json (version 1), results.csv, report.html, and the table on the terminal."""
import csv
import io
import json
import math
import os

import coldreport
import figures

VERSION, KIND = 1, "rewarm-cold-start"
LARGEST = 256 << 20  # bytes of a results.json


def write(folder, data):
    """All three files, each whole or as it was."""
    for name, text in (("results.json", json.dumps(data, indent=1, allow_nan=False) + "\n"), ("results.csv", table_of_runs(data)),
                       ("report.html", coldreport.page(data))):
        path = os.path.join(folder, name)
        with open(path + ".new", "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        os.replace(path + ".new", path)


def cell(value):
    """A field of the CSV; a text that a spreadsheet would take for a formula gets a quote before it."""
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def table_of_runs(data):
    """One line for each run."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = [component["name"] for component in data["components"]]
    lines.writerow(["variant", "iteration", "counted", "seconds", *(f"{name}_seconds" for name in names), "resident_share", "cpu_busy_share",
                    "load_average", "marks"])
    for run in data["runs"]:
        marks = "; ".join(f"{one['kind']}: {one['reason']}" for one in run["marks"])
        before = run["before"]
        lines.writerow([cell(value) for value in (
            run["variant"], run["iteration"], "yes" if run["counted"] else "no", run["seconds"],
            *(run["components"].get(name) for name in names), before["page_cache"]["resident_share"], before["cpu_busy_share"],
            before["load_average"], marks)])
    return text.getvalue()


def table(data):
    """The short table that comes last."""
    head = ("variant", "n", "mean", "sd", "P50", "P95", "P99", "marked")
    lines = [head]
    for one in data["variants"]:
        found = one["seconds"]
        if found:
            cells = [shown(found, name) for name in ("mean", "sd", "p50", "p95", "p99")]
            lines.append((one["label"], str(found["n"]), *cells, str(one["marked"] or "")))
        else:
            lines.append((one["label"], "0", "", "", "", "", "", one["not_run"] or one["none"]))
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    text = ["  ".join([text.ljust(width) for text, width in zip(line, widths)] + [line[-1]]).rstrip() for line in lines]
    few = any(one["seconds"] and one["seconds"]["too_few"] for one in data["variants"])
    text = [printable(line) for line in text]
    return "\n".join(["seconds until the first reply", *text] + ["~ too few runs for this figure (P95 takes 20, P99 takes 100)"] * few)


def printable(value):
    """For a terminal: nothing in it is a command to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def shown(found, name):
    if found[name] is None:
        return "-"
    return ("~" if name in found["too_few"] else "") + coldreport.seconds(found[name])


# ---------------------------------------------------------------- reading

class Refused(Exception):
    """A file that is not a results.json of this version, and what is wrong with it."""


def read(path):
    """Results from a file that anybody may have written: their form is checked, and that the figures are those of the runs."""
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise Refused(f"{path}: longer than {LARGEST >> 20} MiB")
        data = json.loads(raw, parse_constant=no_number)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not JSON: {printable(error)}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise Refused(f"{path}: not the results of scripts/bench cold (kind is not {KIND})")
    if data.get("version") != VERSION:
        raise Refused(f"{path}: version {data.get('version')!r}; this program reads version {VERSION}")
    try:
        check(data)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError, RecursionError) as error:
        raise Refused(f"{path}: damaged: {type(error).__name__}: {printable(error)}") from error
    return data


def check(data):
    """Raises one of the exceptions above if something is missing or of another kind than it has to be."""
    for run in data["runs"]:
        for value in (*run["components"].values(), *([run["seconds"]] if run["counted"] else [])):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{value!r} is no time")
        for one in run["marks"]:
            if not (isinstance(one["kind"] + one["reason"], str) and isinstance(one["accepted"], bool)):
                raise ValueError("a mark without a reason")
    names = [component["name"] for component in data["components"]]
    for entry in data["variants"]:
        found = figures.summary([run for run in data["runs"] if run["variant"] == entry["name"]], names)
        for key, value in found.items():
            if not alike(value, entry[key]):
                raise ValueError(f"{entry['name']}: {key} is not what the runs come to")
    # What cannot be written is refused before any file is.
    json.dumps(data, allow_nan=False), table_of_runs(data), coldreport.page(data), table(data)


def no_number(name):
    raise ValueError(f"{name} is no number")


def alike(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return one == other
