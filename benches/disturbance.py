"""Whether the machine was fit for a cold start: page cache, GPU, clocks, CPUs. What was not is a mark on the run."""
import os
import shutil
import subprocess
import time

import storage

# Kinds of marks. `--accept` takes the machine's; a run that failed or answered wrongly never counts.
MACHINE = ("page_cache", "gpu_busy", "gpu_unknown", "clocks", "load", "memory")
RUN = ("answer", "failed")

# Why clocks are lower than the highest, as NVML numbers them (nvmlClocksEventReasons): what takes speed from a run.
SLOW = {0x8: "hardware slowdown", 0x20: "thermal slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake"}
IDLE, POWER_CAP = 0x1, 0x4
FIELDS = ("index", "name", "utilization.gpu", "memory.used", "clocks.sm", "clocks.max.sm", "{}.active", "pstate")
REASONS = ("clocks_event_reasons", "clocks_throttle_reasons")  # the new name, the old one


def mark(kind, reason):
    return {"kind": kind, "reason": reason}


class Limits:
    """From where on a machine counts as disturbed."""

    resident_share = 0.01
    gpu_utilisation = 5  # percent
    gpu_memory_mib = 1024
    clock_share = 0.6
    computing = 20  # percent: a GPU that computes less has low clocks because it may
    cpu_share = 0.25  # of all CPUs, busy while the benchmark waits
    stalled_seconds = 0.1  # for want of memory, from the wait until the reply

    def __init__(self, **given):
        for name, value in given.items():
            setattr(self, name, value)

    def listed(self):
        names = ("resident_share", "gpu_utilisation", "gpu_memory_mib", "clock_share", "computing", "cpu_share", "stalled_seconds")
        return {name: getattr(self, name) for name in names}


# ---------------------------------------------------------------- page cache

def in_use(paths):
    """Those of the files that some process has mapped: their pages stay, and are warm for everybody."""
    wanted = {}
    for path in paths:
        status = os.stat(path)
        wanted[(os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)] = path
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", errors="replace") as maps:
                for line in maps:
                    _, _, _, device, inode, *_ = line.split(None, 5)
                    major, minor = (int(part, 16) for part in device.split(":"))
                    if inode != "0" and (major, minor, int(inode)) in wanted:
                        found.add(wanted[(major, minor, int(inode))])
        except (OSError, ValueError):
            continue  # it has ended, or is somebody else's
    return found


def drop_all():
    """Has the kernel drop its whole page cache; what came of it."""
    try:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("1\n")
    except OSError as error:
        return f"not permitted: {error.strerror}"
    return "done"


class PageCache:
    """The files that a run reads, out of the page cache."""

    def __init__(self, paths, all_of_it):
        self.paths = sorted({os.path.realpath(path) for path in paths if os.path.isfile(path) and os.path.getsize(path)})
        self.all_of_it = all_of_it

    def evict(self):
        storage.evict(self.paths)
        self.dropped = drop_all() if self.all_of_it else "not asked for"

    def look(self, limits):
        """(what there is, marks). Files that others have mapped are told apart: nothing evicts them."""
        paths = [path for path in self.paths if os.path.exists(path)]
        mapped = in_use(paths)
        cold = [path for path in paths if path not in mapped]
        share = storage.resident(cold) if cold else 0.0
        found = {"files": len(cold), "bytes": sum(map(os.path.getsize, cold)), "resident_share": share, "mapped_by_others": len(mapped),
                 "mapped_bytes": sum(map(os.path.getsize, mapped)), "drop_caches": getattr(self, "dropped", "not asked for")}
        if share <= limits.resident_share:
            return found, []
        return found, [mark("page_cache", f"{share:.1%} of {found['bytes']} bytes are in the page cache (at most {limits.resident_share:.0%})")]


# ---------------------------------------------------------------- GPU

class Gpu:
    """What nvidia-smi says. Without it nothing is known, which is a mark, except on the software driver."""

    def __init__(self, program, simulated):
        self.program = shutil.which(program or "nvidia-smi") if program or not simulated else None
        self.checked = "by nvidia-smi" if self.program else "not checked: the software driver" if simulated else "not checked: no nvidia-smi"
        self.unknown = not self.program and not simulated
        self.reasons, self.those = None, visible(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def ask(self, *options):
        done = subprocess.run([self.program, *self.those, *options, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30,
                              errors="replace")
        if done.returncode:
            raise OSError((done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}")[-200:])
        return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()[:64] if line.strip()]

    def devices(self):
        for reasons in [self.reasons] if self.reasons else REASONS:
            try:
                lines = self.ask("--query-gpu=" + ",".join(FIELDS).format(reasons))
            except OSError:
                if reasons == (self.reasons or REASONS[-1]):
                    raise
                continue
            self.reasons = reasons
            # Warnings, such as that of a corrupted infoROM, are on lines of their own.
            found = [device(line) for line in lines if len(line) == len(FIELDS)]
            if not found or any(one["utilisation_percent"] is None and one["memory_mib"] is None for one in found):
                raise ValueError(f"unexpected answer: {'; '.join(', '.join(line) for line in lines)[:200]}")
            return found

    def look(self, limits, idle):
        """(what there is, marks); `idle`: nothing of this benchmark's runs, so nothing at all may."""
        if not self.program:
            return {"checked": self.checked}, [mark("gpu_unknown", self.checked)] if self.unknown else []
        try:
            devices = self.devices()
            programs = [line for line in self.ask("--query-compute-apps=pid,used_memory") if len(line) == 2] if idle else []
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return {"checked": f"failed: {error}"}, [mark("gpu_unknown", f"nvidia-smi: {error}")]
        marks = [one for each in devices for one in marks_of(each, limits, idle)]
        if programs:
            marks.append(mark("gpu_busy", f"{len(programs)} other programs use it: pid {', '.join(line[0] for line in programs[:8])}"))
        return {"checked": self.checked, "programs": len(programs), "devices": devices}, marks


def visible(chosen):
    """nvidia-smi's option for the GPUs that programs see, from CUDA_VISIBLE_DEVICES: what others do on the rest is no matter."""
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    is_known = all(name.isdigit() or name.startswith("GPU-") for name in names)
    return ["-i", ",".join(names)] if names and is_known else []


def device(line):
    """One line of nvidia-smi; what it does not know ([N/A], [Not Supported], [Unknown Error]) is None."""
    def number(text):
        try:
            return int(text, 0)
        except ValueError:
            return None
    index, name, utilisation, memory, clock, most, reasons, state = line
    return {"index": number(index), "name": name, "utilisation_percent": number(utilisation), "memory_mib": number(memory),
            "sm_mhz": number(clock), "max_sm_mhz": number(most), "throttle_reasons": number(reasons), "state": state}


def marks_of(one, limits, idle):
    """`idle`: before a run. Clocks and the power cap say something of a GPU that computes alone: one that is idle has low clocks always."""
    where, reasons = f"GPU {one['index']}", one["throttle_reasons"]
    utilisation = one["utilisation_percent"] or 0
    if idle and utilisation > limits.gpu_utilisation:
        yield mark("gpu_busy", f"{where}: {utilisation} % busy before the run (at most {limits.gpu_utilisation} %)")
    if idle and (one["memory_mib"] or 0) > limits.gpu_memory_mib:
        yield mark("gpu_busy", f"{where}: {one['memory_mib']} MiB in use before the run (at most {limits.gpu_memory_mib})")
    if reasons is None:
        return
    computes = not idle and not reasons & IDLE and utilisation >= limits.computing
    slow = [name for bit, name in SLOW.items() if reasons & bit] + ["power cap"] * bool(computes and reasons & POWER_CAP)
    if slow:
        yield mark("clocks", f"{where}: clocks are held down: {', '.join(slow)}")
    clock, most = one["sm_mhz"], one["max_sm_mhz"]
    if computes and clock and most and clock < limits.clock_share * most:
        yield mark("clocks", f"{where}: {clock} of {most} MHz right after the reply, {utilisation} % busy (at least {limits.clock_share:.0%})")


# ---------------------------------------------------------------- all of it

def cpu_ticks():
    """(busy, all) ticks of all CPUs since the machine started."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def memory_pressure():
    """(processes that the kernel killed for want of memory, seconds that some were stalled for it; None: it does not say)."""
    stalled, killed = None, 0
    with open("/proc/vmstat") as file:
        killed = sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    try:
        with open("/proc/pressure/memory") as file:
            stalled = int(file.readline().rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        pass
    return killed, stalled


class Machine:
    """Makes the machine ready for a run, and says what it was like before and after."""

    def __init__(self, gpu, limits, settle, patience, accepted, all_of_cache):
        self.gpu, self.limits, self.settle, self.patience = gpu, limits, settle, patience
        self.accepted, self.all_of_cache = accepted, all_of_cache

    def prepare(self, paths):
        """Evicts, waits, and looks: (state, marks)."""
        cache = PageCache(paths, self.all_of_cache)
        cache.evict()
        self.pressed = memory_pressure()
        busy, every = cpu_ticks()
        begun = time.monotonic()
        time.sleep(self.settle)
        graphics, marks = self.gpu.look(self.limits, idle=True)
        # The driver's utilisation is that of the last second or so: what this benchmark just ended may be in it.
        while marks and time.monotonic() - begun < self.settle + self.patience:
            time.sleep(0.5)
            graphics, marks = self.gpu.look(self.limits, idle=True)
        then_busy, then = cpu_ticks()
        share = (then_busy - busy) / max(1, then - every)
        if share > self.limits.cpu_share:
            marks.append(mark("load", f"{share:.0%} of the CPUs were busy while the benchmark waited (at most {self.limits.cpu_share:.0%})"))
        cached, more = cache.look(self.limits)  # last: what others read meanwhile is seen
        state = {"page_cache": cached, "gpu": graphics, "cpu_busy_share": share, "load_average": os.getloadavg()[0]}
        return state, marks + more

    def after(self):
        """Right after the reply, while the process still runs."""
        graphics, marks = self.gpu.look(self.limits, idle=False)
        return {"gpu": graphics, "load_average": os.getloadavg()[0]}, marks

    def memory(self):
        """Marks of a machine that ran short of memory since `prepare`."""
        (killed, stalled), (killed_before, stalled_before) = memory_pressure(), self.pressed
        if killed > killed_before:
            yield mark("memory", f"the kernel killed {killed - killed_before} processes for want of memory")
        if stalled is not None and stalled - stalled_before > self.limits.stalled_seconds:
            yield mark("memory", f"processes were stalled {stalled - stalled_before:.1f} s for want of memory (at most {self.limits.stalled_seconds} s)")

    def counts(self, marks):
        """Says in each mark whether it is accepted, and whether the run counts."""
        for one in marks:
            one["accepted"] = one["kind"] in self.accepted
        return all(one["accepted"] for one in marks)
