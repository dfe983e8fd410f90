"""Page cache and disk: what is resident, evicting, the disk's own speed by fio, a slow mount.

    storage.py read DIR --threads N [--direct]    reads the files and drops the bytes; for machines without fio
"""
import argparse
import concurrent.futures
import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import time

MIB = 1 << 20
CACHESTAT = 451  # the system call, from Linux 6.5
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "hugetlbfs"}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def listed(folder):
    """The regular files that are measured: the large ones of a folder."""
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return [path for path in paths if os.path.isfile(path) and os.path.getsize(path) >= MIB]


def resident(paths):
    """The share of the files' pages in the page cache, by mincore and cachestat: on overlay file systems cachestat sees none,
    and mincore may see less than there is."""
    pages = there = 0
    for path in paths:
        size = os.path.getsize(path)
        if not size:
            continue
        with open(path, "rb") as file:
            there += max(_cachestat(file.fileno()), _mincore(file.fileno(), size))
        pages += (size + 4095) // 4096
    return there / max(1, pages)


def _cachestat(fd):
    span, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    failed = _libc.syscall(CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0)
    return -1 if failed else counts[0]


def _mincore(fd, size):
    at = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    vector = (ctypes.c_ubyte * ((size + 4095) // 4096))()
    _libc.mincore(at, size, ctypes.addressof(vector))
    _libc.munmap(at, size)
    data = bytes(vector)
    return sum(data.count(value) for value in set(data) if value & 1)


def evict(paths):
    """Drops the files' pages, and says which share stayed."""
    for path in paths:
        with open(path, "rb") as file:
            with contextlib.suppress(OSError):  # a read-only file system
                os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(paths)


def file_system(folder):
    """The type of the file system that a folder is on, from the mount table's longest match."""
    folder, best = os.path.realpath(folder), ("", "unknown")
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, point, kind = line.split()[:3]
            if (folder + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]


def in_memory(folder):
    return file_system(folder) in MEMORY_FILE_SYSTEMS


def read(paths, threads, direct):
    """Reads files with several threads, 4 MiB at a time."""
    chunk, todo = 4 * MIB, []
    fds = [os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) for path in paths]
    for fd in fds:
        todo += [(fd, at) for at in range(0, os.fstat(fd).st_size, chunk)]
    buffers = [mmap.mmap(-1, chunk) for _ in range(threads)]
    pieces = iter(todo)

    def work(buffer):
        done = 0
        for fd, at in pieces:  # next() of a list's iterator is one step under the interpreter's lock
            done += os.preadv(fd, [buffer], at)
        return done
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(work, buffers))
    seconds = time.perf_counter() - begin
    for fd in fds:
        os.close(fd)
    return {"bytes": total, "seconds": seconds}


# fio's engines that are tried, and whether they read past the page cache.
ON_DISK = (("libaio", 1), ("io_uring", 1), ("psync", 1), ("psync", 0), ("io_uring", 0))
IN_CACHE = (("psync", 0), ("io_uring", 0), ("mmap", 0))
ASYNCHRONOUS = ("libaio", "io_uring")


class Disk:
    """The storage's own sequential speed: fio's best setting for these files, or a reader of our own without fio."""

    def __init__(self, paths, fio, scratch, say, engines=ON_DISK, cold=True):
        self.paths, self.scratch, self.say, self.engines, self.cold = paths, scratch, say, engines, cold
        self.fio = shutil.which(fio or "fio")
        self.tried, self.setting, self.complaint = {}, None, ""

    def name(self):
        if not self.fio:
            return f"own {'O_DIRECT ' * self.cold}reader, 8 threads (no fio)"
        engine, direct, block, depth, jobs = self.setting
        return f"fio {engine} {'direct' if direct else 'buffered'} {block // MIB}M, depth {depth}, {jobs} jobs"

    def search(self, seconds):
        """Tries settings while the time lasts: engines first, then the best two with other sizes, depths and jobs."""
        if not self.fio:
            return
        begin, limit = time.perf_counter(), 1.0

        def attempt(settings):
            for setting in settings:
                if setting not in self.tried and (time.perf_counter() - begin < seconds or not self.tried):
                    self.tried[setting] = self.run(setting, limit)

        attempt((engine, direct, MIB, 8 if engine in ASYNCHRONOUS else 1, 4) for engine, direct in self.engines)
        for engine, direct, block, depth, jobs in self.best(2):
            attempt([(engine, direct, block, depth, 1), (engine, direct, block, depth, 8), (engine, direct, 4 * MIB, depth, jobs)]
                    + [(engine, direct, block, other, jobs) for other in (1, 32) if engine in ASYNCHRONOUS])
        for engine, direct, block, depth, jobs in self.best(1):
            attempt([(engine, direct, 4 * MIB, depth, other) for other in (1, 4, 8)]
                    + [(engine, direct, 4 * MIB, other, jobs) for other in (8, 32) if engine in ASYNCHRONOUS])
        self.setting = self.best(1)[0]
        if not self.tried[self.setting]:
            raise OSError(f"{self.fio} reads nothing here; its last words: {self.complaint}")
        self.say(f"  disk: {self.name()}: {self.tried[self.setting]:.2f} GB/s, best of {len(self.tried)} settings")

    def best(self, count):
        return sorted(self.tried, key=self.tried.get, reverse=True)[:count]

    def run(self, setting, limit=None):
        """GB/s of one setting; 0 where fio cannot do it here: an engine that the kernel forbids, O_DIRECT."""
        if self.cold:
            evict(self.paths)
        done = None
        try:
            done = subprocess.run(self.command(setting, limit), capture_output=True, text=True, timeout=120)
            return rate_of_fio(json.loads(done.stdout[done.stdout.index("{"):]))
        except (ValueError, KeyError, subprocess.TimeoutExpired) as error:
            self.complaint = getattr(done, "stderr", "").strip()[-200:] or str(error)
            return 0.0

    def command(self, setting=None, limit=None):
        """The command line that reads the files once, or for `limit` seconds."""
        if not self.fio:
            here = os.path.abspath(__file__)
            return ["python3", here, "read", os.path.dirname(self.paths[0]), "--threads", "8"] + ["--direct"] * self.cold
        engine, direct, block, depth, jobs = setting or self.setting
        job_file = os.path.join(self.scratch, "disk.fio")
        lines = ["[global]", "rw=read", f"ioengine={engine}", f"direct={direct}", f"bs={block}",
                 f"iodepth={depth}", "iomem_align=2M", "thread", "group_reporting", "invalidate=0", "allow_file_create=0"]
        if not self.cold:  # once is too short beside fio's own start
            lines += ["time_based", "runtime=1"]
        elif limit:
            lines += [f"runtime={limit}"]
        pieces = list(self.pieces(jobs))
        if limit and jobs == 1:
            pieces = pieces[:1]  # they come one after the other, each with the whole time
        for number, (path, offset, length) in enumerate(pieces):
            lines += [f"[job{number}]", f"filename={path}", f"offset={offset}", f"size={length}"]
            lines += ["stonewall"] if jobs == 1 and number else []
        with open(job_file, "w") as file:
            file.write("\n".join(lines) + "\n")
        return [self.fio, "--readonly", "--output-format=json", job_file]

    def pieces(self, jobs):
        """At least `jobs` parts of the files, no byte twice: what one job reads is in the page cache for another."""
        cut = max(1, jobs // len(self.paths))
        for path in self.paths:
            size = os.path.getsize(path)
            step = size // cut // MIB * MIB or size
            for number in range(cut):
                offset = number * step
                yield path, offset, (size - offset if number == cut - 1 else step) // 4096 * 4096


def rate_of_fio(report):
    """GB/s over all jobs; with jobs one after the other their times add up."""
    groups = [job["read"] for job in report["jobs"] if job["read"]["io_bytes"]]
    return sum(group["io_bytes"] for group in groups) / max(1, sum(group["runtime"] for group in groups)) / 1e6


@contextlib.contextmanager
def slow_mount(program, source, target, latency_us, bytes_per_second=0):
    """`source` again at `target`, with a delay in each read; raises OSError where it cannot be mounted."""
    os.makedirs(target, exist_ok=True)
    with subprocess.Popen([program, source, target, str(latency_us), str(bytes_per_second)], stdout=subprocess.PIPE,
                          text=True, start_new_session=True) as child:
        try:
            if not select.select([child.stdout], [], [], 10)[0]:
                raise OSError("slow-fs says nothing")
            said = json.loads(child.stdout.readline() or '{"error": "slow-fs ended"}')
            if "error" in said:
                raise OSError(said["error"])
            yield target
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("read",))
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--direct", action="store_true")
    options = parser.parse_args()
    print(json.dumps(read(listed(options.folder), options.threads, options.direct)), flush=True)


if __name__ == "__main__":
    main()
