#!/usr/bin/env python3
"""Starts a served model from a warm checkpoint; the first start makes it.

    warm_start.py --checkpoint DIR [OPTIONS] -- vllm serve MODEL [OPTIONS of vllm]

Without a checkpoint in DIR: starts the command under rewarm, waits until it answers,
sends some requests (so that kernels are compiled, graphs captured and caches warm),
has vLLM drop its KV cache, checkpoints the tree and goes on by restoring it. With one:
restores it. Either way this stays in the server's place: it ends with it, with its
status, and passes signals on.

It needs root and CRIU, as `rewarm checkpoint` does, and no package but Python's own.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request


def options():
    description, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server answers (%(default)s)")
    parser.add_argument("--model", help="its name in requests; by default the word after `serve`")
    parser.add_argument("--prompt", action="append", help="a warm-up request; may be given several times")
    parser.add_argument("--ready", type=float, default=1800, metavar="SECONDS", help="longest cold start (%(default)s)")
    parser.add_argument("--keep-cache", action="store_true", help="the KV cache goes into the checkpoint, too")
    parser.add_argument("--renew", action="store_true", help="make the checkpoint again")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the server's command, after `--`")
    given = parser.parse_args()
    if given.model is None:
        words = given.command
        given.model = words[words.index("serve") + 1] if "serve" in words[:-1] else "model"
    return given


def say(text):
    print(f"warm_start: {text}", file=sys.stderr, flush=True)


class Server:
    """What answers at a URL."""

    def __init__(self, url, model):
        self.url, self.model = url.rstrip("/"), model

    def ask(self, path, body=None, method="POST", timeout=600):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()

    def is_up(self):
        try:
            self.ask("/health", method="GET", timeout=2)
            return True
        except OSError:
            return False

    def wait(self, process, seconds):
        """Until it answers; an error if the process ends first."""
        end = time.monotonic() + seconds
        while not self.is_up():
            if process.poll() is not None:
                sys.exit(f"warm_start: the server ended with status {process.returncode} before it answered")
            if time.monotonic() > end:
                process.terminate()
                process.wait()
                sys.exit(f"warm_start: the server did not answer at {self.url} within {seconds:.0f} s")
            time.sleep(0.1)

    def complete(self, prompt):
        request = {"model": self.model, "prompt": prompt, "max_tokens": 16, "temperature": 0}
        return json.loads(self.ask("/v1/completions", request))["choices"][0]["text"]

    def drop_cache(self):
        """Weights stay on the GPU, the KV cache is nowhere; False: this server cannot."""
        try:
            self.ask("/sleep?level=1")
            self.ask("/wake_up?tags=weights")
            return True
        except urllib.error.HTTPError as error:
            if error.code in (404, 405):
                return False
            raise

    def take_cache(self):
        self.ask("/wake_up?tags=kv_cache")


def begin(given, server):
    """The first start: to a checkpoint on disk."""
    started = time.monotonic()
    # CRIU saves no io_uring, which libuv would use; the sleep calls are vLLM's for developers.
    environment = {"UV_USE_IO_URING": "0", "VLLM_SERVER_DEV_MODE": "1"} | os.environ
    command = ["rewarm", "run", "--freezable", "--prewarm", "--", *given.command]
    # Of pipes, a restore gives the processes its own output in place; a file would be
    # expected to be as long as it was.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, **pipes)
    for pipe, own in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
        threading.Thread(target=pass_on, args=(pipe.fileno(), own.fileno()), daemon=True).start()
    stop = forward(process)
    try:
        warm_up(given, server, process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    say(f"warm after {time.monotonic() - started:.1f} s")
    stop()
    replace = ["--replace"] if given.renew else []
    save = ["rewarm", "checkpoint", "--pid", str(process.pid), "--tree", "--to", given.checkpoint, *replace]
    status = subprocess.call(save, stdout=sys.stderr)
    if status == 0:
        process.wait()
        return None
    say("there is no checkpoint; the server goes on without one")
    forward(process)
    server.take_cache()
    return process


def warm_up(given, server, process):
    server.wait(process, given.ready)
    for prompt in given.prompt or ["Hello", "The capital of France is"]:
        server.complete(prompt)
    if not given.keep_cache and not server.drop_cache():
        say("the server has no /sleep (vllm serve --enable-sleep-mode): its KV cache goes into the checkpoint")


def restore(given, server):
    """The later starts."""
    started = time.monotonic()
    process = subprocess.Popen(["rewarm", "restore", "--from", given.checkpoint], stdin=subprocess.DEVNULL)
    forward(process)
    try:
        server.wait(process, 600)
    except SystemExit:
        say("if the checkpoint is too old for this machine, --renew makes it again")
        raise
    if json.loads(server.ask("/is_sleeping", method="GET"))["is_sleeping"]:
        server.take_cache()
    say(f"restored after {time.monotonic() - started:.2f} s")
    first = server.complete((given.prompt or ["Hello"])[0])
    say(f"first answer after {time.monotonic() - started:.2f} s: {first!r}")
    return process


def pass_on(source, target):
    while data := os.read(source, 1 << 16):
        while data:
            data = data[os.write(target, data) :]


def forward(process):
    """Signals go to the server; returns what undoes that."""
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(name, lambda number, _: process.send_signal(number)) for name in names]

    def undo():
        for name, handler in zip(names, before):
            signal.signal(name, handler)

    return undo


def main():
    given = options()
    server = Server(given.url, given.model)
    if server.is_up():
        sys.exit(f"warm_start: something answers at {given.url} already: end it, or name another --url")
    process = None
    if given.renew or not os.path.exists(os.path.join(given.checkpoint, "checkpoint.json")):
        process = begin(given, server)
    if process is None:
        process = restore(given, server)
    status = process.wait()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
