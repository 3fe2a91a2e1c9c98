"""What the small programs of tests have in common; a program is written below it."""

import os
import signal
import socket
import sys
import threading
import time


def notify(text):
    name = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(text.encode(), "\0" + name[1:] if name.startswith("@") else name)


def listen(port, share=True):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(1024)
    return listener


def one(client, status):
    with client:
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = client.recv(4096)
            if not more:
                return
            asked += more
        body = f"pid {os.getpid()}\n"
        head = f"HTTP/1.1 {status()}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        client.sendall((head + body).encode())


def answer(listener, status=lambda: "200 OK"):
    """Until the listener is shut down; what has begun by then is finished by threads that are waited for."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=one, args=(client, status)).start()


def stop_at(listener, number=signal.SIGTERM):
    signal.signal(number, lambda *_: listener.shutdown(socket.SHUT_RDWR))


def serve(port, share=True, status=lambda: "200 OK"):
    listener = listen(port, share)
    stop_at(listener)
    answer(listener, status)
