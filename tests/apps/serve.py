"""A server with a model in device memory, as small as it can be, in the place of a real one:

    serve.py [serve MODEL] [--port PORT] [--model-mib MIB] [--cache-mib MIB]

Answers as vLLM does, with VLLM_SERVER_DEV_MODE=1 (its documentation, "Sleep Mode"):
    GET  /health
    POST /v1/completions        text: the process, and a digest of the model's bytes
    POST /sleep?level=1         gives the model to host memory, the cache to nobody
    POST /wake_up?tags=T        T: weights, kv_cache; without: both
    GET  /is_sleeping
Touches no file while it serves.
"""

import argparse
import ctypes
import hashlib
import http.server
import json
import os
import urllib.parse

cuda = ctypes.CDLL("libcuda.so.1")


def must(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} returned CUDA error {code}"


class Memory:
    """Device memory that may be away."""

    def __init__(self, data):
        self.bytes, self.away, self.address = len(data), data, None

    def come(self):
        if self.address is None:
            self.address = ctypes.c_uint64()
            must("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(self.bytes))
            must("cuMemcpyHtoD_v2", self.address, self.away, ctypes.c_size_t(self.bytes))
            self.away = None

    def read(self):
        data = ctypes.create_string_buffer(self.bytes)
        must("cuMemcpyDtoH_v2", data, self.address, ctypes.c_size_t(self.bytes))
        return data.raw

    def go(self, keep):
        if self.address is not None:
            self.away = self.read() if keep else bytes(self.bytes)
            must("cuMemFree_v2", self.address)
            self.address = None


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--model-mib", type=int, default=16)
parser.add_argument("--cache-mib", type=int, default=4)
options, _ = parser.parse_known_args()

context = ctypes.c_void_p()
must("cuInit", 0)
must("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
must("cuCtxSetCurrent", context)
pattern = hashlib.sha256(b"weights").digest() * ((1 << 20) // 32)
weights = Memory(pattern * options.model_mib)
cache = Memory(b"\xee" * (options.cache_mib << 20))
weights.come()
cache.come()


def digest():
    return hashlib.sha256(weights.read()).hexdigest()[:16]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/is_sleeping":
            self.answer({"is_sleeping": cache.address is None or weights.address is None})
        else:
            self.answer({} if path == "/health" else None)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/v1/completions":
            if cache.address is None or weights.address is None:
                return self.answer(None, 503)
            text = f"process {os.getpid()}, model {digest()}"
            return self.answer({"choices": [{"text": text}]})
        if url.path == "/sleep":
            weights.go(keep=True)
            cache.go(keep=False)
            return self.answer({})
        if url.path == "/wake_up":
            tags = urllib.parse.parse_qs(url.query).get("tags", ["weights", "kv_cache"])
            for tag, memory in (("weights", weights), ("kv_cache", cache)):
                if tag in tags:
                    memory.come()
            return self.answer({})
        return self.answer(None)

    def answer(self, found, code=None):
        body = json.dumps(found).encode()
        self.send_response(code or (404 if found is None else 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.HTTPServer.allow_reuse_address = True
print(f"serving on port {options.port}, process {os.getpid()}", flush=True)
http.server.HTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
