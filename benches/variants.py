"""What `scripts/bench cold` compares: cold starts, the stock restore, and rewarm's with one thing switched off at a time."""
from typing import NamedTuple


class Variant(NamedTuple):
    """One way to get a process that answers. This table is all there is to a variant."""

    name: str
    label: str
    what: str
    way: str  # "start": the program from its start; "stock": driver and CRIU; "rewarm": `rewarm restore`
    mode: str  # how the program runs, see Runner.environment: plain, rewarm (preloaded), prewarm, freezable
    switched_off: str = ""  # compared with the full variant of its kind
    environment: tuple = ()  # of the program, NAME=VALUE
    options: tuple = ()  # of `rewarm restore`

    @property
    def image(self):
        """Which checkpoint it is restored from; variants with the same program share one."""
        return None if self.way == "start" else "-".join([self.way, self.mode, *self.environment]).replace("=", "-").lower()


VARIANTS = (
    Variant("cold", "cold start", "the program as it is", "start", "plain", "rewarm"),
    Variant("cold-prewarm", "cold start, rewarm", "preloaded and prewarmed", "start", "prewarm"),
    Variant("cold-no-prewarm", "cold start, rewarm, no prewarming", "preloaded; CUDA begins when the program uses it", "start", "rewarm", "prewarming"),
    Variant("stock", "stock CRIU restore", "criu restore, then the driver's restore and unlock", "stock", "plain", "rewarm"),
    Variant("rewarm", "rewarm restore", "everything on", "rewarm", "freezable"),
    Variant("no-page-server", "rewarm, no page server", "CRIU reads all host memory before the program goes on", "rewarm", "freezable",
            "the page server", options=("--no-lazy",)),
    Variant("no-freeze", "rewarm, no preloaded library", "device memory comes back by the driver, from CRIU's images", "rewarm", "plain",
            "freezing"),
    Variant("one-lane", "rewarm, one lane", "device memory comes back over one lane", "rewarm", "freezable", "parallel copies",
            ("CRIU_CUDA_STREAMS=1",)),
    Variant("read-pread", "rewarm, buffered reads", "snapshots are read through the page cache", "rewarm", "freezable",
            "the choice of how to read", ("REWARM_READ_STRATEGY=pread",)),
    Variant("read-mapped", "rewarm, mapped files", "snapshots are mapped", "rewarm", "freezable", "the choice of how to read",
            ("REWARM_READ_STRATEGY=mapped",)),
    Variant("read-direct", "rewarm, direct reads", "snapshots are read past the page cache", "rewarm", "freezable",
            "the choice of how to read", ("REWARM_READ_STRATEGY=direct",)),
)


class Component(NamedTuple):
    """A part of the time until the first reply, and how it is taken."""

    name: str
    label: str
    measured: str


COMPONENTS = (
    Component("start", "program start", "cold starts: from exec until the program says that it is ready"),
    Component("checks", "checks", "check_seconds of `rewarm restore --json`: the checkpoint is looked at"),
    Component("criu", "CRIU", "criu_seconds of `rewarm restore --json`: until CRIU had the processes run; stock: `criu restore` "
              "from exec to exit"),
    Component("driver", "driver restore", "the longest gpus[].driver_seconds of `rewarm restore --json`; stock: the commands that have the driver "
              "restore and unlock, from exec to exit"),
    Component("thaw", "thaw", "the rest of gpu_seconds of `rewarm restore --json`: device memory from the snapshot, verified"),
    Component("pages", "last pages", "pages_seconds of `rewarm restore --json`: the wait for the last pages of host memory after that"),
    Component("other", "command itself", "starting and ending `rewarm restore`: the command from exec to exit without its own `seconds`"),
    Component("reply", "first reply", "from the end of the restore, or from ready, until the program's answer is there; none where "
              "it answers while `rewarm restore` is still at work: the rest of that is not in the time"),
)
NAMES = tuple(component.name for component in COMPONENTS)


def of_rewarm(report, wall, answered):
    """(components, moments) of a restore by rewarm, from what `rewarm restore --json` printed. Components add up to `answered`."""
    gpu = report["gpu_seconds"]
    driver = min(gpu, max((one["driver_seconds"] for one in report["gpus"]), default=0.0))
    parts = {"checks": report["check_seconds"], "criu": report["criu_seconds"], "driver": driver, "thaw": gpu - driver,
             "pages": report["pages_seconds"], "other": max(0.0, wall - report["seconds"]), "reply": max(0.0, answered - wall)}
    running = report["check_seconds"] + report["criu_seconds"]
    moments = {"criu_done": running, "driver_done": running + driver, "thaw_done": running + gpu,
               "pages_in_place": report["seconds"], "returned": wall, "first_reply": answered}
    return until(parts, answered), moments


def until(parts, answered):
    """Of parts that follow one another, what was before the answer: a program may answer before the last page is in place."""
    left, found = answered, {}
    for name, seconds in parts.items():
        found[name] = min(seconds, max(0.0, left))
        left -= found[name]
    return found


def of_stock(criu, wall, answered):
    """The same of the stock path, where everything is in place when CRIU and the driver are done."""
    return ({"criu": criu, "driver": wall - criu, "reply": answered - wall},
            {"criu_done": criu, "driver_done": wall, "pages_in_place": criu, "returned": wall, "first_reply": answered})


def of_start(ready, answered):
    """The same of a cold start."""
    return {"start": ready, "reply": answered - ready}, {"returned": ready, "first_reply": answered}


def chosen(only, left_out):
    """The variants with these names; raises SystemExit for a name that there is not."""
    there = {variant.name: variant for variant in VARIANTS}
    for name in [*only, *left_out]:
        if name not in there:
            raise SystemExit(f"no variant {name}; there are: {' '.join(there)}")
    return [there[name] for name in only or there if name not in left_out]
