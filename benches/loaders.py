#!/usr/bin/env python3
"""Weights from files in the page cache to the GPU, as Python loaders do it; one JSON line each on stdout.

    loaders.py make DIR --bytes N              writes safetensors files shaped as an 8B Llama in bf16
    loaders.py load_file|vllm|transformers DIR --reps R [--full] [--device cpu]

load_file     safetensors.torch.load_file(file), then .to('cuda') for every tensor
vllm          what vLLM's default weight iterator does: safe_open on the CPU, get_tensor, copy_ into a parameter on the GPU
transformers  a Llama model with bf16 weights in host memory, moved by .to('cuda'); no file

Timed from the first call until torch.cuda.synchronize() returns. `first` is what one process sees when it starts;
later loads find the memory pool of the framework warm.
"""
import argparse
import glob
import json
import os
import random
import struct
import sys
import time

MIB = 1 << 20
HIDDEN, INTERMEDIATE, KEYS = 4096, 14336, 1024
now = time.perf_counter


def emit(**line):
    print(json.dumps(line), flush=True)


def layer_shapes(layer):
    name = f"model.layers.{layer}."
    return [
        (name + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)),
        (name + "self_attn.k_proj.weight", (KEYS, HIDDEN)),
        (name + "self_attn.v_proj.weight", (KEYS, HIDDEN)),
        (name + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)),
        (name + "mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)),
        (name + "mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)),
        (name + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)),
        (name + "input_layernorm.weight", (HIDDEN,)),
        (name + "post_attention_layernorm.weight", (HIDDEN,)),
    ]


LAYER_BYTES = 2 * (2 * HIDDEN * HIDDEN + 2 * KEYS * HIDDEN + 3 * INTERMEDIATE * HIDDEN + 2 * HIDDEN)


def noise():
    return os.urandom(16 * MIB) * 8


def make(folder, size, shards=2):
    """Tensors begin at places of their own in the noise, so that a misplaced one shows."""
    os.makedirs(folder, exist_ok=True)
    block, rng, layer = memoryview(noise()), random.Random(1), 0
    layers = max(shards, round(size / LAYER_BYTES))
    begin, written = now(), 0
    for shard in range(shards):
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        while layer < layers * (shard + 1) // shards:
            for name, shape in layer_shapes(layer):
                length = 2
                for side in shape:
                    length *= side
                header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + length]}
                offset += length
            layer += 1
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, f"model-{shard + 1}-of-{shards}.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                left, at = entry["data_offsets"][1] - entry["data_offsets"][0], rng.randrange(len(block) // 2)
                while left:
                    part = min(left, len(block) - at)
                    file.write(block[at:at + part])
                    left, at = left - part, 0
        written += offset
    emit(bench="make", bytes=written, seconds=now() - begin)


def equal(there, here, full):
    """Bits, not numbers: random bits hold NaNs."""
    import torch

    there, here = there.reshape(-1).view(torch.int16), here.reshape(-1).view(torch.int16)
    if not full:
        for at in (0, max(0, here.numel() // 2 - 1024), max(0, here.numel() - 2048)):
            if not torch.equal(there[at:at + 2048].cpu(), here[at:at + 2048]):
                return False
        return True
    return torch.equal(there.cpu(), here)


class LoadFile:
    def __init__(self, files, device):
        from safetensors.torch import load_file

        self.files, self.device, self.load_file = files, device, load_file

    def prepare(self):
        pass

    def load(self):
        there = {}
        for file in self.files:
            for name, tensor in self.load_file(file).items():
                there[name] = tensor.to(self.device)
        return there

    def compare(self, there, full):
        for file in self.files:
            for name, tensor in self.load_file(file).items():
                if not equal(there[name], tensor, full):
                    return name
        return None


class Vllm(LoadFile):
    def __init__(self, files, device):
        super().__init__(files, device)
        from safetensors import safe_open

        self.safe_open = safe_open
        import torch

        self.parameters = {name: torch.zeros_like(tensor, device=device)
                           for file in files for name, tensor in self.load_file(file).items()}

    def prepare(self):
        for tensor in self.parameters.values():
            tensor.zero_()

    def load(self):
        for file in self.files:
            with self.safe_open(file, framework="pt") as handle:
                for name in handle.keys():
                    self.parameters[name].copy_(handle.get_tensor(name))
        return self.parameters


class Transformers:
    def __init__(self, size, device):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        layers = max(1, round((size - 2 * 2 * 32000 * HIDDEN) / LAYER_BYTES))
        if device == "cpu":
            layers = 1
        config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=layers,
                             num_attention_heads=32, num_key_value_heads=8, vocab_size=32000)
        with torch.device("meta"):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        self.model, self.torch, self.device = model.to_empty(device="cpu"), torch, device
        block, rng = torch.frombuffer(bytearray(noise()), dtype=torch.int16), random.Random(1)
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

    def compare(self, there, full):
        for name, tensor in there.items():
            here = self.torch.empty(tensor.numel(), dtype=self.torch.int16)
            self.fill(here, self.block, self.where[name])
            if not equal(tensor.data, here, full):
                return name
        return None


def run(name, folder, size, reps, full, device):
    import torch

    torch.set_grad_enabled(False)
    cuda = device != "cpu"
    if cuda:
        torch.zeros(1, device=device)
        torch.cuda.synchronize()
    if name == "transformers":
        loader, reps = Transformers(size, device), 1  # the move gives up the host's copy
    else:
        files = sorted(glob.glob(os.path.join(folder, "*.safetensors")))
        if not files:
            raise SystemExit(json.dumps({"error": f"no files in {folder}"}))
        loader = (Vllm if name == "vllm" else LoadFile)(files, device)
    times, there, total = [], None, 0
    for rep in range(reps):
        there = None
        loader.prepare()
        if cuda:
            torch.cuda.synchronize()
        begin = now()
        there = loader.load()
        if cuda:
            torch.cuda.synchronize()
        times.append((now() - begin) * 1e9)
        total = sum(tensor.numel() * tensor.element_size() for tensor in there.values())
        wrong = loader.compare(there, full and rep == 0)
        if wrong:
            raise SystemExit(json.dumps({"error": f"WRONG BYTES in {wrong}"}))
    later = sorted(times[1:])
    emit(bench="loader", loader=name, bytes=total, n=len(times), verified="full" if full else "sample",
         first_ns=times[0], median_ns=later[len(later) // 2] if later else times[0],
         min_ns=min(times), max_ns=max(times), tensors=len(there))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("make", "load_file", "vllm", "transformers"))
    parser.add_argument("folder")
    parser.add_argument("--bytes", type=int, default=4_300_000_000)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    try:
        if options.task == "make":
            make(options.folder, options.bytes)
        else:
            run(options.task, options.folder, options.bytes, options.reps, options.full, options.device)
    except ImportError as error:
        emit(skipped=f"not installed: {error}")
        sys.exit(5)


if __name__ == "__main__":
    main()
