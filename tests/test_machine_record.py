"""The JSON that stands for a machine: nothing is lost, and what is wrong is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_fixture import GIB, MACHINE

from moetool.errors import NotFound, UsageError
from moetool.machine import Device, Machine, parse_machine, read_machine_file, to_json

COUNTS = st.integers(0, 1 << 62)
RATES = st.none() | st.floats(1e-3, 1e15, allow_nan=False)
NAMES = st.text(max_size=12)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    total = draw(COUNTS)
    return Device(
        name=draw(NAMES),
        description=draw(NAMES),
        kind=draw(st.sampled_from(["gpu", "igpu", "accel"])),
        total_bytes=total,
        free_bytes=draw(st.integers(0, total)),
        bandwidth_bytes_s=draw(RATES),
        bandwidth_source=draw(NAMES),
        link_bytes_s=draw(RATES),
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    cpu = replace(draw(devices()), name="CPU", kind="cpu")
    others = draw(st.lists(devices(), max_size=3, unique_by=lambda device: device.name))
    return Machine(
        devices=(*(device for device in others if device.name != "CPU"), cpu),
        cpu_name=draw(NAMES),
        n_cores=draw(st.integers(1, 1024)),
        n_threads=draw(st.integers(1, 1024)),
        ram_total_bytes=cpu.total_bytes,
        ram_free_bytes=cpu.free_bytes,
        disk_free_bytes=draw(COUNTS),
        os=draw(NAMES),
        arch=draw(NAMES),
        source=draw(NAMES),
        n_hw_threads=draw(st.integers(0, 2048)),
    )


@settings(deadline=None, max_examples=60)
@given(machines())
def test_json_gives_the_machine_back(machine: Machine) -> None:
    assert parse_machine(json.loads(json.dumps(to_json(machine)))) == machine


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(to_json(MACHINE))), JSON)
def test_any_value_in_any_field_is_a_machine_or_a_usage_error(field: str, value: object) -> None:
    document = to_json(MACHINE) | {field: value}
    try:
        parse_machine(document)
    except UsageError as error:
        assert "machine file: " in error.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_cores": "8"}, "n_cores must be a whole number"),
        ({"n_cores": True}, "n_cores must be a whole number"),
        ({"n_cores": 0}, "n_cores must be at least 1"),
        ({"n_threads": 10**9}, "n_threads must be at most 65536"),
        ({"disk_free_bytes": -1}, "disk_free_bytes must be a whole number"),
        ({"disk_free_bytes": 1e9}, "disk_free_bytes must be a whole number"),
        ({"cpu_name": None}, "cpu_name must be a string"),
        ({"devices": {}}, "devices must be a list"),
        ({"devices": [3]}, "devices[0] must be an object"),
        ({"devices": []}, 'exactly one of kind "cpu"'),
        ({"vram": 3}, "unknown field vram"),
        ({"ram_free_bytes": 33 * GIB}, "ram_free_bytes is more than ram_total_bytes"),
        ({"ram_free_bytes": 1 * GIB}, "must equal the CPU device's memory"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_machine(to_json(MACHINE) | change)
    assert named in caught.value.message
    assert "doctor" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "tpu"}, "devices[0].kind must be one of cpu, gpu, igpu, accel"),
        ({"kind": []}, "devices[0].kind must be one of"),
        ({"bandwidth_bytes_s": 1e30}, "devices[0].bandwidth_bytes_s must be at most 1e+15 bytes per second"),
        ({"link_latency_s": 1e9}, "devices[0].link_latency_s must be at most 60 seconds"),
        ({"total_bytes": 1 << 63}, "devices[0].total_bytes must be at most"),
        ({"bandwidth_bytes_s": 0}, "devices[0].bandwidth_bytes_s must be a positive number"),
        ({"bandwidth_bytes_s": math.nan}, "devices[0].bandwidth_bytes_s must be a positive number"),
        ({"bandwidth_bytes_s": math.inf}, "devices[0].bandwidth_bytes_s must be a positive number"),
        ({"free_bytes": 13 * GIB}, "devices[0].free_bytes is more than its total_bytes"),
        ({"name": "CPU"}, "devices[1].name is 'CPU' for the second time"),
        ({"clock": 1}, "unknown field devices[0].clock"),
    ],
)
def test_what_is_wrong_with_a_device_is_named(change: dict[str, object], named: str) -> None:
    document = to_json(MACHINE)
    document["devices"][0] |= change
    with pytest.raises(UsageError) as caught:
        parse_machine(document)
    assert named in caught.value.message


def test_what_is_missing_is_named() -> None:
    document = to_json(MACHINE)
    del document["devices"][1]["free_bytes"]
    with pytest.raises(UsageError, match=r"devices\[1\]\.free_bytes is missing"):
        parse_machine(document)


def test_a_machine_file_may_be_what_doctor_printed(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    bare = to_json(MACHINE)
    for document in (bare, {"machine": bare, "problems": []}, {"moetool": 1, "data": {"machine": bare}}):
        file.write_text(json.dumps(document))
        assert read_machine_file(file) == MACHINE


def test_a_machine_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot read the machine file"):
        read_machine_file(tmp_path / "none.json")
    file = tmp_path / "machine.json"
    for content in (b"{", b"\xff\xfe\x00", b""):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="is not JSON"):
            read_machine_file(file)
    file.write_text("[" * 100_000)
    with pytest.raises(UsageError):
        read_machine_file(file)
