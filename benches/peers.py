#!/usr/bin/env python3
"""Other projects' loaders on the same files; one function a peer, one JSON line on stdout.

    peers.py NAME DIR [--full] [--pack FILE] [--device cpu]

Each peer is measured in a fresh process: a first load, a second one, and a third, untimed one during which the memory
that the driver knows as pinned is added up. `import`, the CUDA context and, for flashpack, the conversion into its own
format come before; the peer's own pools and their pinning are part of the first load.
"""
import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
import loaders
import storage
import weights

MIB = 1 << 20


# Each function imports its project and returns load() -> (tensors by name, what to call when they are no longer needed).

def safetensors(options):
    from safetensors.torch import load_file

    def load():
        tensors = {}
        for path in options.files:
            tensors.update(load_file(path, device=options.device))
        return tensors, None
    return load


def safetensors_prefetch(options):
    from safetensors import safe_open

    def load():
        tensors, opened = {}, [safe_open(path, framework="pt", device=options.device) for path in options.files]
        running = [file.prefetch(device=options.device) for file in opened]
        for one in running:
            tensors.update(one)
            one.close()
        return tensors, opened.clear
    return load


def instanttensor(options):
    import instanttensor as project

    def load():
        with project.safe_open(options.files, framework="pt", device=options.device) as file:
            return dict(file.tensors()), None
    return load


def fastsafetensors(options):
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load():
        loader = SafeTensorsFileLoader(SingleGroup(), device=options.device, nogds=True, framework="pytorch")
        loader.add_filenames({0: options.files})
        buffer = loader.copy_files_to_device()
        tensors = {name: buffer.get_tensor(name) for name in list(buffer.key_to_rank_lidx)}

        def close():
            buffer.close()
            loader.close()
        return tensors, close
    return load


def runai(options):
    from runai_model_streamer import SafetensorsStreamer

    def load():
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(options.files, device=options.device)
            return dict(streamer.get_tensors()), None
    return load


def flashpack(options):
    from flashpack.deserialization import iterate_from_flash_tensor, read_flashpack_file
    from flashpack.serialization import pack_to_file
    from safetensors.torch import load_file

    if not os.path.exists(options.pack):
        pack_to_file({name: tensor for path in options.files for name, tensor in load_file(path).items()}, options.pack, None)

    def load():
        whole, places = read_flashpack_file(options.pack, device=options.device)
        return dict(iterate_from_flash_tensor(whole, places)), None
    return load


# name: (function, the distribution whose version is reported)
PEERS = {
    "safetensors": (safetensors, "safetensors"),
    "safetensors-prefetch": (safetensors_prefetch, "safetensors"),
    "instanttensor": (instanttensor, "instanttensor"),
    "fastsafetensors": (fastsafetensors, "fastsafetensors"),
    "runai": (runai, "runai-model-streamer"),
    "flashpack": (flashpack, "flashpack"),
}


class Pinned:
    """The most pinned memory while a block runs: every 2 MiB of the process's memory, as the driver knows it."""

    def __init__(self):
        self.driver, self.most, self.ended = ctypes.CDLL("libcuda.so.1"), 0, threading.Event()
        self.context = ctypes.c_void_p()
        self.driver.cuCtxGetCurrent(ctypes.byref(self.context))
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        self.driver.cuCtxSetCurrent(self.context)
        while not self.ended.wait(0.05):
            self.most = max(self.most, self.now())
        self.most = max(self.most, self.now())

    def now(self):
        total, kind = 0, ctypes.c_uint()
        with open("/proc/self/maps") as maps:
            places = [line.split() for line in maps]
        for fields in places:
            begin, end = (int(at, 16) for at in fields[0].split("-"))
            of_file = len(fields) > 5 and fields[5].startswith("/") and not fields[5].startswith("/dev/")
            if fields[1][1] != "w" or end - begin < MIB or of_file:
                continue
            for at in range(begin, end, 2 * MIB):
                memory_type = 2  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE; 1 is host memory that CUDA has pinned
                if self.driver.cuPointerGetAttribute(ctypes.byref(kind), memory_type, ctypes.c_uint64(at)) == 0 and kind.value == 1:
                    total += min(2 * MIB, end - at)
        return total


def measure(options):
    import torch

    torch.set_grad_enabled(False)
    wait = (lambda: None) if options.device == "cpu" else torch.cuda.synchronize
    if options.device != "cpu":
        torch.cuda.set_device(0)
        torch.zeros(1, device=options.device)
    function, distribution = PEERS[options.peer]
    load = function(options)
    times, total, resident = [], 0, storage.resident([options.pack] if options.peer == "flashpack" else options.files)

    def once(check):
        nonlocal total
        (tensors, close), took = loaders.timed(load, wait)
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        wrong = weights.first_difference(tensors, options.folder, options.full) if check else None
        if wrong:
            raise SystemExit(json.dumps({"error": f"WRONG BYTES in {wrong}"}))
        tensors.clear()
        if close:
            close()
        gc.collect()
        return took
    times = [once(check=True), once(check=False)]
    pinned = None
    if options.device != "cpu":
        with Pinned() as watched:
            once(check=False)
        pinned = watched.most
    loaders.emit(bench="peer", peer=options.peer, version=importlib.metadata.version(distribution), bytes=total,
                 first_ns=times[0], second_ns=times[1], pinned_bytes=pinned, resident_before=[resident],
                 verified="full" if options.full else "sample")
    sys.stdout.flush()
    os._exit(0)  # not through the peer's own exit handlers, some of which hang or crash after a good run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--pack", help="flashpack's file, made if it is not there")
    parser.add_argument("--device", default="cuda:0")
    options = parser.parse_args()
    options.files = weights.files(options.folder)
    options.pack = options.pack or os.path.join(options.folder, "converted.flashpack")
    try:
        measure(options)
    except ImportError as error:
        loaders.emit(skipped=f"not installed: {error}")
        sys.exit(5)


if __name__ == "__main__":
    main()
