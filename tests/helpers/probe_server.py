"""A server that answers as told, to see what a probe makes of it: ``probe_server.py MODE``.

Prints ``port N`` once it listens. Modes: silent (accepts, says nothing), close, garbage, ok, status:N, redirect,
chunked, body, drip (a byte at a time, never done), flood-head, flood-body (without end), echo (the request comes back
as the body), late:SECONDS (listens only after that; its port is printed at once).
"""

from __future__ import annotations

import socket
import sys
import threading
import time


def answer(mode: str, connection: socket.socket) -> None:
    try:
        asked = b""
        while b"\r\n\r\n" not in asked and (chunk := connection.recv(4096)):
            asked += chunk
        head = b"HTTP/1.1 200 OK\r\n"
        if mode == "silent":
            time.sleep(60)
        elif mode == "close":
            return
        elif mode == "garbage":
            connection.sendall(bytes(range(256)) * 4)
        elif mode == "redirect":
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://example.invalid/login\r\n\r\n")
        elif mode.startswith("status:"):
            connection.sendall(f"HTTP/1.1 {mode[7:]} Told So\r\nContent-Length: 0\r\n\r\n".encode())
        elif mode == "chunked":
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for part in (b"5\r\nall s\r\n", b"6;x=y\r\nystems\r\n", b"3\r\n go\r\n", b"0\r\n\r\n"):
                connection.sendall(part)
            time.sleep(60)  # the end of the chunks is the end, not that of the connection
        elif mode == "drip":
            for byte in head + b"X-Slow: " + b"z" * 10000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        elif mode == "flood-head":
            connection.sendall(head)
            while True:
                connection.sendall(b"X-More: " + b"y" * 4096 + b"\r\n")
        elif mode == "flood-body":
            connection.sendall(head + b"\r\n")
            while True:
                connection.sendall(b"z" * 65536)
        elif mode == "echo":
            connection.sendall(head + b"\r\n" + asked)
        else:
            connection.sendall(head + b"Content-Length: 13\r\n\r\nall is well\r\n")
    except OSError:
        pass  # whoever asked has heard enough
    finally:
        connection.close()


def main() -> None:
    mode = sys.argv[1]
    server = socket.socket()
    server.bind(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    late = mode.startswith("late:")
    if not late:
        server.listen(16)
    print(f"port {server.getsockname()[1]}", flush=True)
    if late:
        time.sleep(float(mode[5:]))
        server.listen(16)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=answer, args=(mode, connection), daemon=True).start()


if __name__ == "__main__":
    main()
