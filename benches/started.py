"""What the benchmark started, by process id and start time: nothing else is ever ended."""
import json
import os
import select
import signal
import time
import uuid

LONGEST = 1 << 20  # bytes of the record, of an environment
VARIABLE = "BENCH_COLD_STARTED"


def start_time(pid):
    """Ticks since boot at which a process began, or None; with the id it names one process and no other."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else int(words[19])


def boot():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def tree(pid):
    """A process and all its descendants, the first of them first."""
    found = [pid]
    for one in found:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
        except OSError:
            continue
    return found


def is_named(pid, name):
    """Whether a process, or who started it, got that name from its benchmark."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{VARIABLE}={name}".encode() in file.read(LONGEST).split(b"\0")
    except OSError:
        return False


class Started:
    """The record, kept in a file too: a benchmark that is killed outright leaves it to the next one."""

    def __init__(self, path):
        self.path, self.processes, self.expected = path, set(), set()
        self.name = f"{os.path.abspath(path)} {uuid.uuid4()}"  # of this benchmark; all that it starts has it in its environment

    def add(self, pid):
        """A process of ours, with its descendants as they are now."""
        for one in tree(pid):
            began = start_time(one)
            if began is not None:
                self.processes.add((one, began))
        self.write()

    def expect(self, pid):
        """A process of ours that a restore is about to bring back under its old id, with a start time that nobody knows yet."""
        self.expected.add((pid, self.name))
        self.write()

    def write(self):
        with open(self.path + ".new", "w") as file:
            json.dump({"boot": boot(), "processes": sorted(self.processes), "expected": sorted(self.expected)}, file)
        os.replace(self.path + ".new", self.path)

    def end(self):
        """Ends those that still run, with their descendants, and waits for it; who is not who was started is left alone."""
        for pid, name in self.expected:
            began = start_time(pid)
            if began is not None and is_named(pid, name):
                self.processes.add((pid, began))
        for pid, began in list(self.processes):
            if start_time(pid) == began:
                self.add(pid)
        ended = [one for one in sorted(self.processes) if kill(*one)]
        self.processes.clear()
        self.expected.clear()
        self.write()
        return len(ended)

    def end_leftovers(self):
        """Ends what a benchmark before this one recorded and did not come to end."""
        try:
            with open(self.path, "rb") as file:
                said = json.loads(file.read(LONGEST))
            if said["boot"] == boot():
                self.processes = {(int(pid), int(began)) for pid, began in said["processes"] if int(pid) > 1}
                self.expected = {(int(pid), str(name)) for pid, name in said["expected"] if int(pid) > 1 and name}
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return self.end()


def kill(pid, began):
    """SIGKILL for that very process, and its end awaited; False if it is gone already."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if start_time(pid) != began:  # looked up after the handle was there, so they are the same
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], 30)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    reap(pid)
    return True


def reap(pid):
    """Takes note of a child's end, so that its pid is free."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.002)


def reap_all():
    """Takes note of every child's end, also of one that a restore which failed left: else its pid stays taken.

    Only between runs, when nothing is waited for.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
