"""Devices of other machines: llama.cpp's RPC workers, found, checked and registered.

llama.cpp ends the whole process when a worker cannot be reached or answers anything unexpected
(rpc_dispatcher::start, ggml/src/ggml-rpc/ggml-rpc.cpp), so each is greeted over a socket of our own first.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from moetool.engine.aborts import explain_aborts
from moetool.engine.library import ggml, rpc
from moetool.errors import EngineError, UsageError, WorkerError

# RPC_PROTO_MAJOR_VERSION and _MINOR_, ggml/include/ggml-rpc.h of the build this moetool speaks.
PROTOCOL = (7, 0)
MAX_WORKERS = 16  # GGML_RPC_MAX_SERVERS

_PATIENCE_S = 5.0
# RPC_CMD_HELLO, the length of what follows, and the capabilities of this side's network: none but TCP.
_HELLO = struct.pack("<BQ24x", 14, 24)
# The length of the answer, major, minor and patch version, one byte of padding, capabilities.
_ANSWER = struct.Struct("<QBBBx24x")
_ANSWER_LENGTH = _ANSWER.size - 8

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Address:
    """Where a worker listens. llama.cpp takes host names and IPv4 only."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_addresses(text: str) -> tuple[Address, ...]:
    """--rpc: host:port, several with commas between; UsageError for anything else."""
    addresses = tuple(_parse_address(part.strip()) for part in text.split(","))
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"--rpc {text} names a worker twice", "name each one once")
    if len(addresses) > MAX_WORKERS:
        raise UsageError(f"--rpc names {len(addresses)} workers, llama.cpp takes {MAX_WORKERS}")
    return addresses


def _parse_address(text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise UsageError(
            f"--rpc {text or '(nothing)'} is not a worker's address",
            "write host:port, as in 192.168.1.7:50052",
        )
    return Address(match["host"], int(match["port"]))


def add_workers(addresses: Iterable[Address]) -> None:
    """Make the workers' devices llama.cpp's own, as RPC0, RPC1 …; once a process for each worker.

    WorkerError when one is missing or speaks another protocol; EngineError when this build has no RPC.
    """
    handle = rpc()
    explain_aborts(explain_abort)
    for address in addresses:
        if str(address) in _registered:
            continue
        greet(address)
        registry = handle.ggml_backend_rpc_add_server(str(address).encode())
        if not registry:
            raise WorkerError(f"The worker {address} lends no device", "start it again with --device")
        ggml().ggml_backend_register(registry)
        _registered[str(address)] = _hold(registry)


# Address -> a backend of it, which is never freed. llama.cpp connects anew whenever nothing of a worker is in
# use (get_dispatcher), and a worker serves whoever comes first: its place in the line must not be lost.
_registered: dict[str, int] = {}


def _hold(registry: int) -> int:
    return int(ggml().ggml_backend_dev_init(ggml().ggml_backend_reg_dev_get(registry, 0), None))


def greet(address: Address, patience_s: float = _PATIENCE_S) -> None:
    """Say hello as llama.cpp would; WorkerError unless a worker of this protocol answers in time."""
    try:
        answer = _ask_hello(address, patience_s)
    except (socket.gaierror, UnicodeError) as error:
        raise WorkerError(f"There is no machine called {address.host}", "check the name in --rpc") from error
    except (ConnectionRefusedError, ConnectionAbortedError) as error:
        raise WorkerError(
            f"No worker listens at {address}", f"start one there: moetool worker --port {address.port}"
        ) from error
    except ConnectionResetError:
        answer = b""  # it was there, and hung up on what it heard
    except TimeoutError as error:
        raise _silence(address) from error
    except OSError as error:
        raise WorkerError(f"{address} cannot be reached: {error.strerror or error}") from error
    _check_answer(address, answer)


def _ask_hello(address: Address, patience_s: float) -> bytes:
    """What comes back for a hello; shorter than an answer if the other side hangs up."""
    # By IPv4, as llama.cpp will.
    place = socket.getaddrinfo(address.host, address.port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as stream:
        stream.settimeout(patience_s)
        try:
            stream.connect(place)
        except TimeoutError as error:
            raise OSError(f"nothing answered within {patience_s:.0f} s") from error
        stream.sendall(_HELLO)
        answer = b""
        while len(answer) < _ANSWER.size:
            part = stream.recv(_ANSWER.size - len(answer))
            if not part:
                break
            answer += part
        return answer


def _silence(address: Address) -> WorkerError:
    """A worker serves one client at a time: the next one connects, and waits."""
    return WorkerError(
        f"{address} takes connections but does not answer",
        "a worker serves one client at a time: is another one connected? else something other listens there",
    )


def _check_answer(address: Address, answer: bytes) -> None:
    hint = "use the same version of moetool (or llama.cpp) on both sides"
    if not answer:
        raise WorkerError(f"{address} hung up: it is no worker, or one of another version", hint)
    length, *version = _ANSWER.unpack(answer.ljust(_ANSWER.size, b"\0"))
    if len(answer) < _ANSWER.size or length != _ANSWER_LENGTH:
        raise WorkerError(f"What listens at {address} is no worker of llama.cpp", "check the port in --rpc")
    major, minor = version[:2]
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        theirs, ours = f"{major}.{minor}", f"{PROTOCOL[0]}.{PROTOCOL[1]}"
        raise WorkerError(
            f"The worker {address} speaks protocol {theirs}, this llama.cpp speaks {ours}", hint
        )


def explain_abort(message: str) -> EngineError | None:
    """The error behind llama.cpp's "Remote RPC server crashed or returned malformed response"."""
    if "RPC server crashed" not in message and "ggml-rpc" not in message:
        return None
    gone = [name for name in _registered if not _is_alive(name)]
    hint = "start it again (moetool worker) and repeat the command; what it held is lost"
    if gone:
        return WorkerError(f"The worker {' and '.join(gone)} went away", hint)
    return WorkerError(f"The worker {' or '.join(_registered)} broke off", hint)


def _is_alive(name: str) -> bool:
    """Does it answer a hello at once? One that lost its client does."""
    try:
        greet(_parse_address(name), patience_s=1.0)
    except WorkerError:
        return False
    return True
