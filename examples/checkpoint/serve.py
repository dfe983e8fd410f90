"""A server with a model on the GPU.

serve.py [PORT [GiB]]
"""

import http.server
import os
import sys

import torch

port = int(sys.argv[1] if len(sys.argv) > 1 else 8000)
size = int(float(sys.argv[2] if len(sys.argv) > 2 else 4) * (1 << 30))
model = torch.randint(256, (size,), dtype=torch.uint8, device="cuda")
answered = 0


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global answered
        answered += 1
        line = f"process {os.getpid()}, answer {answered}: the model's checksum is {model.sum().item()}\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(line.encode())

    def log_message(self, *_):
        pass


http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
