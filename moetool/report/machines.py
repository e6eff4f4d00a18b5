"""Documents of machines: what one has, what a worker lends of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetool.machine import to_json

if TYPE_CHECKING:
    from moetool.doctor import Doctor
    from moetool.engine.rpc_server import Lending


def of_doctor(found: Doctor) -> dict[str, Any]:
    """The findings. `machine` is what `--machine FILE` reads back from this document."""
    return asdict(found) | {"machine": to_json(found.machine), "versions": dict(found.versions)}


def of_worker(lending: Lending) -> dict[str, Any]:
    """What a worker lends, printed when it starts; `address` is what `--rpc` takes."""
    return {
        "address": str(lending.address),
        "host": lending.address.host,
        "port": lending.address.port,
        "open_to_network": lending.is_open,
        "hostname": lending.hostname,
        "devices": [asdict(device) for device in lending.devices],
        "n_threads": lending.n_threads,
    }
