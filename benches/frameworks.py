#!/usr/bin/env python3
"""Copies and start-up as Python frameworks do them; one JSON line per measurement on stdout.

    frameworks.py copy torch|cupy|cupy-set|numba|jax --sizes A,B --reps R [--full]
    frameworks.py pin --sizes A,B          torch's pin_memory()
    frameworks.py first                    the first CUDA use after `import torch`

Each copy is timed from the call until the device has all of it. The result is read back and compared
with the source: samples, or every byte with --full.
"""
import argparse
import json
import statistics
import sys
import time

now = time.perf_counter


def emit(**line):
    print(json.dumps(line), flush=True)


def numbers(np, size):
    """`size` bytes that differ everywhere."""
    data = np.arange(size // 8, dtype=np.int64)
    data *= np.int64(0x9E3779B97F4A7C1)
    return data


class Torch:
    def __init__(self):
        import torch

        self.torch = torch
        torch.zeros(1, device="cuda")
        torch.cuda.synchronize()

    def source(self, size):
        return self.torch.arange(size // 8, dtype=self.torch.int64).mul_(0x9E3779B97F4A7C1)

    def copy(self, source):
        there = source.to("cuda")
        self.torch.cuda.synchronize()
        return there

    def part(self, there, begin, end):
        return there[begin:end].cpu().numpy()

    def host(self, source, begin, end):
        return source[begin:end].numpy()


class Numpy:
    """What the array libraries over NumPy share."""

    def __init__(self):
        import numpy

        self.np = numpy

    def source(self, size):
        return numbers(self.np, size)

    def host(self, source, begin, end):
        return source[begin:end]


class Cupy(Numpy):
    def __init__(self):
        super().__init__()
        import cupy

        self.cupy = cupy
        cupy.zeros(1)
        cupy.cuda.runtime.deviceSynchronize()

    def copy(self, source):
        there = self.cupy.asarray(source)
        self.cupy.cuda.runtime.deviceSynchronize()
        return there

    def part(self, there, begin, end):
        return self.cupy.asnumpy(there[begin:end])


class CupySet(Cupy):
    """Into an array that is there: `asarray` copies into pinned memory of its own on one thread first."""

    def copy(self, source):
        there = self.cupy.empty(source.shape, source.dtype)
        there.set(source)
        self.cupy.cuda.runtime.deviceSynchronize()
        return there


class Numba(Numpy):
    def __init__(self):
        super().__init__()
        from numba import cuda

        self.cuda = cuda
        cuda.to_device(self.np.zeros(1))
        cuda.synchronize()

    def copy(self, source):
        there = self.cuda.to_device(source)
        self.cuda.synchronize()
        return there

    def part(self, there, begin, end):
        return there[begin:end].copy_to_host()


class Jax(Numpy):
    def __init__(self):
        super().__init__()
        import jax

        jax.config.update("jax_enable_x64", True)  # or 8-byte numbers are cut to 4
        self.jax = jax
        self.device = jax.devices("gpu")[0]
        jax.device_put(self.np.zeros(1), self.device).block_until_ready()

    def copy(self, source):
        return self.jax.device_put(source, self.device).block_until_ready()

    def part(self, there, begin, end):
        return self.np.asarray(self.jax.lax.dynamic_slice(there, (begin,), (end - begin,)))


FRAMEWORKS = {"torch": Torch, "cupy": Cupy, "cupy-set": CupySet, "numba": Numba, "jax": Jax}


def verify(framework, source, there, full):
    count, step = len(source), 1 << 23
    if full:
        spans = [(at, min(at + step, count)) for at in range(0, count, step)]
    else:
        spans = [(at, min(at + 512, count)) for at in range(0, count, max(512, count // 16))]
        spans.append((max(0, count - 512), count))
    for begin, end in spans:
        if not (framework.part(there, begin, end) == framework.host(source, begin, end)).all():
            raise SystemExit(json.dumps({"error": f"WRONG BYTES between {begin * 8} and {end * 8}"}))


def copy(name, sizes, reps, full):
    framework = FRAMEWORKS[name]()
    for size in sizes:
        source, times = framework.source(size), []
        for rep in range(reps):
            there = None  # its memory goes back to the library's pool first
            begin = now()
            there = framework.copy(source)
            times.append((now() - begin) * 1e9)
            last = full and rep == reps - 1
            verify(framework, source, there, last)
        there = None
        emit(bench="framework", framework=name, dir="h2d", bytes=size, verified="full" if full else "sample",
             n=reps, first_ns=times[0], min_ns=min(times), median_ns=statistics.median(times), max_ns=max(times))


def pin(sizes):
    import torch

    torch.zeros(1, device="cuda")
    for size in sizes:
        source = torch.arange(size // 8, dtype=torch.int64)
        torch.cuda.synchronize()
        begin = now()
        pinned = source.pin_memory()
        took = now() - begin
        if not pinned.is_pinned() or not torch.equal(pinned[:: 1 << 16], source[:: 1 << 16]):
            raise SystemExit(json.dumps({"error": "pin_memory() gave wrong memory"}))
        emit(bench="pin", call="pin_memory", bytes=size, n=1, first_ns=took * 1e9, min_ns=took * 1e9,
             median_ns=took * 1e9, max_ns=took * 1e9)
        del pinned, source


def first():
    start = now()
    import torch

    imported = now()
    there = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    used = now()
    assert there.item() == 0
    emit(bench="first", import_s=imported - start, first_use_s=used - imported, sum_s=used - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("copy", "pin", "first"))
    parser.add_argument("framework", nargs="?")
    parser.add_argument("--sizes", default=str(1 << 30))
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    try:
        if options.task == "copy":
            copy(options.framework, sizes, options.reps, options.full)
        elif options.task == "pin":
            pin(sizes)
        else:
            first()
    except ImportError as error:
        emit(skipped=f"not installed: {error}")
        sys.exit(5)


if __name__ == "__main__":
    main()
