"""The redis that routes are read from: how it is started, and how it is filled.

No more of a client than that takes. What the routes are is the scripts' part.
"""

import itertools
import socket

# `harness` imports this module too, so nothing of it is used before a call.
import harness

# Commands sent together while redis is filled: their answers stay small.
BATCH = 2_000


def command(port, directory):
    """One that keeps nothing on disk."""
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "no", "--save", "", "--dir", str(directory)]


def start(directory, core=None):
    """The running process and its port."""
    harness.need("redis-server")
    (port,) = harness.free_ports(1)
    process = harness.Process("redis", command(port, directory), directory, core)
    try:
        process.wait_for(port)
    except BaseException:
        process.stop()
        raise
    return process, port


def seed(port, lines):
    """Sends commands that add something, and looks at each answer."""
    client = Client(port)
    try:
        lines = iter(lines)
        while batch := list(itertools.islice(lines, BATCH)):
            client.add(batch)
    finally:
        client.close()


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb")

    def command(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        answer = self.answers.readline()
        if answer.startswith(b"-"):
            raise harness.Failure(f"redis said {answer!r} to {line}")
        if answer.startswith(b"$"):
            return self.answers.read(int(answer[1:]) + 2).decode()
        return answer.decode()

    def add(self, lines):
        """Many at once, each of which adds a key or fields: a 0 tells of one that was there."""
        self.socket.sendall("".join(f"{line}\r\n" for line in lines).encode())
        for line in lines:
            answer = self.answers.readline()
            if answer == b":0\r\n" or not answer.startswith((b":", b"+")):
                raise harness.Failure(f"redis said {answer!r} to {line}")

    def close(self):
        self.answers.close()
        self.socket.close()
