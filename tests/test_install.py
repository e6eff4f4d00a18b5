"""scripts/install.sh on made-up machines: `--check` under a PATH of small scripts. Nothing is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts/install.sh"

# What the script itself needs; everything else on the PATH is made up.
TOOLS = ("sh", "dirname", "sed", "awk", "grep", "cat", "df", "mktemp", "rm", "head", "tail", "sort", "date")
WORKS = 'for a in "$@"; do [ "$last" = -o ] && : >"$a"; last=$a; done'
H200 = 'case "$*" in *query-gpu*) echo "NVIDIA H200, 9.0" ;; *) echo "GPU 0" ;; esac'
NVCC = f'case "$*" in --list-gpu-arch) printf "compute_80\\ncompute_90\\n" ;; *) {WORKS} ;; esac'


@dataclass(frozen=True)
class Computer:
    """A folder that holds the made-up machine: `bin` is its PATH, the rest its file system."""

    root: Path

    def command(self, name: str, body: str) -> Computer:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return self

    def file(self, path: str, text: str = "") -> Computer:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        return self

    def card(self, vendor: str) -> Computer:
        self.file("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
        return self.file("sys/bus/pci/devices/0000:01:00.0/vendor", f"{vendor}\n")

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `install.sh --check`."""
        env = {
            "PATH": str(self.root / "bin"),
            "HOME": str(self.root),
            "TMPDIR": str(self.root),
            "MOETOOL_INSTALL_ROOT": str(self.root),
            **environment,
        }
        command = [str(self.root / "bin/sh"), str(SCRIPT), "--check", "--venv", str(self.root / "venv")]
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    """Linux with Python, a compiler and disk, and no card."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    # A link would lose its environment: what matters is that it is this interpreter.
    made = Computer(tmp_path).command("python3", f'exec "{sys.executable}" "$@"')
    made.command("uname", 'case "$1" in -s) echo Linux ;; *) echo x86_64 ;; esac').command("nproc", "echo 8")
    return made.command("c++", WORKS).command("df", 'echo "Filesystem"; echo "/dev/x 9 9 90000000 9% /"')


def arguments_line(done: subprocess.CompletedProcess[str]) -> str:
    """The CMAKE_ARGS that would be used."""
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if "CMAKE_ARGS=" in line).partition("CMAKE_ARGS=")[
        2
    ]


RPC = "-DGGML_RPC=ON"


def test_no_card_means_the_cpu(computer: Computer) -> None:
    done = computer.install()
    assert arguments_line(done).startswith(RPC)
    assert "backend   cpu" in done.stdout
    assert "Note" not in done.stdout
    assert not (computer.root / "venv").exists()


def test_nvidia_with_its_toolkit_means_cuda(computer: Computer) -> None:
    done = computer.command("nvidia-smi", H200).command("nvcc", NVCC).install()
    assert arguments_line(done).startswith(f"-DGGML_CUDA=ON {RPC}")
    assert "NVIDIA H200" in done.stdout


def test_the_toolkit_is_found_off_the_path(computer: Computer) -> None:
    computer.command("nvidia-smi", H200).command("nvcc", NVCC).file("usr/local/cuda/bin/x")
    (computer.root / "bin/nvcc").rename(computer.root / "usr/local/cuda/bin/nvcc")
    assert "-DGGML_CUDA=ON" in arguments_line(computer.install())


def test_nvidia_without_the_toolkit_stops_and_says_how_to_go_on(computer: Computer) -> None:
    done = computer.command("nvidia-smi", H200).command("apt-get", "").install()
    assert done.returncode == 1
    assert "NVIDIA H200" in done.stderr
    assert "sudo apt-get install nvidia-cuda-toolkit" in done.stderr
    assert "scripts/install.sh --cpu" in done.stderr
    assert "nothing was changed" in done.stderr
    assert arguments_line(computer.install("--cpu")).startswith(RPC)


def test_a_toolkit_that_is_too_old_for_the_card(computer: Computer) -> None:
    blackwell = H200.replace("H200, 9.0", "B200, 10.0")
    done = computer.command("nvidia-smi", blackwell).command("nvcc", NVCC).install()
    assert done.returncode == 1
    assert "compute_100" in done.stderr


def test_a_toolkit_that_does_not_compile(computer: Computer) -> None:
    broken = 'case "$*" in --list-gpu-arch) ;; *) echo "error: unsupported GNU version!" >&2; exit 1 ;; esac'
    done = computer.command("nvidia-smi", H200).command("nvcc", broken).install()
    assert done.returncode == 1
    assert "unsupported GNU version" in done.stderr


def test_a_driver_that_does_not_answer_is_no_card(computer: Computer) -> None:
    done = computer.command("nvidia-smi", "echo failed >&2; exit 9").card("0x10de").install()
    assert arguments_line(done).startswith(RPC)
    assert "no driver" in done.stdout


def test_a_mac_means_metal(computer: Computer) -> None:
    mac = computer.command("uname", 'case "$1" in -s) echo Darwin ;; *) echo arm64 ;; esac')
    assert arguments_line(mac.install()).startswith(f"-DGGML_METAL=ON {RPC}")
    assert "every build" in mac.install("--cpu").stdout


def test_rocm(computer: Computer) -> None:
    agents = 'printf "  Name:        AMD Ryzen\\n  Name:        gfx1100\\n  Name:   gfx1030\\n"'
    computer.command("rocminfo", agents).file("opt/rocm/bin/hipcc")
    (computer.root / "opt/rocm/bin/hipcc").chmod(0o755)
    done = computer.install()
    assert done.returncode == 1
    assert "hipblas" in done.stderr
    computer.file("opt/rocm/lib/cmake/hipblas/x").file("opt/rocm/lib/cmake/rocblas/x")
    assert arguments_line(computer.install()).startswith(f"-DGGML_HIP=ON -DGPU_TARGETS=gfx1030;gfx1100 {RPC}")


def vulkan_sdk(computer: Computer) -> Computer:
    computer.command("glslc", "").file("usr/include/vulkan/vulkan.h")
    return computer.file("usr/share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake")


def test_vulkan_needs_its_sdk_and_a_card(computer: Computer) -> None:
    assert arguments_line(vulkan_sdk(computer).install()).startswith(RPC)
    done = computer.file("dev/dri/renderD128").install()
    assert arguments_line(done).startswith(f"-DGGML_VULKAN=ON {RPC}")


@pytest.mark.parametrize("vendor", ["0x1002", "0x8086"])
def test_a_card_without_an_sdk_is_said_and_does_not_stop(computer: Computer, vendor: str) -> None:
    done = computer.card(vendor).command("dnf", "").file("dev/dri/renderD128").install()
    assert arguments_line(done).startswith(RPC)
    assert "built for the CPU" in done.stdout
    assert "sudo dnf install" in done.stdout


@pytest.mark.parametrize(
    ("option", "named"),
    [("--cuda", "nvcc"), ("--rocm", "hipcc"), ("--vulkan", "glslc"), ("--metal", "Mac")],
)
def test_a_backend_that_was_asked_for_says_what_it_needs(computer: Computer, option: str, named: str) -> None:
    done = computer.install(option)
    assert done.returncode == 1
    assert named in done.stderr


def test_no_compiler_is_said_before_anything_is_made(computer: Computer) -> None:
    (computer.root / "bin/c++").unlink()
    done = computer.command("apt-get", "").install()
    assert done.returncode == 1
    assert "a C++ compiler: sudo apt-get install build-essential" in done.stderr
    assert not (computer.root / "venv").exists()


def test_a_compiler_that_does_not_compile(computer: Computer) -> None:
    done = computer.command("c++", "echo 'vector: No such file' >&2; exit 1").install()
    assert done.returncode == 1
    assert "vector: No such file" in done.stderr


def test_a_mac_without_its_tools(computer: Computer) -> None:
    computer.command("uname", 'case "$1" in -s) echo Darwin ;; *) echo arm64 ;; esac')
    (computer.root / "bin/c++").unlink()
    assert "xcode-select --install" in computer.install().stderr


def test_little_disk(computer: Computer) -> None:
    done = computer.command("df", 'echo "Filesystem"; echo "/dev/x 9 9 1500000 9% /"').install()
    assert done.returncode == 1
    assert "needs 3 GB" in done.stderr
    assert "1500 MB" in done.stderr


def test_no_python_and_an_old_python(computer: Computer) -> None:
    computer.command("python3", "exit 1")
    done = computer.install()
    assert done.returncode == 1
    assert "Python 3.10 or newer" in done.stderr
    computer.command("python3.12", f'exec "{sys.executable}" "$@"')
    assert "python3.12" in computer.install().stdout


def test_python_without_venv(computer: Computer) -> None:
    only_version = f'case "$*" in *ensurepip*) exit 1 ;; *) exec "{sys.executable}" "$@" ;; esac'
    done = computer.command("python3", only_version).command("apt-get", "").install()
    assert done.returncode == 1
    assert "sudo apt-get install python3-venv" in done.stderr


def test_everything_that_is_missing_is_said_at_once(computer: Computer) -> None:
    (computer.root / "bin/c++").unlink()
    done = computer.command("nvidia-smi", H200).command("python3", "exit 1").install()
    assert done.stderr.count("\n  - ") == 3


def test_own_flags_and_jobs(computer: Computer) -> None:
    done = computer.install(CMAKE_ARGS="-DGGML_NATIVE=OFF", CMAKE_BUILD_PARALLEL_LEVEL="3")
    assert arguments_line(done).endswith("-DGGML_NATIVE=OFF")
    assert "3 jobs" in done.stdout


def installed(computer: Computer, *libraries: str, version: str) -> Computer:
    """An environment that has llama-cpp-python with these libraries."""
    bin_dir = computer.root / "venv/bin"
    site = computer.root / "site"
    bin_dir.mkdir(parents=True)
    computer.file("site/llama_cpp/__init__.py")
    for library in libraries:
        computer.file(f"site/llama_cpp/lib/{library}")
    metadata = f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version}\n"
    computer.file(f"site/llama_cpp_python-{version}.dist-info/METADATA", metadata)
    computer.command("python3", f'export PYTHONPATH="{site}"; exec "{sys.executable}" "$@"')
    (bin_dir / "python").symlink_to(computer.root / "bin/python3")
    return computer


PINNED = "0.3.36"


def test_a_right_build_is_kept(computer: Computer) -> None:
    installed(computer, "libggml-cpu.so", "libggml-rpc.so.0", "libllama.so", version=PINNED)
    (computer.root / "bin/c++").unlink()  # nothing is built, so nothing is needed
    done = computer.install()
    assert done.returncode == 0
    assert f"kept: llama-cpp-python {PINNED} rpc" in done.stdout
    assert "missing" not in done.stderr


@pytest.mark.parametrize(
    ("libraries", "version", "options"),
    [
        (("libggml-cpu.so",), PINNED, ()),  # a wheel from pip's cache: no RPC
        (("libggml-cpu.so", "libggml-rpc.so"), "0.3.30", ()),
        (("libggml-cuda.so", "libggml-rpc.so"), PINNED, ("--cpu",)),
        (("libggml-cpu.so", "libggml-rpc.so"), PINNED, ("--rebuild",)),
    ],
)
def test_another_build_is_replaced(
    computer: Computer, libraries: tuple[str, ...], version: str, options: tuple[str, ...]
) -> None:
    done = installed(computer, *libraries, version=version).install(*options)
    assert RPC in arguments_line(done)


def test_a_broken_environment_is_not_deleted(computer: Computer) -> None:
    computer.file("venv/pyvenv.cfg", "home = /gone\n")
    done = computer.install()
    assert done.returncode == 1
    assert "remove that folder" in done.stderr


def test_help_and_a_wrong_option(computer: Computer) -> None:
    done = computer.install("--help")
    assert done.returncode == 0
    assert "--check" in done.stdout
    done = computer.install("--fast")
    assert done.returncode == 1
    assert "unknown option --fast" in done.stderr


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.parent.parent / ".ci/run"], ids=lambda p: p.name)
def test_scripts_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
