"""What doctor finds: hardware against build, and both against what models need."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import pytest

from moetool.doctor import Checks, Doctor, card_names, examine, read_checks, read_version
from moetool.engine.devices import BuildInfo
from moetool.machine import Device, Machine, parse_machine, to_json
from moetool.machine.bandwidth import UNDER_LOAD
from moetool.machine.cards import Card
from moetool.machine.cpu import parse_cpu_flags

GIB = 1 << 30

CPU = Device("CPU", "Some CPU", "cpu", 64 * GIB, 48 * GIB)
CUDA = Device("CUDA0", "NVIDIA GeForce RTX 3060", "gpu", 12 * GIB, 11 * GIB)
MACHINE = Machine(
    devices=(CPU,),
    cpu_name="Some CPU",
    n_cores=8,
    n_threads=8,
    ram_total_bytes=64 * GIB,
    ram_free_bytes=48 * GIB,
    disk_free_bytes=300 * GIB,
    os="linux",
    arch="x86_64",
)
BUILD = BuildInfo(
    llama_cpp_python="0.3.36",
    backends=("RPC", "CPU"),
    system_info="CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 |",
    supports_gpu_offload=True,
    supports_rpc=True,
    supports_mmap=True,
    n_devices=1,
)
CHECKS = Checks(cpu_flags=frozenset({"avx", "avx2"}), versions=(("llama-cpp-python", "0.3.36"),))
RTX = "NVIDIA GeForce RTX 3060"


def codes(doctor: Doctor) -> list[str]:
    return [problem.code for problem in doctor.problems]


def test_a_sound_machine_has_no_problems() -> None:
    assert examine(MACHINE, BUILD, CHECKS).problems == ()


def test_a_card_without_its_backend_is_the_first_thing_said() -> None:
    checks = replace(CHECKS, nvidia_names=(RTX,), cards=(Card("NVIDIA", RTX),))
    build = replace(BUILD, supports_rpc=False)
    found = examine(replace(MACHINE, disk_free_bytes=GIB), build, checks)
    assert codes(found) == ["gpu-unused", "no-rpc", "little-disk"]
    assert RTX in found.problems[0].text
    assert "no CUDA" in found.problems[0].text
    assert found.problems[0].command == "scripts/install.sh"


@pytest.mark.parametrize("backend", ["CUDA", "Vulkan"])
def test_a_card_that_is_used_is_no_problem(backend: str) -> None:
    checks = replace(CHECKS, nvidia_names=(RTX,))
    machine = replace(MACHINE, devices=(CUDA, CPU))
    assert codes(examine(machine, replace(BUILD, backends=(backend, "CPU")), checks)) == []


def test_a_build_with_cuda_that_sees_no_card() -> None:
    checks = replace(CHECKS, nvidia_names=(RTX,))
    assert codes(examine(MACHINE, replace(BUILD, backends=("CUDA", "CPU")), checks)) == ["gpu-unseen"]


def test_another_machines_device_does_not_stand_for_the_card() -> None:
    checks = replace(CHECKS, nvidia_names=(RTX,))
    machine = replace(MACHINE, devices=(replace(CUDA, name="RPC0"), CPU))
    assert codes(examine(machine, replace(BUILD, backends=("CUDA", "RPC", "CPU")), checks)) == ["gpu-unseen"]


def test_a_card_without_a_driver() -> None:
    found = examine(MACHINE, BUILD, replace(CHECKS, cards=(Card("NVIDIA", ""),)))
    assert codes(found) == ["no-driver"]
    assert found.problems[0].command == "nvidia-smi"


@pytest.mark.parametrize(("backend", "expected"), [("CPU", ["gpu-unused"]), ("ROCm", []), ("Vulkan", [])])
def test_an_amd_card(backend: str, expected: list[str]) -> None:
    checks = replace(CHECKS, cards=(Card("AMD", ""),))
    assert codes(examine(MACHINE, replace(BUILD, backends=(backend,)), checks)) == expected


@pytest.mark.parametrize(("backends", "expected"), [(("CPU",), ["gpu-unused"]), (("MTL", "BLAS", "CPU"), [])])
def test_a_mac(backends: tuple[str, ...], expected: list[str]) -> None:
    mac = replace(MACHINE, os="darwin", arch="arm64")
    checks = replace(CHECKS, cpu_flags=frozenset())
    assert codes(examine(mac, replace(BUILD, backends=backends), checks)) == expected


def test_a_build_for_another_cpu_or_another_version() -> None:
    assert codes(examine(MACHINE, replace(BUILD, system_info="CPU : SSE3 = 1 |"), CHECKS)) == ["slow-build"]
    found = examine(MACHINE, BUILD, replace(CHECKS, versions=(("llama-cpp-python", "0.3.40"),)))
    assert codes(found) == ["wrong-version"]
    assert "0.3.40" in found.problems[0].text
    assert "0.3.36" in found.problems[0].text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ram_free_bytes": GIB}, "little-ram"),
        ({"disk_free_bytes": 9 * GIB}, "little-disk"),
        ({"devices": (replace(CPU, bandwidth_bytes_s=1e9, bandwidth_source=UNDER_LOAD),)}, "busy"),
    ],
)
def test_a_tight_machine(change: dict[str, object], expected: str) -> None:
    assert codes(examine(replace(MACHINE, **change), BUILD, CHECKS)) == [expected]  # type: ignore[arg-type]


def test_swap_counts_when_it_is_used() -> None:
    unused = replace(CHECKS, swap_total_bytes=8 * GIB, swap_free_bytes=8 * GIB)
    used = replace(unused, swap_free_bytes=5 * GIB)
    assert codes(examine(MACHINE, BUILD, unused)) == []
    found = examine(MACHINE, BUILD, used)
    assert codes(found) == ["swapping"]
    assert "3.0 GiB" in found.problems[0].text


def test_cards_are_named_once() -> None:
    checks = replace(
        CHECKS, nvidia_names=(RTX, RTX), cards=(Card("NVIDIA", RTX), Card("NVIDIA", ""), Card("Intel", ""))
    )
    assert card_names(checks) == (RTX, RTX, "Intel graphics")
    assert card_names(replace(checks, nvidia_names=())) == (RTX, "NVIDIA card", "Intel graphics")


def test_the_findings_are_json_and_their_machine_comes_back() -> None:
    found = examine(MACHINE, BUILD, CHECKS)
    document = json.loads(json.dumps(asdict(found)))
    assert document["hf_token"] is False
    assert parse_machine(to_json(found.machine)) == MACHINE


def test_looking_at_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    checks = read_checks(hf_token=True)
    assert checks.hf_token is True
    assert checks.nvidia_names == ()
    assert dict(checks.versions)["llguidance"] == version("llguidance")
    assert read_version("no-such-package-as-this") == ""


def test_flags() -> None:
    assert parse_cpu_flags("processor\t: 0\nflags\t\t: fpu avx2 fma\nflags\t\t: other\n") == {
        "fpu",
        "avx2",
        "fma",
    }
    assert parse_cpu_flags("Features\t: fp asimd\n") == {"fp", "asimd"}
    assert parse_cpu_flags("") == frozenset()
