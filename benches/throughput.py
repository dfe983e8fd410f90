#!/usr/bin/env python3
"""Steps a second of a small transformer: inference in eager mode and as a CUDA graph, and training.

    throughput.py --seconds S

Prints a JSON line for each: the median over blocks of steps, with one synchronisation a block.
"""
import argparse
import json
import statistics
import sys
import time

LAYERS, WIDTH, HEADS = 4, 2048, 16


def emit(**line):
    print(json.dumps(line), flush=True)


def model(torch):
    layers = [torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0, batch_first=True, norm_first=True)
              for _ in range(LAYERS)]
    return torch.nn.Sequential(*layers).to("cuda", torch.bfloat16)


def measure(torch, work, step, seconds):
    def block(steps):
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / steps
    block(5)
    steps = max(3, round(0.05 / block(5)))
    taken, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 3:
        taken.append(block(steps))
    emit(bench="throughput", work=work, per_s=1 / statistics.median(taken), best_per_s=1 / min(taken), blocks=len(taken), steps=steps)


def inference(torch, seconds):
    # Not .eval(): that would make a layer one fused call, and few launches are what is easy here.
    net, words = model(torch), torch.randn(1, 16, WIDTH, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        measure(torch, "inference step, eager", lambda: net(words), seconds)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(words)
        measure(torch, "inference step, CUDA graph", graph.replay, seconds)


def training(torch, seconds):
    net, words = model(torch), torch.randn(4, 256, WIDTH, device="cuda", dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step():
        net(words).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    measure(torch, "training step with AdamW", step, seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        emit(skipped=f"not installed: {error}")
        sys.exit(5)
    torch.manual_seed(0)
    inference(torch, options.seconds)
    training(torch, options.seconds)


if __name__ == "__main__":
    main()
