"""A server of Python's standard library that shares its port, one thread for each connection.

cutover run --listen 127.0.0.1:8080 -- python3 examples/any-language/server.py 127.0.0.1 8080
"""

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # s that a connection may be idle, and so the longest that it keeps a stop waiting
    wbufsize = -1  # head and body in one write

    def do_GET(self):
        body = f"pid {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if stopping.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for the requests in hand
    request_queue_size = 1024

    def server_bind(self):
        # From Python 3.11 on, `allow_reuse_port = True` in the class does the same.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def stop(*_):
    stopping.set()
    threading.Thread(target=server.shutdown).start()  # it waits for serve_forever(), which this handler interrupts


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
server.server_close()
