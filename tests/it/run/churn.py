"""A server of three processes, each with a listener of its own: one that dies is replaced.

churn.py PORT FLAGS: it answers 503 to /ready until the file FLAGS/ready.GENERATION is there.
"""

import os
import signal
import socket
import sys

port, flags = int(sys.argv[1]), sys.argv[2]
generation = os.environ["CUTOVER_RUN"].split("/")[1]


def work():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    while True:
        client, _ = listener.accept()
        request = client.recv(65536)
        ready = os.path.exists(f"{flags}/ready.{generation}")
        status = "503 no" if b"GET /ready " in request and not ready else "200 OK"
        body = f"pid {os.getpid()} generation {generation}\n"
        client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        client.close()


def begin():
    pid = os.fork()
    if pid == 0:
        work()
    workers.add(pid)


def stop(*_):
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    os._exit(0)


workers = set()
signal.signal(signal.SIGTERM, stop)
for _ in range(3):
    begin()
while True:
    pid, _ = os.wait()
    if pid in workers:
        workers.remove(pid)
        begin()
