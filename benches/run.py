#!/usr/bin/env python3
"""Measures rewarm against the plain run, row by row; started by scripts/bench."""
import argparse
import os
import shlex
import sys
import time

sys.dont_write_bytecode = True
import coldresults
import coldstart
import cpu
import groups
import programs
import report
from runner import Runner, Skip, say

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def listed(all_groups):
    return " ".join(f"{name} (~{seconds} s)" for name, (_, seconds, _) in all_groups.items())


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     epilog="groups: " + listed(groups.GROUPS) + "; with --cpu: " + listed(cpu.GROUPS)
                                     + "; other commands: cold (cold starts, a report in HTML), report RESULTS.json")
    add = parser.add_argument
    add("--libs", default=os.path.join(ROOT, "target/release"), metavar="DIR", help="folder of librewarm.so (target/release)")
    add("--out", default=os.path.join(ROOT, "target/bench/out"), metavar="DIR", help="for bench.json and bench.md")
    add("--only", default="", metavar="NAME,…", help="these groups, in this order")
    add("--skip", default="", metavar="NAME,…", help="all but these groups")
    add("--quick", action="store_true", help="about 90 s: fewer rounds, nothing above 2 GiB")
    add("--programs", default=os.path.join(ROOT, "target/bench/bin"), metavar="DIR", help="the built C programs")
    add("--build", default="", metavar="DIR", help="only build the C programs into DIR")
    add("--cudart", default="", metavar="DIR", help="a CUDA toolkit or wheel folder with include/ and lib/")
    add("--sim", default="", metavar="DIR", help="folder of the software driver's libcuda.so.1: a dry run, small sizes")
    add("--merge", nargs="+", metavar="JSON", help="only join the bench.json of several runs into --out")
    add("--files", action="append", default=[], metavar="DIR",
        help="folder of the model's files, made there if it holds none, and kept (/dev/shm, removed at the end); may be given twice")
    add("--fio", default="", metavar="EXE", help="fio, for the disk's own speed (PATH)")
    add("--criu", default="", metavar="EXE", help="criu 4.0 or newer (PATH)")
    add("--wheels", default="", metavar="DIR", help="wheels of the peers that the interpreter has not installed")
    add("--cpu", action="store_true", help="no GPU: the page reader against other readers of files")
    add("--python", default="python3", metavar="EXE", help="the interpreter that has the frameworks")
    add("--loader-bytes", type=int, default=0, metavar="N", help="size of the model's files (16 GB; 2 GB with --cpu, --quick)")
    add("--calls", type=int, default=0, metavar="N", help="calls of each kind in each process (200000)")
    add("--inert-runs", type=int, default=200, metavar="N")
    add("--time", type=float, default=1.0, metavar="FACTOR", help="stretches each group's time")
    return parser.parse_args()


def names(options):
    there = cpu.GROUPS if options.cpu else groups.GROUPS
    chosen = [name for name in options.only.split(",") if name] or list(there)
    left_out = [name for name in options.skip.split(",") if name]
    for name in chosen + left_out:
        if name not in there:
            raise SystemExit(f"no group {name}; there are: {' '.join(there)}")
    return {name: there[name] for name in chosen if name not in left_out}


def report_again(words):
    """`scripts/bench report RESULTS.json`: its CSV and HTML anew, beside it or in --out."""
    parser = argparse.ArgumentParser(prog="scripts/bench report", description="Renders the results of `scripts/bench cold` again.")
    parser.add_argument("results", metavar="RESULTS.json")
    parser.add_argument("--out", default="", metavar="DIR", help="for results.json, results.csv, report.html (beside RESULTS.json)")
    options = parser.parse_args(words)
    try:
        data = coldresults.read(options.results)
    except coldresults.Refused as reason:
        raise SystemExit(str(reason)) from reason
    out = options.out or os.path.dirname(os.path.abspath(options.results))
    os.makedirs(out, exist_ok=True)
    coldresults.write(out, data)
    print(coldresults.table(data))
    return 0


COMMANDS = {"cold": coldstart.main, "report": report_again}


def main():
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    options = arguments()
    if options.merge:
        data = report.merge(options.merge)
        report.write(options.out, data)
        print(report.table(data["rows"]))
        return 0
    if options.build:
        missing = programs.build(os.path.abspath(options.build), options.cudart, say)
        return 1 if len(missing) == len(programs.DRIVER_ONLY) + 2 else 0
    chosen = names(options)
    library = os.path.realpath(os.path.join(options.libs, "librewarm.so"))
    if not os.path.exists(library):
        raise SystemExit(f"no {library}: build the project, or give --libs DIR")
    options.sim = os.path.abspath(options.sim) if options.sim else ""
    where = os.path.abspath(options.programs)
    if programs.stale(where):
        programs.build(where, options.cudart, say)
    runner = Runner(options, library, where)
    runner.runtime = programs.runtime_folder(options.cudart)
    began = time.perf_counter()
    run = {"machine": report.machine(options.sim, options.python),
           "command": shlex.join(["scripts/bench", *sys.argv[1:]]), "library": library}
    data = {"version": 1, "runs": [run], "rows": []}
    for name, (function, usual, quick) in chosen.items():
        started = time.perf_counter()
        say(f"[{started - began:5.0f} s] {name}")
        try:
            for row in function(runner, (quick if options.quick else usual) * options.time):
                data["rows"].append(row)
                say("    " + " | ".join(filter(None, report.cells(row))))
        except Skip as reason:
            data["rows"].append(report.skipped(name, name, str(reason)))
            say(f"    not run: {reason}")
        except Exception as error:  # one group's trouble is not to cost the others' results
            data["rows"].append(report.skipped(name, name, f"{type(error).__name__}: {error}"))
            say(f"    failed: {type(error).__name__}: {error}")
        run.setdefault("group_seconds", {})[name] = round(time.perf_counter() - started, 1)
        run["seconds"] = round(time.perf_counter() - began, 1)
        report.write(options.out, data)
    say(f"{run['seconds']} s: {run['group_seconds']}; {options.out}/bench.json, bench.md")
    print(report.table(data["rows"]), flush=True)
    wrong = [row for row in data["rows"] if "WRONG BYTES" in row.get("skipped", "")]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
