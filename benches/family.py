#!/usr/bin/env python3
"""A parent that starts the same command several times, and passes lines on to all of them.

    family.py --count N -- COMMAND…

Says {"ready": …} when all have, and answers {"same": …} to `check`: whether all of them said so.
"""
import argparse
import json
import os
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    children = [subprocess.Popen(options.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(options.count)]
    ready = [json.loads(child.stdout.readline()) for child in children]
    print(json.dumps({"ready": True, "bytes": sum(one["bytes"] for one in ready)}), flush=True)
    for line in sys.stdin:
        for child in children:
            child.stdin.write(line)
            child.stdin.flush()
        said = [json.loads(child.stdout.readline()) for child in children]
        print(json.dumps({"same": all(one["same"] for one in said)}), flush=True)


if __name__ == "__main__":
    main()
