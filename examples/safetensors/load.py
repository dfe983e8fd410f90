"""Loads safetensors files to the GPU and prints how fast that was."""

import sys
import time

import torch
from safetensors.torch import load_file

if len(sys.argv) < 2:
    sys.exit("usage: load.py FILE.safetensors ...")

torch.zeros(1, device="cuda")  # the context is not what is measured
torch.cuda.synchronize()
start = time.perf_counter()
tensors = {}
for path in sys.argv[1:]:
    for name, tensor in load_file(path).items():
        tensors[name] = tensor.to("cuda")
torch.cuda.synchronize()
seconds = time.perf_counter() - start
size = sum(t.numel() * t.element_size() for t in tensors.values())
print(f"{len(tensors)} tensors: {size / 1e9:.2f} GB in {seconds:.3f} s, {size / seconds / 1e9:.1f} GB/s")
