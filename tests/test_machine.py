"""The machine: recorded /proc and /sys trees of six computers, and the JSON that stands for one."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moetool.errors import NotFound, UsageError
from moetool.machine import Device, Machine, parse_machine, read_machine, read_machine_file, to_json
from moetool.machine.bandwidth import (
    TABLE,
    Bandwidth,
    NvmlCard,
    fill_bandwidth,
    known_bandwidth,
    look_up,
    match_nvml,
    measure_bandwidth,
    parse_measured,
    parse_nvml,
    parse_table,
    read_nvml,
    short_name,
    write_measured,
)
from moetool.machine.cards import Card, parse_link, parse_nvidia_names, read_cards
from moetool.machine.cpu import (
    Cores,
    count_cores,
    guess_cores,
    parse_cpu_list,
    parse_cpu_name,
    parse_fast,
    parse_macos_cores,
    parse_quota,
    parse_sysctl,
)
from moetool.machine.detect import link_devices, parse_arch, read_disk_free, read_linux_host
from moetool.machine.procfs import parse_cgroup
from moetool.machine.ram import (
    Ram,
    limit_ram,
    parse_meminfo,
    parse_memory_limit,
    parse_swapusage,
    parse_vm_stat,
)
from moetool.machine.readtest import (
    Reading,
    join_readings,
    parse_cache_size,
    read_cache_bytes,
    size_per_thread,
)

RECORDED = Path(__file__).parent / "data/machines"
GIB = 1 << 30
KIB = 1 << 10


def recorded(name: str) -> dict[str, str]:
    """What each command printed on a machine, by command."""
    blocks = (RECORDED / f"{name}.txt").read_text().split("$ ")[1:]
    return {
        command: text.rstrip("\n") + "\n" for command, _, text in (block.partition("\n") for block in blocks)
    }


def tree(name: str, root: Path) -> Path:
    """The files of a recorded machine under `root`: `cat FILE`, and `grep . FILES` as "path:text" lines."""
    for command, text in recorded(name).items():
        verb, _, rest = command.partition(" ")
        if verb == "cat":
            write(root, rest, text)
        elif verb == "grep":
            for path, _, value in (line.rpartition(":") for line in text.splitlines() if line):
                write(root, path, value + "\n")
    return root


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


CPU = Device("CPU", "Some CPU", "cpu", 64 * GIB, 64 * GIB)
CARD = Device("CUDA0", "NVIDIA GeForce RTX 3060", "gpu", 12 * GIB - 200_000_000, 11 * GIB)
MACHINE = Machine(
    devices=(CARD, replace(CPU, total_bytes=32 * GIB, free_bytes=20 * GIB)),
    cpu_name="Some CPU",
    n_cores=8,
    n_threads=8,
    ram_total_bytes=32 * GIB,
    ram_free_bytes=20 * GIB,
    disk_free_bytes=100 * GIB,
    os="linux",
    arch="x86_64",
    n_hw_threads=16,
)

# --- recorded machines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cpu_name", "cores", "ram"),
    [
        (
            "laptop",
            "AMD Ryzen 7 7840HS w/ Radeon 780M Graphics",
            Cores(n_cores=8, n_hw_threads=16, n_threads=8),
            Ram(31990508 * KIB, 21733944 * KIB, 8388604 * KIB, 8124412 * KIB),
        ),
        (
            # Six fast cores with two threads each, eight slow ones.
            "hybrid",
            "13th Gen Intel(R) Core(TM) i9-13900H",
            Cores(n_cores=14, n_hw_threads=20, n_threads=6),
            Ram(65543808 * KIB, 58721044 * KIB, 2097148 * KIB, 2097148 * KIB),
        ),
        (
            # 8 GiB granted, 4 used, of which 2 are file cache that would be dropped; 2.5 CPUs granted.
            "container",
            "AMD EPYC 7313P 16-Core Processor",
            Cores(n_cores=16, n_hw_threads=32, n_threads=2),
            Ram(8 * GIB, 6 * GIB),
        ),
        (
            # The limit is set in a group above, which this container cannot see but in its statistics.
            "cgroup1",
            "Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz",
            Cores(n_cores=2, n_hw_threads=4, n_threads=1),
            Ram(4 * GIB, 3 * GIB),
        ),
        (
            # Four fast and four slow cores, and no name for the CPU but the board's.
            "board",
            "Orange Pi 5",
            Cores(n_cores=8, n_hw_threads=8, n_threads=4),
            Ram(16146416 * KIB, 15122104 * KIB),
        ),
    ],
)
def test_a_recorded_linux_machine(name: str, cpu_name: str, cores: Cores, ram: Ram, tmp_path: Path) -> None:
    host = read_linux_host(tree(name, tmp_path))
    assert (host.cpu_name, host.cores, host.ram) == (cpu_name, cores, ram)


def test_a_recorded_mac() -> None:
    printed = recorded("macos")
    sysctl = parse_sysctl(next(text for command, text in printed.items() if command.startswith("sysctl")))
    assert sysctl["machdep.cpu.brand_string"] == "Apple M3 Max"
    assert parse_macos_cores(sysctl) == Cores(n_cores=14, n_hw_threads=14, n_threads=10)
    assert parse_vm_stat(printed["vm_stat"]) == (45120 + 820114 + 38220) * 16384
    assert parse_swapusage(sysctl["vm.swapusage"]) == (2048 << 20, int(1008.75 * 2**20))


def test_a_machine_without_proc_and_sys_is_still_a_machine(tmp_path: Path) -> None:
    host = read_linux_host(tmp_path)
    assert host.ram.total_bytes == 0
    assert host.cores.n_cores >= 1


def test_this_machine_round_trips_and_is_read_at_once() -> None:
    began = time.perf_counter()
    machine = read_machine([CPU], Path.cwd())
    assert time.perf_counter() - began < 0.5  # 1 ms on an idle machine; a guard against running commands
    assert parse_machine(json.loads(json.dumps(to_json(machine)))) == machine
    assert machine.ram_free_bytes <= machine.ram_total_bytes
    assert 1 <= machine.n_threads <= machine.n_cores <= machine.n_hw_threads


def test_the_devices_keep_their_order_and_the_cpu_gets_the_real_ram(tmp_path: Path) -> None:
    machine = read_machine([CARD, CPU], tmp_path, tree("container", tmp_path))
    assert [device.name for device in machine.devices] == ["CUDA0", "CPU"]
    assert machine.devices[1].total_bytes == machine.ram_total_bytes == 8 * GIB
    assert machine.devices[1].free_bytes == machine.ram_free_bytes == 6 * GIB


def test_without_devices_there_is_still_the_cpu(tmp_path: Path) -> None:
    machine = read_machine([], tmp_path, tree("laptop", tmp_path))
    assert [(device.name, device.kind) for device in machine.devices] == [("CPU", "cpu")]


def test_a_driver_that_reports_more_free_than_there_is(tmp_path: Path) -> None:
    machine = read_machine([replace(CARD, free_bytes=CARD.total_bytes + 1), CPU], tmp_path, tmp_path)
    assert machine.devices[0].free_bytes == CARD.total_bytes


# --- RAM -------------------------------------------------------------------------------------------


def test_the_tightest_group_on_the_path_counts(tmp_path: Path) -> None:
    tree("laptop", tmp_path)
    slice_ = "/sys/fs/cgroup/user.slice/user-1000.slice"
    write(tmp_path, f"{slice_}/memory.max", str(10 * GIB))
    write(tmp_path, f"{slice_}/memory.current", str(9 * GIB))
    write(tmp_path, "/sys/fs/cgroup/user.slice/memory.max", str(12 * GIB))
    write(tmp_path, "/sys/fs/cgroup/user.slice/memory.current", str(11 * GIB + 1))
    ram = read_linux_host(tmp_path).ram
    assert (ram.total_bytes, ram.free_bytes) == (10 * GIB, GIB - 1)


def test_free_is_never_negative_and_never_more_than_the_limit() -> None:
    over = parse_memory_limit("1000", "1500", "inactive_file 0\n")
    assert over is not None
    assert over.free_bytes == 0
    # Cache is counted by pages that were touched elsewhere too.
    under = parse_memory_limit("1000", "100", "inactive_file 300\n")
    assert under is not None
    assert under.free_bytes == 1000


@pytest.mark.parametrize("text", ["max\n", "", "9223372036854771712\n", "junk"])
def test_no_limit_is_no_limit(text: str) -> None:
    assert parse_memory_limit(text, "5", "") is None


def test_a_limit_above_the_host_changes_nothing() -> None:
    host = Ram(8 * GIB, 5 * GIB)
    limit = parse_memory_limit(str(16 * GIB), str(GIB), "")
    assert limit is not None
    assert limit_ram(host, [limit]) == host


def test_old_kernels_have_no_available_memory() -> None:
    text = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\n"
    assert parse_meminfo(text) == Ram(1000 * KIB, 420 * KIB)


def test_a_group_outside_the_visible_tree_stands_for_the_mount() -> None:
    mounts = "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    found = parse_cgroup("memory", "0::/../../elsewhere\n", mounts)
    assert found is not None
    assert [str(path) for path in found.dirs] == ["/sys/fs/cgroup"]


def test_a_hybrid_host_keeps_memory_in_version_one() -> None:
    mounts = (
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    found = parse_cgroup("memory", "4:memory:/a/b\n0::/\n", mounts)
    assert found is not None
    base = "/sys/fs/cgroup/memory"
    assert (found.version, [str(path) for path in found.dirs]) == (1, [f"{base}/a/b", f"{base}/a", base])


def test_no_cgroups_at_all() -> None:
    assert parse_cgroup("memory", "", "") is None
    assert parse_cgroup("memory", "0::/\n", "") is None


# --- cores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}), ("5", {5}), ("", set()), ("\n", set())],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("150000 100000", 1.5), ("max 100000", None), ("-1 100000", None), ("", None), (" ", None)],
)
def test_quotas(text: str, cpus: float | None) -> None:
    assert parse_quota(text) == cpus


def test_affinity_cuts_cores(tmp_path: Path) -> None:
    tree("hybrid", tmp_path)
    write(tmp_path, "/proc/self/status", "Cpus_allowed_list:\t0-3,12-13\n")
    assert read_linux_host(tmp_path).cores == Cores(n_cores=4, n_hw_threads=6, n_threads=2)


def test_slow_cores_alone_are_used(tmp_path: Path) -> None:
    tree("hybrid", tmp_path)
    write(tmp_path, "/proc/self/status", "Cpus_allowed_list:\t12-15\n")
    assert read_linux_host(tmp_path).cores == Cores(n_cores=4, n_hw_threads=4, n_threads=4)


def test_a_quota_below_one_cpu_still_computes() -> None:
    siblings = {0: frozenset({0})}
    assert count_cores(siblings, {0}, 1, 0.3).n_threads == 1


def test_prime_and_big_cores_count_as_fast() -> None:
    assert parse_fast({0: "325", 1: "870", 2: "1024", 3: "junk"}) == {1, 2}


def test_names_and_systems() -> None:
    assert parse_cpu_name("", "Raspberry Pi 5 Model B Rev 1.0\0") == "Raspberry Pi 5 Model B Rev 1.0"
    assert parse_arch("AMD64") == "x86_64"
    assert parse_arch("aarch64") == "arm64"
    assert guess_cores(16) == Cores(8, 16, 8)
    assert guess_cores(2) == Cores(2, 2, 2)


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert read_disk_free(tmp_path / "not/yet/made") == pytest.approx(read_disk_free(tmp_path), rel=0.1)


# --- cards -----------------------------------------------------------------------------------------


def test_cards_of_a_laptop_with_two(tmp_path: Path) -> None:
    # The NVIDIA card sleeps at 2.5 GT/s and can 16; eight lanes are wired.
    link = 16e9 * 128 / 130
    assert read_cards(tree("hybrid", tmp_path)) == (
        Card("Intel", ""),
        Card("NVIDIA", "NVIDIA GeForce RTX 4060 Laptop GPU", pytest.approx(link)),
    )


@pytest.mark.parametrize(
    ("speeds", "width", "bytes_s"),
    [
        (["8.0 GT/s PCIe"], "16\n", 8e9 * 128 / 130 * 2),
        (["16.0 GT/s PCIe", "8.0 GT/s PCIe"], "4", 8e9 * 128 / 130 / 2),
        (["2.5 GT/s PCIe"], "1", 2.5e9 * 0.8 / 8),
        (["Unknown"], "16", None),
        (["16.0 GT/s PCIe"], "0", None),
        (["16.0 GT/s PCIe"], "255", None),
        (["16.0 GT/s PCIe"], "", None),
        ([], "16", None),
    ],
)
def test_links(speeds: list[str], width: str, bytes_s: float | None) -> None:
    assert parse_link(speeds, width) == (None if bytes_s is None else pytest.approx(bytes_s))


def test_a_device_has_its_makers_link_when_the_cards_agree() -> None:
    fast, slow = Card("NVIDIA", "", 32e9), Card("NVIDIA", "", 4e9)
    assert link_devices([CARD, CPU], [fast, fast, Card("Intel", "")])[0].link_bytes_s == 32e9
    assert link_devices([CARD, CPU], [fast, slow])[0].link_bytes_s is None
    assert link_devices([CARD, CPU], [])[0].link_bytes_s is None
    assert link_devices([CARD, CPU], [fast])[1].link_bytes_s is None


def test_nvidia_smi_without_a_driver() -> None:
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert parse_nvidia_names(failed) == ()
    assert parse_nvidia_names("No devices were found\n") == ()
    assert parse_nvidia_names("NVIDIA H200\nNVIDIA H200\n") == ("NVIDIA H200", "NVIDIA H200")


# --- bandwidth -------------------------------------------------------------------------------------

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
    write_measured(MACHINE, {"CPU": Bandwidth(5e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10
    other = replace(MACHINE, cpu_name="Another CPU")
    assert known_bandwidth(other).devices[1].bandwidth_bytes_s is None
    write_measured(other, {"CPU": Bandwidth(7e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10


def test_a_damaged_cache_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    for text in ("{", "[]", "null", '{"x": 3}', ""):
        (tmp_path / "bandwidth.json").write_text(text)
        assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s is None
    assert parse_measured('{"k": {"CPU": {"bytes_s": "?", "source": 1}}}', "k") == {}
    write_measured(MACHINE, {"CPU": Bandwidth(5e10, "measured")})
    assert known_bandwidth(MACHINE).devices[1].bandwidth_bytes_s == 5e10


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path / "file"))
    write_measured(MACHINE, {"CPU": Bandwidth(5e10, "measured")})


def test_reading_ram_gives_a_plausible_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETOOL_HOME", str(tmp_path))
    # Little free memory makes a short test; the figure is then that of the cache.
    machine = replace(read_machine([CPU], tmp_path), n_threads=2, ram_free_bytes=64 << 20)
    cpu = measure_bandwidth(machine).devices[0]
    assert cpu.bandwidth_bytes_s is not None
    assert 1e8 < cpu.bandwidth_bytes_s < 1e13
    assert cpu.bandwidth_source.startswith("measured")


def test_threads_together() -> None:
    assert join_readings((Reading(2.0, True), Reading(3.0, True))) == Reading(5.0, True)
    assert join_readings((Reading(2.0, True), Reading(3.0, False))) == Reading(5.0, False)


def test_the_read_test_is_larger_than_the_caches_and_smaller_than_the_memory(tmp_path: Path) -> None:
    assert size_per_thread(1, 64 * GIB, 32 << 20) == 128 << 20
    assert size_per_thread(4, 64 * GIB, 256 << 20) == GIB // 4
    assert size_per_thread(8, 100 << 20, 32 << 20) == 4 << 20
    assert read_cache_bytes(tree("laptop", tmp_path)) == 16 << 20
    assert parse_cache_size("") == 0


# --- JSON ------------------------------------------------------------------------------------------

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
