"""Real workers for tests, and a go-between that kills one at a chosen word of the protocol."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli_fixture import clean_environment

# enum rpc_cmd, ggml/src/ggml-rpc/ggml-rpc.cpp
SET_TENSOR, GRAPH_COMPUTE, GRAPH_RECOMPUTE = 6, 10, 16

LENT_BYTES = 256 << 20

Trigger = Callable[[int, bytes], bool]


@dataclass(frozen=True)
class Worker:
    """A process of `moetool worker`, and the document it printed."""

    process: subprocess.Popen[bytes]
    data: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.data["address"])


@contextmanager
def running_worker(folder: Path) -> Iterator[Worker]:
    """A worker on a free loopback port, dead at the end however the block ends. What it lends is little, so
    that clients measure it in a moment."""
    limits = ("--port", "0", "-t", "1", "--memory", f"{LENT_BYTES >> 20}M")
    process = subprocess.Popen(
        [sys.executable, "-m", "moetool", "worker", *limits, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=clean_environment(folder),
        # A test run in the background ignores Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout and process.stderr
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        yield Worker(process, json.loads(line)["data"])
    finally:
        process.kill()
        process.communicate()


@contextmanager
def go_between(worker: Worker, kills_at: Trigger) -> Iterator[str]:
    """The address of a go-between that kills the worker when `kills_at` picks a command on its way to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_pass_clients, args=(server, worker, kills_at), daemon=True).start()
        host, port = server.getsockname()
        yield f"{host}:{port}"


def _pass_clients(server: socket.socket, worker: Worker, kills_at: Trigger) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            with client, socket.create_connection((worker.data["host"], worker.data["port"])) as there:
                for stream in (there, client):
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass_bytes, args=(there, client), daemon=True).start()
                _pass_commands(client, there, worker, kills_at)
                if worker.process.poll() is not None:
                    server.close()  # nobody listens there any more
                for stream in (there, client):  # closing would not end them while the other thread reads
                    with suppress(OSError):
                        stream.shutdown(socket.SHUT_RDWR)


def _pass_bytes(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def _pass_commands(client: socket.socket, there: socket.socket, worker: Worker, kills_at: Trigger) -> None:
    stream = client.makefile("rb")
    with suppress(OSError):
        while len(head := stream.read(9)) == 9:
            command, length = struct.unpack("<BQ", head)
            body = stream.read(length)
            if kills_at(command, body):
                worker.process.kill()
                worker.process.wait()
                return
            there.sendall(head + body)


@contextmanager
def stranger(answer: bytes | None) -> Iterator[int]:
    """The port of a server that says `answer` to whoever connects and hangs up; None: it waits, silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer_clients, args=(server, answer), daemon=True).start()
        yield server.getsockname()[1]


def _answer_clients(server: socket.socket, answer: bytes | None) -> None:
    kept = []
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            kept.append(client)
            if answer is not None:
                client.recv(64)
                client.sendall(answer)
                client.close()
