"""A server without a GPU: answering.py serve PORT; answering.py ask PORT prints what it says."""
import socket
import sys

what, address = sys.argv[1], ("127.0.0.1", int(sys.argv[2]))
if what == "serve":
    with socket.create_server(address) as server:
        print("it is ready", flush=True)
        while True:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"forty-two\n")
else:
    with socket.create_connection(address, timeout=5) as peer:
        print(peer.recv(100).decode(), end="")
