"""The machine: recorded /proc and /sys trees of six computers, and what is made of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from machine_fixture import CARD, CPU, GIB, KIB, recorded, tree, write

from moetool.machine import parse_machine, read_machine, to_json
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
