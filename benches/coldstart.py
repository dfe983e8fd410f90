"""Measures cold starts: the program from its start, the stock restore, and rewarm's with one thing switched off at a time."""
import argparse
import atexit
import contextlib
import os
import re
import shlex
import shutil
import sys
import time

import coldresults
import disturbance
import figures
import images
import programs
import report
import served
import storage
import variants
from caches import Caches
from freezing import environment, holder
from runner import GIB, MIB, Runner, Skip, remove_stale, say
from started import VARIABLE, Started

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAILURES = 2  # in a row, and a variant is left out


def arguments(words):
    parser = argparse.ArgumentParser(prog="scripts/bench cold", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="variants:\n" + "\n".join(f"  {one.name:16} {one.label}" for one in variants.VARIANTS))
    add = parser.add_argument
    add("--iterations", type=at_least(1), default=10, metavar="N", help="runs of each variant (10)")
    add("--variants", default="", metavar="NAME,…", help="these alone")
    add("--skip", default="", metavar="NAME,…", help="all but these")
    add("--within", type=float, default=0, metavar="SECONDS", help="start no iteration that would end later; 0: no limit (0)")
    add("--bytes", type=at_least(0), default=0, metavar="N", help="GPU memory of the C program (2 GiB; on the software driver 64 MiB)")
    add("--program", default="", metavar="CMD", help="measure this program, started without a shell, in place of the C program")
    add("--ready", default="", metavar="REGEX", help="the program is ready when its output has this")
    add("--ask", default="", metavar="CMD", help="shell command that gets the first reply: tried until it succeeds")
    add("--any-answer", action="store_true", help="what --ask prints may differ from run to run")
    add("--settle", type=at_least(0, float), default=2.0, metavar="SECONDS", help="wait after evicting, before each run (2)")
    add("--patience", type=at_least(0, float), default=8.0, metavar="SECONDS", help="longest further wait for an idle GPU (8)")
    add("--evict", action="append", default=[], metavar="PATH", help="a file or folder that the program reads; may be given again")
    add("--no-drop-caches", action="store_true", help="evict the files that matter alone, not the machine's whole page cache")
    add("--clear-caches", action="store_true", help="compilation caches (CUDA, Triton, torch.compile, vLLM) empty before each cold start: private ones")
    add("--clear-caches-at", action="append", default=[], metavar="DIR", help="a real cache folder whose contents are REMOVED before each cold start")
    add("--accept", default="", metavar="KIND,…", help="count runs in spite of: " + " ".join(disturbance.MACHINE))
    add("--driver", dest="sim", default="", metavar="DIR", help="folder of another libcuda.so.1, such as the software driver's: no GPU is needed")
    add("--nvidia-smi", default="", metavar="EXE", help="nvidia-smi (PATH; with --driver none)")
    add("--criu", default=os.environ.get("REWARM_CRIU", ""), metavar="EXE", help="criu 4.0 or newer (REWARM_CRIU, PATH)")
    add("--criu-option", action="append", default=[], metavar="OPTION", help="a further option of the stock criu, such as --criu-option=--shell-job")
    add("--cuda-checkpoint", default="", metavar="EXE", help="NVIDIA's cuda-checkpoint for the stock restore (that on PATH, else the same calls)")
    add("--timeout", type=at_least(1, float), default=600.0, metavar="SECONDS", help="longest time of a start, a restore or a checkpoint (600)")
    add("--libs", default=os.path.join(ROOT, "target/release"), metavar="DIR", help="folder of librewarm.so (target/release)")
    add("--programs", default=os.path.join(ROOT, "target/bench/bin"), metavar="DIR", help="the built C programs")
    add("--files", dest="out", default="", metavar="DIR", help="where the checkpoints are made, on a disk (beside the results)")
    add("--out", dest="results", default=os.path.join(ROOT, "target/bench/cold"), metavar="DIR", help="for results.json, results.csv, report.html")
    return checked(parser, parser.parse_args(words))


def at_least(least, kind=int):
    def convert(text):
        value = kind(text)
        if not least <= value < 1 << 60:
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
        return value
    return convert


def checked(parser, options):
    """What can be said of the options before anything starts."""
    options.accepted = [kind for kind in options.accept.split(",") if kind]
    for kind in options.accepted:
        if kind not in disturbance.MACHINE:
            parser.error(f"--accept: no {kind}; there are: {' '.join(disturbance.MACHINE)}")
    if (options.ready or options.ask) and not options.program:
        parser.error("--ready and --ask are for --program")
    if options.program and not (options.ready or options.ask):
        parser.error("--program: give --ready or --ask, to see when it is ready")
    try:
        re.compile(options.ready)
    except re.error as error:
        parser.error(f"--ready: {error}")
    options.results = os.path.abspath(options.results)
    options.out = os.path.abspath(options.out or options.results)
    options.sim = os.path.abspath(options.sim) if options.sim else ""
    if options.sim and not os.path.exists(os.path.join(options.sim, "libcuda.so.1")):
        parser.error(f"--driver: no {options.sim}/libcuda.so.1")
    if options.criu and not shutil.which(options.criu):
        parser.error(f"--criu: no program {options.criu}")
    for path in options.evict:
        if not os.path.exists(path):
            parser.error(f"--evict: no {path}")
    options.bytes = options.bytes or (64 * MIB if options.sim else 2 * GIB)
    options.quick, options.cuda_checkpoint = False, stock_tool(options)
    return options


def stock_tool(options):
    """NVIDIA's cuda-checkpoint; rewarm's drop-in of that name is not it."""
    found = shutil.which(options.cuda_checkpoint or "cuda-checkpoint")
    if options.cuda_checkpoint and not found:
        raise SystemExit(f"--cuda-checkpoint: no program {options.cuda_checkpoint}")
    ours = found and os.path.exists(os.path.join(os.path.dirname(os.path.realpath(found)), "librewarm.so"))
    if options.cuda_checkpoint and ours:
        raise SystemExit(f"--cuda-checkpoint: {found} is rewarm's, not NVIDIA's")
    return found if found and not ours else ""


class Session:
    """Everything of one benchmark: programs, checkpoints, the machine, and what was found."""

    def __init__(self, options, library, data):
        os.makedirs(options.results, exist_ok=True)
        os.makedirs(options.out, exist_ok=True)
        self.options, self.data, self.begun = options, data, time.monotonic()
        self.runner = Runner(options, library, os.path.abspath(options.programs))
        self.runner.started = Started(os.path.join(options.results, "started.json"))
        atexit.register(self.runner.started.end)
        left = self.runner.started.end_leftovers()
        if left:
            say(f"ended {left} processes that a benchmark before this one left")
        remove_stale(options.out)
        self.caches = Caches(options, self.runner.scratch)
        self.machine = disturbance.Machine(disturbance.Gpu(options.nvidia_smi, bool(options.sim)), disturbance.Limits(), options.settle,
                                           options.patience, options.accepted, not options.no_drop_caches)
        self.files = {path for given in options.evict for path in below(os.path.abspath(given))}
        self.reference = None
        self.ways, self.failures = {}, {}

    def environment(self, variant):
        given = dict(pair.split("=", 1) for pair in variant.environment)
        return {**environment(self.runner), **self.caches.environment(variant), VARIABLE: self.runner.started.name, **given}

    def begin(self, variant):
        """The program, ready."""
        options, env = self.options, self.environment(variant)
        if not options.program:
            return served.Held(self.runner, variant.mode, holder(self.runner, options.bytes), env, options.timeout)
        return served.Server(self.runner, variant.mode, shlex.split(options.program), env, options.timeout, ready=options.ready, ask=options.ask)

    def rehearse(self):
        """One start that is not counted: which files the program reads, and what it answers."""
        plain = variants.VARIANTS[0]
        with self.begin(plain) as live:
            self.reference = live.answer(self.options.timeout)
            self.files |= served.files_of(live.pid)
            self.data["program"]["asked"] = live.asked

    def image(self, variant, stack):
        """The checkpoint for a variant, made by its first one."""
        if variant.way == "start":
            return images.ColdStart(self.begin, self.files, self.options.timeout)
        self.runner.criu()
        folder = os.path.join(self.runner.disk_folder(), variant.image)
        images.need_room(self.runner.disk_folder(), max((way.size() for way in self.ways.values() if hasattr(way, "size")), default=0))
        live = stack.enter_context(self.begin(variant))
        stack.callback(shutil.rmtree, folder, True)
        made = images.KINDS[variant.way](self.runner, live, folder, self.environment(variant))
        self.judge(live.answer(self.options.timeout))
        seconds = made.prepare(self.options)
        say(f"  checkpoint for {variant.name}: {seconds:.2f} s, {made.size() / 1e9:.2f} GB")
        made.seconds = seconds
        return made

    def make_images(self, chosen, stack):
        for variant, entry in zip(chosen, self.data["variants"]):
            key = variant.image or "start"
            try:
                if key not in self.ways:
                    self.ways[key] = self.image(variant, stack)
                made = self.ways[key]
                if variant.image:
                    entry["checkpoint_seconds"], entry["checkpoint_bytes"] = made.seconds, made.size()
            except (Skip, served.WrongAnswer, OSError) as reason:
                self.runner.started.end()
                entry["not_run"] = in_a_line(reason)
                say(f"  {variant.name}: not run: {entry['not_run']}")

    def judge(self, answer):
        if answer != self.reference and not self.options.any_answer:
            raise served.WrongAnswer(f"it answers {answer[:80]!r}, not {self.reference[:80]!r}")

    def one(self, variant, iteration):
        """One run: the machine made ready, measured, judged, the process ended."""
        way = self.ways[variant.image or "start"]
        self.caches.clear_for(variant)
        before, marks = self.machine.prepare([*way.reads(), *self.files])
        run = {"variant": variant.name, "iteration": iteration, "seconds": None, "components": {}, "moments": {}, "before": before, "after": None}
        try:
            run["seconds"], run["components"], run["moments"], answer = way.measure(variant)
            run["after"], more = self.machine.after()
            marks += [one for one in more if one not in marks]
            self.judge(answer)
            self.failures[variant.name] = 0
        except served.WrongAnswer as wrong:
            marks.append(disturbance.mark("answer", in_a_line(wrong)))
        except (Skip, KeyError, TypeError, OSError) as reason:
            marks.append(disturbance.mark("failed", in_a_line(reason)))
            self.failures[variant.name] = self.failures.get(variant.name, 0) + 1
        finally:
            marks += self.machine.memory()
            way.stop()
        run["marks"], run["counted"] = marks, self.machine.counts(marks)
        return run

    def iterate(self, chosen):
        """All variants in each iteration, in turning order, until the time is over."""
        options, longest = self.options, 0
        for number in range(options.iterations):
            there = [one for one, entry in zip(chosen, self.data["variants"])
                     if not entry["not_run"] and self.failures.get(one.name, 0) < FAILURES]
            started = time.monotonic()
            if not there or options.within and number and started - self.begun + longest > options.within:
                say(f"stopped after {number} of {options.iterations} iterations")
                break
            at = number % len(there)
            for variant in there[at:] + there[:at]:
                run = self.one(variant, number + 1)
                self.data["runs"].append(run)
                say(f"  {number + 1}/{options.iterations} {variant.name}: {told(run)}")
            longest = max(longest, time.monotonic() - started)
            self.write()

    def write(self):
        self.data["seconds"] = round(time.monotonic() - self.begun, 3)
        for entry in self.data["variants"]:
            entry.update(figures.summary([run for run in self.data["runs"] if run["variant"] == entry["name"]], variants.NAMES))
        coldresults.write(self.options.results, self.data)


def in_a_line(reason):
    return " ".join(str(reason).removeprefix("plain: ").split())


def told(run):
    seconds = "-" if run["seconds"] is None else f"{run['seconds']:.3f} s"
    return coldresults.printable(seconds + "".join(f"; {'accepted' if one['accepted'] else 'marked'}: {one['kind']}: {one['reason']}" for one in run["marks"]))


def below(path):
    if os.path.isfile(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]


def beginning(options, chosen, words):
    """The results before the first run."""
    machine = report.machine(options.sim, sys.executable)
    machine["packages"] = [f"{name} {version}" for name, version in machine["packages"].items()]
    machine["settings"] = [f"{name}={value}" for name, value in machine["settings"].items()]
    machine["host"] = os.uname().nodename
    machine["file_system"] = storage.file_system(options.out)
    command = options.program or f"holder with {options.bytes} bytes of pseudo-random GPU memory"
    return {
        "version": coldresults.VERSION, "kind": coldresults.KIND, "begun": machine.pop("date"), "seconds": 0.0,
        "command": shlex.join(["scripts/bench", "cold", *words]), "machine": machine,
        "program": {"command": command, "bytes": None if options.program else options.bytes, "ready": options.ready, "ask": options.ask,
                    "asked": ""},
        "settings": {"iterations": options.iterations, "settle_seconds": options.settle, "accepted": options.accepted,
                     "drop_caches": not options.no_drop_caches, "clear_caches": options.clear_caches, "cleared": options.clear_caches_at,
                     "limits": disturbance.Limits().listed(), "statistics": figures.METHOD,
                     "stock_driver_tool": options.cuda_checkpoint or "the same calls of libcuda, by benches/checkpoint.c"},
        "components": [component._asdict() for component in variants.COMPONENTS],
        "variants": [{"name": one.name, "label": one.label, "what": one.what, "switched_off": one.switched_off, "way": one.way, "preloaded": one.mode,
                      "environment": list(one.environment), "options": list(one.options), "checkpoint_seconds": None,
                      "checkpoint_bytes": None, "not_run": None} for one in chosen],
        "runs": [],
    }


def main(words):
    options = arguments(words)
    chosen = variants.chosen([name for name in options.variants.split(",") if name], [name for name in options.skip.split(",") if name])
    library = os.path.realpath(os.path.join(options.libs, "librewarm.so"))
    if not os.path.exists(library):
        raise SystemExit(f"no {library}: build the project, or give --libs DIR")
    if storage.in_memory(existing(options.out)):
        raise SystemExit(f"{options.out} is in memory ({storage.file_system(existing(options.out))}): nothing there is ever cold; give --files DIR on a disk")
    needed = not options.program or any(one.way == "stock" for one in chosen)
    if needed and programs.stale(os.path.abspath(options.programs)):
        programs.build(os.path.abspath(options.programs), "", say)
    session = Session(options, library, beginning(options, chosen, words))
    try:
        session.rehearse()
    except (Skip, served.WrongAnswer) as reason:
        raise SystemExit(f"the program cannot be measured: {reason}") from reason
    with contextlib.ExitStack() as stack:
        session.make_images(chosen, stack)
        session.write()
        session.iterate(chosen)
    session.write()
    say(f"{session.data['seconds']} s; {options.results}: results.json, results.csv, report.html")
    print(coldresults.table(session.data), flush=True)
    wrong = any(one["kind"] == "answer" for run in session.data["runs"] for one in run["marks"])
    return 1 if wrong or not any(run["counted"] for run in session.data["runs"]) else 0


def existing(path):
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
