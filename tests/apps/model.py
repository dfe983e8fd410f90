"""A process that has a model on the GPU and answers lines, in the hands of a test that
checkpoints and restores it:

    model.py torch | transformers

Prints "ready PID", then answers each line of its input with one line:
    check   the model gives the same numbers or tokens as at first: "ok"
    quit    ends
"""

import hashlib
import os
import sys


def torch_model():
    """Numbers of some layers, computed by a CUDA graph."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(16))).cuda()
    data = torch.randn(8, 2048, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        layers(data)
        with torch.cuda.graph(graph):
            result = layers(data)

    def numbers():
        graph.replay()
        torch.cuda.synchronize()
        return result.cpu().numpy().tobytes()

    return numbers


def transformers_model():
    """Tokens of a small Llama of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=8, num_attention_heads=16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(shape).to(torch.bfloat16).eval()
    words = torch.arange(1, 65, device="cuda")[None]

    def tokens():
        with torch.no_grad():
            found = model.generate(words, max_new_tokens=16, do_sample=False, pad_token_id=0)
        return found.cpu().numpy().tobytes()

    return tokens


def digest(answer):
    return hashlib.sha256(answer()).hexdigest()


def main():
    try:
        answer = {"torch": torch_model, "transformers": transformers_model}[sys.argv[1]]()
    except ImportError as missing:
        print(f"skipped: {missing}", flush=True)
        return
    answer()
    first = digest(answer)
    print(f"ready {os.getpid()}", flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "quit":
            print("ok", flush=True)
            return
        same = command == "check" and digest(answer) == first
        print("ok" if same else f"{command}: not the same", flush=True)


main()
