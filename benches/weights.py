"""Safetensors files shaped as a Llama in bf16, made and compared without any loader's help.

    weights.py make DIR --bytes N [--shards N]    files, config.json and model.safetensors.index.json
"""
import argparse
import concurrent.futures
import glob
import json
import math
import mmap
import os
import random
import struct
import time

MIB = 1 << 20
FULL_BYTES = 16_060_522_496  # of an 8B Llama
WRITERS = 8
INDEX = "model.safetensors.index.json"


class Llama:
    """The 8B model's shape, with as many layers as the size asks for; below 1 GB an eighth of its width."""

    def __init__(self, size):
        large = size >= 10**9
        self.hidden, self.intermediate, self.keys = (4096, 14336, 1024) if large else (512, 1792, 128)
        self.vocabulary = 128256 if size >= 6 * 10**9 else 16384 if large else 4096
        ends = 2 * (2 * self.vocabulary + 1) * self.hidden
        layer = sum(2 * math.prod(shape) for _, shape in self.layer(0))
        self.layers = max(1, round((size - ends) / layer))

    def layer(self, number):
        name, hidden = f"model.layers.{number}.", self.hidden
        return [
            (name + "self_attn.q_proj.weight", (hidden, hidden)),
            (name + "self_attn.k_proj.weight", (self.keys, hidden)),
            (name + "self_attn.v_proj.weight", (self.keys, hidden)),
            (name + "self_attn.o_proj.weight", (hidden, hidden)),
            (name + "mlp.gate_proj.weight", (self.intermediate, hidden)),
            (name + "mlp.up_proj.weight", (self.intermediate, hidden)),
            (name + "mlp.down_proj.weight", (hidden, self.intermediate)),
            (name + "input_layernorm.weight", (hidden,)),
            (name + "post_attention_layernorm.weight", (hidden,)),
        ]

    def tensors(self):
        ends = (self.vocabulary, self.hidden)
        body = [tensor for number in range(self.layers) for tensor in self.layer(number)]
        return [("model.embed_tokens.weight", ends), *body, ("model.norm.weight", (self.hidden,)), ("lm_head.weight", ends)]

    def config(self):
        """What LlamaForCausalLM.from_pretrained reads."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "dtype": "bfloat16",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 128, "num_key_value_heads": self.keys // 128, "head_dim": 128,
            "vocab_size": self.vocabulary, "tie_word_embeddings": False, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "rope_theta": 500000.0, "bos_token_id": 1, "eos_token_id": 2,
        }


def files(folder):
    return sorted(glob.glob(os.path.join(folder, "*.safetensors")))


def header(path):
    """(where the data begins, {name: entry}) of a file that `make` wrote."""
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return 8 + length, entries


def payload(folder):
    return sum(os.path.getsize(path) - header(path)[0] for path in files(folder))


def _header(tensors):
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        length = 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8), offset


def _shards(tensors, count):
    """Neighbouring tensors together, in files of about the same size."""
    total, before, out = sum(math.prod(shape) for _, shape in tensors), 0, [[] for _ in range(count)]
    for name, shape in tensors:
        out[min(count - 1, before * count // total)].append((name, shape))
        before += math.prod(shape)
    return [shard for shard in out if shard]


def make(folder, size, shards=4):
    """Each tensor begins at a place of its own in the noise, so that a misplaced one shows. Several threads write."""
    os.makedirs(folder, exist_ok=True)
    llama, begin = Llama(size), time.perf_counter()
    noise, rng = memoryview(os.urandom(16 * MIB) * 8), random.Random(1)
    parts, work, where, opened, total = _shards(llama.tensors(), shards), [], {}, [], 0
    for number, tensors in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        text, length = _header(tensors)
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        opened.append(file)
        os.ftruncate(file, 8 + len(text) + length)
        os.pwrite(file, struct.pack("<Q", len(text)) + text, 0)
        offset = 8 + len(text)
        for tensor, shape in tensors:
            where[tensor] = name
            left, source = 2 * math.prod(shape), rng.randrange(16 * MIB)
            while left:
                part = min(left, len(noise) - source)
                work.append((file, source, part, offset))
                left, offset, source = left - part, offset + part, 0
        total += length
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda one: _write(noise, *one), work))
    for file in opened:
        os.close(file)
    for name, content in (("config.json", llama.config()),
                          (INDEX, {"metadata": {"total_size": total}, "weight_map": where})):
        with open(os.path.join(folder, name), "w") as out:
            json.dump(content, out, indent=1)
    return {"bench": "make", "bytes": total, "files": len(parts), "seconds": time.perf_counter() - begin}


def _write(noise, file, source, length, offset):
    while length:
        done = os.pwrite(file, noise[source:source + length], offset)
        source, length, offset = source + done, length - done, offset + done


def first_difference(tensors, folder, full):
    """The name of the first tensor whose type, shape or bytes are not the file's; None when all are.

    `tensors` holds torch tensors by name. Not full: samples of each. Bits are compared, for random bits hold NaNs.
    """
    import torch

    for path in files(folder):
        start, entries = header(path)
        with open(path, "rb") as file:
            data = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        for name, entry in entries.items():
            begin, end = (start + at for at in entry["data_offsets"])
            there = tensors.get(name)
            if there is None or list(there.shape) != entry["shape"] or there.dtype != torch.bfloat16:
                return name
            bits = there.detach().contiguous().reshape(-1).view(torch.int16).view(torch.uint8)
            spans = [(0, end - begin)] if full else [(at, min(at + 4096, end - begin)) for at in
                                                     (0, (end - begin) // 4 * 2, max(0, end - begin - 4096))]
            for low, high in spans:
                if not torch.equal(bits[low:high].cpu(), data[begin + low:begin + high]):
                    return name
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("make",))
    parser.add_argument("folder")
    parser.add_argument("--bytes", type=int, default=FULL_BYTES)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    print(json.dumps(make(options.folder, options.bytes, options.shards)), flush=True)


if __name__ == "__main__":
    main()
