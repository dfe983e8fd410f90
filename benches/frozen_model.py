#!/usr/bin/env python3
"""A Llama with random weights on the GPU that generates the same tokens each time, and obeys lines on stdin.

    frozen_model.py [--layers 32] [--tokens 32]

Says {"ready": …}, then answers a line of JSON to each `check`: whether the tokens are those of before, and their seconds.
"""
import argparse
import hashlib
import json
import sys
import time


def emit(**line):
    print(json.dumps(line), flush=True)


def build(torch, transformers, layers):
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
                                     num_key_value_heads=8, vocab_size=32000, max_position_embeddings=4096)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return transformers.LlamaForCausalLM(shape).eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    began = time.perf_counter()
    try:
        import torch
        import transformers
    except ImportError as error:
        emit(skipped=f"not installed: {error}")
        sys.exit(5)
    model = build(torch, transformers, options.layers)
    prompt = torch.arange(1, 65, device="cuda")[None]

    def generate():
        begin = time.perf_counter()
        with torch.no_grad():
            tokens = model.generate(prompt, max_new_tokens=options.tokens, do_sample=False, pad_token_id=0).cpu()
        return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16], time.perf_counter() - begin

    generate()  # the first makes handles and workspaces
    expected, seconds = generate()
    torch.cuda.synchronize()
    emit(ready=True, bytes=torch.cuda.memory_reserved(), hash=expected, generate_s=seconds,
         weights=sum(p.numel() * p.element_size() for p in model.parameters()), start_s=time.perf_counter() - began)
    for line in sys.stdin:
        if line == "quit\n":
            break
        found, seconds = generate()
        emit(same=found == expected, hash=found, generate_s=seconds)


if __name__ == "__main__":
    main()
