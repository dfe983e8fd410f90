"""A server without a GPU: answering.py serve FOLDER; answering.py ask FOLDER prints what it says."""
import os
import socket
import sys

what, folder = sys.argv[1:3]
path = os.path.join(folder, "port")
if what == "serve":
    with socket.create_server(("127.0.0.1", 0)) as server:
        with open(path + ".new", "w") as file:
            file.write(str(server.getsockname()[1]))
        os.replace(path + ".new", path)
        print("it is ready", flush=True)
        while True:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"forty-two\n")
else:
    with open(path) as file, socket.create_connection(("127.0.0.1", int(file.read())), timeout=5) as peer:
        print(peer.recv(100).decode(), end="")
