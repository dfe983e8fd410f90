"""A program that gives its GPU memory away while it is idle.

    idle.py FOLDER [GiB]
"""

import subprocess
import sys

import rewarm
import torch


def free():
    """MiB free on the first GPU, as seen from outside: CUDA calls wait while frozen."""
    query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, check=True, capture_output=True, text=True).stdout)


folder = sys.argv[1]
size = int(float(sys.argv[2] if len(sys.argv) > 2 else 4) * (1 << 30))
model = torch.randint(256, (size,), dtype=torch.uint8, device="cuda")
workspace = torch.empty_like(model)
checksum = model.sum().item()
print(f"running: {free()} MiB free")

if rewarm.is_active():
    rewarm.discard(workspace)
    frozen = rewarm.freeze(folder)
    print(f"frozen in {frozen['seconds']:.2f} s: {free()} MiB free, snapshot {frozen['snapshot']}")
    thawed = rewarm.thaw()
    print(f"thawed in {thawed['seconds']:.2f} s: {free()} MiB free")
else:
    print("not under rewarm: nothing was frozen")

assert model.sum().item() == checksum
print("the model is as it was")
