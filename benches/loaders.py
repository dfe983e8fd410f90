#!/usr/bin/env python3
"""Weights from files to the GPU, as Python loaders do it; one JSON line on stdout.

    loaders.py load_file|load_file_device|vllm|from_pretrained|transformers DIR --reps R [--full] [--cold] [--device cpu]

load_file         safetensors.torch.load_file(file), then .to('cuda') for every tensor
load_file_device  safetensors.torch.load_file(file, device='cuda:0')
vllm              what vLLM's default weight iterator does: safe_open on the CPU, get_tensor, copy_ into a parameter on the GPU
from_pretrained   transformers: LlamaForCausalLM.from_pretrained(DIR, device_map='cuda', dtype=bfloat16)
transformers      a Llama model with bf16 weights in host memory, moved by .to('cuda'); no file

Timed from the first call until torch.cuda.synchronize() returns. `first` is what one process sees when it starts;
later loads find the memory pool of the framework warm. With --cold the files' pages are dropped before each load.
"""
import argparse
import gc
import json
import os
import random
import sys
import time

sys.dont_write_bytecode = True
import storage
import weights

now = time.perf_counter


def emit(**line):
    print(json.dumps(line), flush=True)


class LoadFile:
    def __init__(self, folder, device):
        from safetensors.torch import load_file

        self.folder, self.files, self.device, self.load_file = folder, weights.files(folder), device, load_file

    def prepare(self):
        pass

    def load(self):
        there = {}
        for file in self.files:
            for name, tensor in self.load_file(file).items():
                there[name] = tensor.to(self.device)
        return there

    def wrong(self, there, full):
        return weights.first_difference(there, self.folder, full)


class LoadFileDevice(LoadFile):
    def load(self):
        there = {}
        for file in self.files:
            there.update(self.load_file(file, device=self.device))
        return there


class Vllm(LoadFile):
    def __init__(self, folder, device):
        super().__init__(folder, device)
        from safetensors import safe_open
        import torch

        self.safe_open = safe_open
        self.parameters = {name: torch.zeros(entry["shape"], dtype=torch.bfloat16, device=device)
                           for file in self.files for name, entry in weights.header(file)[1].items()}

    def prepare(self):
        for tensor in self.parameters.values():
            tensor.zero_()

    def load(self):
        for file in self.files:
            with self.safe_open(file, framework="pt") as handle:
                for name in handle.keys():
                    self.parameters[name].copy_(handle.get_tensor(name))
        return self.parameters


class FromPretrained(LoadFile):
    def __init__(self, folder, device):
        super().__init__(folder, device)
        import torch
        import accelerate  # from_pretrained asks for it when it is given a device map
        from transformers import LlamaForCausalLM

        del accelerate
        self.model, self.dtype = LlamaForCausalLM, torch.bfloat16

    def load(self):
        return dict(self.model.from_pretrained(self.folder, device_map=self.device, dtype=self.dtype).state_dict())


class Transformers:
    """No file: the noise goes into the parameters in host memory."""

    def __init__(self, size, device):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**weights.Llama(size).config())
        with torch.device("meta"):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        self.model, self.torch, self.device = model.to_empty(device="cpu"), torch, device
        block, rng = torch.frombuffer(bytearray(os.urandom(16 * weights.MIB) * 8), dtype=torch.int16), random.Random(1)
        self.where = {}
        with torch.no_grad():
            for name, tensor in self.model.named_parameters():
                flat = tensor.data.view(-1).view(torch.int16)
                self.where[name] = rng.randrange(block.numel() // 2)
                self.fill(flat, block, self.where[name])
        self.block = block

    @staticmethod
    def fill(flat, block, start):
        done = 0
        while done < flat.numel():
            part = min(flat.numel() - done, block.numel() - start)
            flat[done:done + part] = block[start:start + part]
            done, start = done + part, 0

    def prepare(self):
        pass

    def load(self):
        self.model.to(self.device)
        return dict(self.model.named_parameters())

    def wrong(self, there, full):
        for name, tensor in there.items():
            here = self.torch.empty(tensor.numel(), dtype=self.torch.int16)
            self.fill(here, self.block, self.where[name])
            bits = tensor.data.reshape(-1).view(self.torch.int16)
            spans = [slice(None)] if full else [slice(0, 2048), slice(-2048, None)]
            if not all(self.torch.equal(bits[span].cpu(), here[span]) for span in spans):
                return name
        return None


LOADERS = {"load_file": LoadFile, "load_file_device": LoadFileDevice, "vllm": Vllm, "from_pretrained": FromPretrained}


def timed(load, wait):
    wait()
    begin = now()
    there = load()
    wait()
    return there, (now() - begin) * 1e9


def run(options):
    import torch

    torch.set_grad_enabled(False)
    wait, device = (lambda: None), options.device
    if device != "cpu":
        torch.zeros(1, device=device)
        wait = torch.cuda.synchronize
    if options.task == "transformers":
        loader, reps = Transformers(options.bytes, device), 1  # the move gives up the host's copy
    else:
        if not weights.files(options.folder):
            raise SystemExit(json.dumps({"error": f"no files in {options.folder}"}))
        loader, reps = LOADERS[options.task](options.folder, device), options.reps
    times, resident, there, total = [], [], None, 0
    for rep in range(reps):
        there = None
        gc.collect()
        loader.prepare()
        if options.task != "transformers":
            paths = weights.files(options.folder)
            resident.append(storage.evict(paths) if options.cold else storage.resident(paths))
        there, took = timed(loader.load, wait)
        times.append(took)
        total = sum(tensor.numel() * tensor.element_size() for tensor in there.values())
        wrong = loader.wrong(there, options.full and rep == 0)
        if wrong:
            raise SystemExit(json.dumps({"error": f"WRONG BYTES in {wrong}"}))
    later = sorted(times[1:])
    emit(bench="loader", loader=options.task, bytes=total, n=len(times), verified="full" if options.full else "sample",
         first_ns=times[0], median_ns=later[len(later) // 2] if later else times[0],
         min_ns=min(times), max_ns=max(times), tensors=len(there), resident_before=resident)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=(*LOADERS, "transformers"))
    parser.add_argument("folder")
    parser.add_argument("--bytes", type=int, default=weights.FULL_BYTES, help="of the model, for transformers")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--device", default="cuda:0")
    try:
        run(parser.parse_args())
    except ImportError as error:
        emit(skipped=f"not installed: {error}")
        sys.exit(5)


if __name__ == "__main__":
    main()
