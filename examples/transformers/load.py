"""Has from_pretrained bring a model to the GPU and prints how long that took."""

import sys
import time

import torch
from transformers import AutoModelForCausalLM

name = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3-0.6B"
torch.zeros(1, device="cuda")  # the context is not what is measured
torch.cuda.synchronize()
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16, device_map="cuda")
torch.cuda.synchronize()
seconds = time.perf_counter() - start
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(f"{name}: {size / 1e9:.2f} GB in {seconds:.3f} s, {size / seconds / 1e9:.1f} GB/s")
