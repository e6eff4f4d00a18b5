"""`moetool worker`: lend this machine's devices to another one."""

from __future__ import annotations

import os
import sys
from ipaddress import AddressValueError, IPv4Address
from threading import Timer
from typing import TYPE_CHECKING, Annotated

import typer

from moetool.cli.options import Output, OutputOpt, ThreadsOpt
from moetool.errors import EngineError, UsageError

if TYPE_CHECKING:
    from moetool.engine.rpc_server import Lending, ReadMemory
    from moetool.machine import Device

DEFAULT_PORT = 50052  # llama.cpp's
_GLANCE_S = 0.3


def worker(
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="NAME", help="Lend this device only; may be repeated."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Offer at most so much of each device: 8G.")
    ] = None,
    threads: ThreadsOpt = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Listen here.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")
    ] = DEFAULT_PORT,
    open_to_network: Annotated[
        bool,
        typer.Option("--open-to-network", help="Yes, let everybody who reaches --host use this machine."),
    ] = False,
    output: OutputOpt = Output.text,
) -> None:
    """Lend this machine's devices to `plan`, `run` and `bench` elsewhere, until Ctrl-C.

    moetool worker

    moetool run ./model.gguf "Hello" --rpc 127.0.0.1:50052     (in another terminal)

    moetool worker --device CUDA0 --memory 8G --port 0
    """
    from moetool.cli.opening import read_this_machine
    from moetool.cli.wishing import parse_size
    from moetool.engine.rpc_server import Lending, reserve_port

    limit = parse_size(memory, "--memory") if memory is not None else None
    listen_at = check_host(host, open_to_network)
    address = reserve_port(str(listen_at), port)
    machine = read_this_machine()
    lent = tuple(_limited(one, limit) for one in choose_devices(machine.devices, device or []))
    n_threads = threads or machine.n_threads
    lending = Lending(address, lent, n_threads, not listen_at.is_loopback, _hostname())
    _lend(lending, _memory_reader(limit), as_json=output is Output.json)


def check_host(host: str, open_to_network: bool) -> IPv4Address:
    """The address to listen at; UsageError unless it is this machine's loopback or was opened in words."""
    try:
        address = IPv4Address("127.0.0.1" if host == "localhost" else host)
    except AddressValueError as error:
        raise UsageError(
            f"--host {host} is not an IPv4 address", "write 127.0.0.1, or 0.0.0.0 for all networks"
        ) from error
    if not address.is_loopback and not open_to_network:
        raise UsageError(
            f"--host {host} would let everybody who reaches it use, watch and crash this worker",
            "tunnel through SSH instead (ssh -L), or say --open-to-network",
        )
    return address


def choose_devices(devices: tuple[Device, ...], names: list[str]) -> tuple[Device, ...]:
    """The devices named, else every GPU, else the CPU."""
    by_name = {device.name: device for device in devices}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(
            f"--device {unknown[0]}: there is no such device", f"this machine has: {', '.join(by_name)}"
        )
    if names:
        return tuple(by_name[name] for name in dict.fromkeys(names))
    gpus = tuple(device for device in devices if device.kind in {"gpu", "igpu"})
    return gpus or tuple(device for device in devices if device.kind == "cpu")


def _limited(device: Device, limit: int | None) -> Device:
    from dataclasses import replace

    free, total = _capped((device.free_bytes, device.total_bytes), limit)
    return replace(device, free_bytes=free, total_bytes=total)


def _capped(memory: tuple[int, int], limit: int | None) -> tuple[int, int]:
    return memory if limit is None else (min(memory[0], limit), min(memory[1], limit))


def _memory_reader(limit: int | None) -> ReadMemory:
    """What to answer a client: of RAM what this process may really take, of all not more than `limit`."""
    from moetool.machine.detect import read_host

    def read(name: str, reported: tuple[int, int]) -> tuple[int, int]:
        if name == "CPU":
            ram = read_host(None).ram
            reported = (ram.free_bytes, ram.total_bytes) if ram.total_bytes else reported
        return _capped(reported, limit)

    return read


def _hostname() -> str:
    from socket import gethostname

    return gethostname()


def _lend(lending: Lending, read_memory: ReadMemory, *, as_json: bool) -> None:
    """Say what is lent, lend it until Ctrl-C, and leave: the usual end of a server is no failure."""
    from moetool.engine.rpc_server import serve
    from moetool.render.plain import notice

    try:
        _announce(lending, as_json=as_json)
        names = [device.name for device in lending.devices]
        serve(lending.address, names, lending.n_threads, read_memory, _Visits().note).join()
        _leave(EngineError("llama.cpp's server stopped by itself", "is the port still free? start it again"))
    except KeyboardInterrupt:
        notice("Stopped.")
    os._exit(0)  # llama.cpp's server cannot be ended otherwise


def _announce(lending: Lending, *, as_json: bool) -> None:
    """The result on stdout, whole before anybody can connect; failures from then on are for stderr."""
    from moetool.engine.aborts import when_llama_aborts

    if as_json:
        from moetool.cli.boundary import print_result
        from moetool.report.machines import of_worker

        print_result("worker", of_worker(lending))
        sys.stdout.flush()
    else:
        from moetool.render.worker import show_lending

        show_lending(lending)
    when_llama_aborts(_leave)


def _leave(error: EngineError) -> None:
    from moetool.render.plain import show_error

    show_error(error)
    os._exit(error.exit_code)


class _Visits:
    """Says when a client comes and goes; nothing of one who only looks whether somebody is there."""

    def __init__(self) -> None:
        self._announce = Timer(0, print)

    def note(self, is_here: bool) -> None:
        """A client has come (True) or gone."""
        from moetool.render.plain import notice

        if is_here:
            self._announce = Timer(_GLANCE_S, notice, ["A client is here."])
            self._announce.start()
        elif self._announce.is_alive():
            self._announce.cancel()
        else:
            notice("The client has gone.")
