"""What a worker says when it starts: what it lends, to whom, and what to type on the other side."""

from __future__ import annotations

import sys

from moetool.engine.rpc_server import Lending
from moetool.render.plain import notice, safe_line
from moetool.render.units import show_gib

OPEN = (
    "This port is open to everybody who reaches it. A worker has no password and no encryption: whoever "
    "connects can use this machine's memory and devices, whoever listens on the network can read along, and "
    "a hostile client can crash the worker or do worse."
)


def show_lending(lending: Lending) -> None:
    """A few lines on stdout; a warning on stderr where the network may come in."""
    address = lending.address
    lines = ["Lending until Ctrl-C, to one client at a time:"]
    for device in lending.devices:
        free, total = show_gib(device.free_bytes), show_gib(device.total_bytes)
        threads = f", {lending.n_threads} threads" if device.kind == "cpu" else ""
        lines.append(f"  {device.name} {safe_line(device.description)}, {free} of {total} GiB free{threads}")
    if lending.is_open:
        notice(OPEN)
        notice(f"Safer: moetool worker --port {address.port} here, and there {_tunnel(lending)}")
        place = lending.hostname if str(address.host) == "0.0.0.0" else address.host  # noqa: S104
        lines += ["On the other machine:", f"  moetool run MODEL --rpc {place}:{address.port}"]
    else:
        lines += ["On this machine:", f"  moetool run MODEL --rpc {address}"]
        lines += ["From another one, through SSH:", f"  {_tunnel(lending)} &"]
        lines += [f"  moetool run MODEL --rpc 127.0.0.1:{address.port}"]
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _tunnel(lending: Lending) -> str:
    port = lending.address.port
    return f"ssh -N -L {port}:127.0.0.1:{port} {safe_line(lending.hostname)}"
