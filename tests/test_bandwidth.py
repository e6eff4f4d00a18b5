"""Memory bandwidth: the makers' table, the driver, the read test, and what is kept of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from machine_fixture import CARD, CPU, GIB, MACHINE, tree

from moetool.machine import Device, read_machine
from moetool.machine.bandwidth import (
    TABLE,
    NvmlCard,
    fill_bandwidth,
    known_bandwidth,
    look_up,
    match_nvml,
    measure_bandwidth,
    parse_nvml,
    parse_table,
    read_nvml,
    short_name,
)
from moetool.machine.kept_bandwidth import Bandwidth, add_readings, parse_kept, read_kept
from moetool.machine.readtest import (
    Reading,
    join_readings,
    measure_reading,
    parse_cache_size,
    pick_middle,
    read_cache_bytes,
    size_per_thread,
)

ROWS = parse_table(TABLE.read_text())


@pytest.mark.parametrize(
    ("description", "total_gib", "n_cores", "gb_s"),
    [
        ("NVIDIA GeForce RTX 4090", 23.5, 8, 1008),
        ("NVIDIA GeForce RTX 3060", 11.6, 8, 360),
        ("NVIDIA GeForce RTX 3060", 7.7, 8, 240),
        ("NVIDIA GeForce RTX 3080", 19.6, 8, None),  # rebuilt with 20 GiB: nobody's specification
        ("NVIDIA GeForce RTX 4060 Laptop GPU", 7.6, 8, 256),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.6, 8, None),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, 8, 960),
        ("NVIDIA A100-SXM4-80GB", 79.2, 8, 2039),
        ("NVIDIA H100 80GB HBM3", 79.2, 8, 3350),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", 24, 8, 960),
        ("Radeon RX 7900 XTX", 24, 8, 960),
        ("AMD Radeon RX 7900 XT/7900 XTX/7900M", 24, 8, None),
        ("AMD Radeon Graphics", 16, 8, None),
        ("Radeon 8060S Graphics (RADV STRIX_HALO)", 96, 16, 256),
        ("Intel(R) Arc(TM) B580 Graphics (BMG G21)", 11.9, 8, 456),
        ("Apple M3 Max", 27, 14, 300),
        ("Apple M3 Max", 48, 16, 400),
        ("Apple M3 Max", 48, 12, None),
        ("Apple M2 Ultra", 144, 24, 800),
        ("llvmpipe (LLVM 17.0.6, 256 bits)", 31, 8, None),
        ("", 1, 1, None),
    ],
)
def test_the_makers_table(description: str, total_gib: float, n_cores: int, gb_s: float | None) -> None:
    device = Device("GPU0", description, "gpu", int(total_gib * GIB), 0)
    found = look_up(device, n_cores, ROWS)
    assert (found and found.bytes_s) == (gb_s and gb_s * 1e9)
    assert found is None or found.source.startswith("table: ")


def test_the_table_says_for_each_card_one_thing_and_whose() -> None:
    keys = [(name, row.memory_bytes, row.n_cores) for row in ROWS for name in row.names]
    assert len(keys) == len(set(keys)) > 100
    by_name: dict[str, list[tuple[int | None, int | None]]] = {}
    for name, memory, cores in keys:
        assert short_name(name) == name
        by_name.setdefault(name, []).append((memory, cores))
    # A name with two rows needs what tells them apart in both.
    assert not [name for name, found in by_name.items() if len(found) > 1 and (None, None) in found]


def test_where_the_table_names_pins_and_rate_the_product_is_right() -> None:
    for row in ROWS:
        _, _, pins = row.bandwidth.source.partition("specification: ")
        if pins:
            bits, gbit = float(pins.split()[0]), float(pins.split()[3])
            assert row.bandwidth.bytes_s == pytest.approx(bits * gbit * 1e9 / 8), row.names


@pytest.mark.parametrize(
    ("bus_bits", "clock_mhz", "gb_s"),
    [(384, 10501, 1008), (192, 7501, 360), (5120, 2619, 3352), (5120, 1593, 2039), (512, 14001, 1792)],
)
def test_nvml_agrees_with_the_specifications(bus_bits: int, clock_mhz: float, gb_s: float) -> None:
    card = NvmlCard("", 0, bus_bits, clock_mhz * 1e6)
    assert parse_nvml(card).bytes_s == pytest.approx(gb_s * 1e9, rel=1e-3)


def test_nvml_cards_are_matched_by_name_and_size() -> None:
    small = NvmlCard("NVIDIA GeForce RTX 3060", 8 * GIB, 128, 7501e6)
    large = NvmlCard("NVIDIA GeForce RTX 3060", 12 * GIB, 192, 7501e6)
    found = match_nvml([CARD, CPU], [small, large])
    assert found == {"CUDA0": parse_nvml(large)}


FAKE_NVML = """
NVML_CLOCK_MEM = 2
class NVMLError(Exception): pass
class Info: total = 12 << 30
def nvmlInit():
    if {broken}: raise NVMLError("Driver Not Loaded")
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(i): return i
def nvmlDeviceGetName(handle): return "NVIDIA GeForce RTX 3060"
def nvmlDeviceGetMemoryInfo(handle): return Info
def nvmlDeviceGetMemoryBusWidth(handle): return 192
def nvmlDeviceGetMaxClockInfo(handle, clock): return 7501 if clock == NVML_CLOCK_MEM else 0
"""


@pytest.mark.parametrize("broken", [False, True])
def test_asking_nvml(broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(FAKE_NVML.format(broken=broken))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    cards = read_nvml()
    monkeypatch.delitem(sys.modules, "pynvml")
    assert cards == (() if broken else (NvmlCard("NVIDIA GeForce RTX 3060", 12 * GIB, 192, 7501e6),))


def test_measured_beats_the_table_and_unknown_stays_unknown() -> None:
    asked = Bandwidth(3.5e11, "nvml")
    unknown = Device("Vulkan0", "Some GPU", "gpu", GIB, GIB)
    machine = replace(MACHINE, devices=(*MACHINE.devices, unknown))
    filled = fill_bandwidth(machine, {"CUDA0": asked}, ROWS)
    assert [d.bandwidth_bytes_s for d in filled.devices] == [3.5e11, None, None]
    assert fill_bandwidth(machine, {}, ROWS).devices[0].bandwidth_bytes_s == 3.6e11


def test_an_integrated_gpu_shares_what_the_cpu_measured() -> None:
    igpu = Device("Vulkan0", "AMD Radeon 780M Graphics", "igpu", 16 * GIB, 16 * GIB)
    machine = replace(MACHINE, devices=(igpu, *MACHINE.devices))
    filled = fill_bandwidth(machine, {"CPU": Bandwidth(6e10, "measured")}, ROWS)
    assert filled.devices[0].bandwidth_bytes_s == 6e10
    assert "CPU" in filled.devices[0].bandwidth_source


def test_figures_are_kept_for_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    add_readings(MACHINE, {"CPU": Bandwidth(5e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10
    other = replace(MACHINE, cpu_name="Another CPU")
    assert known_bandwidth(other).devices[1].bandwidth_bytes_s is None
    add_readings(other, {"CPU": Bandwidth(7e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10


def test_a_damaged_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    for text in ("{", "[]", "null", '{"x": 3}', ""):
        (tmp_path / "bandwidth.json").write_text(text)
        assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s is None
    for rows in ('"?"', "[]", '[{"bytes_s": 1}]', '[{"bytes_s": "?", "source": 1, "thread_bytes_s": 1}]'):
        assert parse_kept(f'{{"k": {{"CPU": {rows}}}}}', "k") == {}
    add_readings(MACHINE, {"CPU": Bandwidth(5e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10


def test_the_middle_of_the_last_readings_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    for gb_s in (1, 1, 40, 75, 42, 41, 90, 43, 38, 44, 39):
        add_readings(MACHINE, {"CPU": Bandwidth(gb_s * 1e9, "measured", gb_s / 2 * 1e9)})
    cpu = known_bandwidth(MACHINE).devices[1]
    assert cpu.bandwidth_bytes_s == 42e9  # of the last nine
    assert cpu.thread_bandwidth_bytes_s == 21e9


def test_a_reading_of_one_device_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    card = MACHINE.devices[0].name
    add_readings(MACHINE, {card: Bandwidth(3e11, "nvml")})
    add_readings(MACHINE, {"CPU": Bandwidth(4e10, "measured")})
    assert read_kept(MACHINE) == {card: Bandwidth(3e11, "nvml"), "CPU": Bandwidth(4e10, "measured")}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path / "file"))
    add_readings(MACHINE, {"CPU": Bandwidth(5e10, "measured")})


def test_reading_ram_gives_a_plausible_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    # Little time and free memory make a short test; the figure is then that of the cache.
    monkeypatch.setattr(
        "moetool.machine.readtest.measure_reading",
        lambda n_threads, free_bytes, *_: measure_reading(n_threads, free_bytes, 0.05),
    )
    machine = replace(read_machine([CPU], tmp_path), n_threads=2, ram_free_bytes=64 << 20)
    cpu = measure_bandwidth(machine).devices[0]
    assert cpu.bandwidth_bytes_s is not None
    assert 1e8 < cpu.bandwidth_bytes_s < 1e13
    assert cpu.bandwidth_source.startswith("measured")


def test_threads_together() -> None:
    assert join_readings((Reading(2.0, True), Reading(3.0, True))) == Reading(5.0, True)
    assert join_readings((Reading(2.0, True), Reading(3.0, False))) == Reading(5.0, False)


def test_the_middle_of_the_undisturbed_rounds() -> None:
    rounds = [Reading(5.0, False), Reading(3.0, True), Reading(9.0, True), Reading(4.0, True)]
    assert pick_middle(rounds) == Reading(4.0, True)
    assert pick_middle([Reading(2.0, False), Reading(1.0, False)]) == Reading(1.0, False)


def test_the_read_test_is_larger_than_the_caches_and_smaller_than_the_memory(tmp_path: Path) -> None:
    assert size_per_thread(1, 64 * GIB, 32 << 20) == 128 << 20
    assert size_per_thread(4, 64 * GIB, 256 << 20) == GIB // 4
    assert size_per_thread(8, 100 << 20, 32 << 20) == 4 << 20
    assert read_cache_bytes(tree("laptop", tmp_path)) == 16 << 20
    assert parse_cache_size("") == 0
