#!/bin/sh
# Set up moetool in a virtual environment of this checkout, with a llama.cpp built for this machine.
#
#   scripts/install.sh [--dev] [--cpu|--cuda|--metal|--rocm|--vulkan] [--venv DIR] [--rebuild] [--check]
#
#   --dev       also what the tests, the linter and the type checker need
#   --cpu …     build for this, instead of what the hardware asks for
#   --venv DIR  the virtual environment (default: .venv in the checkout)
#   --rebuild   build llama.cpp again, even if the one that is there is right
#   --check     only say what would be done, and what is missing
#
# Run it again at any time: a llama.cpp that is right already is kept.
# Honoured: PYTHON, CMAKE_ARGS (added to ours), CMAKE_BUILD_PARALLEL_LEVEL, CUDA_HOME, VULKAN_SDK.
set -eu

say() { printf '%s\n' "$*"; }
fact() { printf '  %-9s %s\n' "$1" "$2"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# What would break the build later is collected, so that it is told at once and before anything is made.
missing=''
miss() {
    missing="${missing}  - $1
"
}

notes=''
note() {
    notes="${notes}Note: $1
"
}

# The command that installs packages here: names for apt, dnf, pacman.
packages() {
    if have apt-get; then say "sudo apt-get install $1"
    elif have dnf; then say "sudo dnf install $2"
    elif have pacman; then say "sudo pacman -S $3"
    else say "install $1 with this system's package manager"
    fi
}

# --- what was asked --------------------------------------------------------------------------------

backend=''
extras=''
venv=''
check=no
rebuild=no
while [ $# -gt 0 ]; do
    case $1 in
        --dev) extras='[dev]' ;;
        --cpu | --cuda | --metal | --rocm | --vulkan) backend=${1#--} ;;
        --venv) [ $# -gt 1 ] || fail '--venv needs a folder'; venv=$2; shift ;;
        --venv=*) venv=${1#--venv=} ;;
        --rebuild) rebuild=yes ;;
        --check) check=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")/.." && pwd)
case $venv in
    '') venv=$here/.venv ;;
    /*) ;;
    *) venv=$PWD/$venv ;;
esac
cd "$here"

# Where /usr, /opt, /sys and /dev lie: the tests put a made-up machine there.
root=${MOETOOL_INSTALL_ROOT:-}
version=$(sed -n 's/.*"llama-cpp-python==\([0-9.]*\)".*/\1/p' pyproject.toml)
[ -n "$version" ] || fail 'pyproject.toml names no version of llama-cpp-python'
system=$(uname -s)
arch=$(uname -m)

# --- Python ----------------------------------------------------------------------------------------

python_is_new_enough() {
    "$1" -S -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} "$venv/bin/python" \
        python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if have "$candidate" && python_is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

check_python() {
    if [ -z "$python" ]; then
        miss "Python 3.10 or newer: $(packages python3-venv python3 python), or name one: PYTHON=/path/to/python3"
    elif [ -e "$venv/pyvenv.cfg" ] && ! python_is_new_enough "$venv/bin/python"; then
        miss "an environment that works: the Python of $venv does not run, or is older than 3.10; remove that folder, or use another: --venv DIR"
    elif [ ! -x "$venv/bin/python" ] && ! "$python" -S -c 'import venv, ensurepip' >/dev/null 2>&1; then
        miss "the venv module of $python: $(packages python3-venv python3 python)"
    fi
}

python=$(find_python)
check_python

# --- hardware --------------------------------------------------------------------------------------

# PCI vendors of the graphics cards, one a line: 0x10de NVIDIA, 0x1002 AMD, 0x8086 Intel.
card_vendors() {
    for device in "$root"/sys/bus/pci/devices/*; do
        case $(cat "$device/class" 2>/dev/null) in
            0x03*) cat "$device/vendor" ;;
        esac
    done
}

nvidia_name() {
    if have nvidia-smi; then
        nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1
    fi
}

find_nvcc() {
    for candidate in nvcc ${CUDA_HOME:+"$CUDA_HOME/bin/nvcc"} ${CUDA_PATH:+"$CUDA_PATH/bin/nvcc"} \
        "$root/usr/local/cuda/bin/nvcc" "$root/opt/cuda/bin/nvcc"; do
        if have "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

find_hipcc() {
    for candidate in hipcc "$root/opt/rocm/bin/hipcc"; do
        if have "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

# Instruction sets of the AMD cards ("gfx1100"), joined by semicolons.
amd_targets() {
    for candidate in rocminfo "$root/opt/rocm/bin/rocminfo"; do
        if have "$candidate"; then
            "$candidate" 2>/dev/null | sed -n 's/^ *Name: *\(gfx[0-9a-f]*\) *$/\1/p' | sort -u |
                awk '{ line = line sep $1; sep = ";" } END { print line }'
            return
        fi
    done
}

vulkan_header() {
    for dir in ${VULKAN_SDK:+"$VULKAN_SDK/include"} "$root/usr/include" "$root/usr/local/include" \
        "$root/opt/homebrew/include"; do
        if [ -e "$dir/vulkan/vulkan.h" ]; then
            say "$dir/vulkan/vulkan.h"
            return
        fi
    done
}

spirv_headers() {
    for dir in ${VULKAN_SDK:+"$VULKAN_SDK"/*/cmake/SPIRV-Headers} "$root"/usr/share/cmake/SPIRV-Headers \
        "$root"/usr/lib*/cmake/SPIRV-Headers "$root"/usr/lib/*/cmake/SPIRV-Headers \
        "$root"/usr/local/*/cmake/SPIRV-Headers "$root"/opt/homebrew/share/cmake/SPIRV-Headers; do
        if [ -d "$dir" ]; then
            say "$dir"
            return
        fi
    done
}

has_render_node() {
    for node in "$root"/dev/dri/renderD*; do
        [ ! -e "$node" ] || return 0
    done
    return 1
}

has_vulkan_sdk() { have glslc && [ -n "$(vulkan_header)" ] && [ -n "$(spirv_headers)" ]; }

nvidia=$(nvidia_name)
nvcc=$(find_nvcc)
hipcc=$(find_hipcc)
gfx=$(amd_targets)

choose_backend() {
    if [ "$system" = Darwin ]; then say metal
    elif [ -n "$nvidia" ]; then say cuda
    elif [ -n "$hipcc" ] && [ -n "$gfx" ]; then say rocm
    elif has_render_node && has_vulkan_sdk; then say vulkan
    else say cpu
    fi
}

# A card that the build will not use: said, not decided.
note_unused_cards() {
    case $(card_vendors) in
        *0x10de*) note 'an NVIDIA card is there, but no driver (nvidia-smi lists none): built for the CPU. Install the driver and the CUDA toolkit, then run this again.' ;;
        *0x1002*) note "an AMD card is there, but neither ROCm nor the Vulkan SDK: built for the CPU. For the card: $(packages 'libvulkan-dev glslc spirv-headers' 'vulkan-loader-devel glslc spirv-headers-devel' 'vulkan-devel shaderc spirv-headers'), then run this again." ;;
        *0x8086*) note "an Intel GPU is there, but no Vulkan SDK: built for the CPU. For the GPU: $(packages 'libvulkan-dev glslc spirv-headers' 'vulkan-loader-devel glslc spirv-headers-devel' 'vulkan-devel shaderc spirv-headers'), then run this again." ;;
    esac
}

if [ -z "$backend" ]; then
    backend=$(choose_backend)
    [ "$backend" != cpu ] || note_unused_cards
elif [ "$backend" = cpu ] && [ "$system" = Darwin ]; then
    # llama-cpp-python's build file forces it there.
    backend=metal
    note 'on a Mac every build of llama-cpp-python has Metal; moetool can still be told to use the CPU only.'
fi

# --- what the build needs --------------------------------------------------------------------------

scratch=$(mktemp -d)
reporter=''
stop_report() {
    [ -z "$reporter" ] || kill "$reporter" 2>/dev/null || true
    [ -z "$reporter" ] || wait "$reporter" 2>/dev/null || true
    reporter=''
}
clean() {
    stop_report
    rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 130' INT TERM

compiles() { # COMPILER SOURCE FLAGS…
    compiler=$1 source=$2
    shift 2
    "$compiler" "$source" -o "$scratch/trial" "$@" >"$scratch/trial.log" 2>&1
}

check_compiler() {
    printf '#include <vector>\nint main() { return 0; }\n' >"$scratch/trial.cpp"
    if [ "$system" = Darwin ]; then
        fix='xcode-select --install'
    else
        fix=$(packages build-essential 'gcc gcc-c++ make' base-devel)
    fi
    for cxx in ${CXX:+"$CXX"} c++ g++ clang++; do
        if have "$cxx"; then
            compiles "$cxx" "$scratch/trial.cpp" ||
                miss "a C++ compiler that works ($cxx fails: $(head -n 1 "$scratch/trial.log")): $fix"
            return
        fi
    done
    miss "a C++ compiler: $fix"
}

check_cuda() {
    if [ -z "$nvcc" ]; then
        miss "the CUDA toolkit for ${nvidia:-this NVIDIA card} (nvcc is neither on PATH nor in /usr/local/cuda): $(packages nvidia-cuda-toolkit cuda-toolkit cuda), or NVIDIA's own packages; or go on without the card: scripts/install.sh --cpu"
        return
    fi
    capability=$(printf '%s' "$nvidia" | sed -n 's/.*, *\([0-9][0-9]*\)\.\([0-9]\).*/\1\2/p')
    known=$("$nvcc" --list-gpu-arch 2>/dev/null || true)
    if [ -n "$capability" ] && [ -n "$known" ] && ! printf '%s\n' "$known" | grep -q "compute_$capability\$"; then
        miss "a CUDA toolkit that knows $nvidia: $nvcc does not list compute_$capability; install another one and name it: CUDA_HOME=/path/to/cuda"
        return
    fi
    # Finds a host compiler that nvcc refuses, and a toolkit without cuBLAS, in two seconds instead of ten minutes.
    printf '#include <cublas_v2.h>\nint main() { return 0; }\n' >"$scratch/trial.cu"
    compiles "$nvcc" "$scratch/trial.cu" -lcublas ||
        miss "a CUDA toolkit that works ($nvcc fails: $(grep -m 1 -i error "$scratch/trial.log" || head -n 1 "$scratch/trial.log")); or go on without the card: scripts/install.sh --cpu"
}

has_rocm_library() {
    prefix=$(dirname "$(dirname "$hipcc")")
    for dir in "$prefix/lib/cmake/$1" "$prefix"/lib/*/cmake/"$1" "$root/opt/rocm/lib/cmake/$1"; do
        [ ! -d "$dir" ] || return 0
    done
    return 1
}

check_rocm() {
    [ -n "$hipcc" ] || miss 'ROCm (hipcc is neither on PATH nor in /opt/rocm/bin); or another way: scripts/install.sh --vulkan, --cpu'
    [ -n "$gfx" ] || miss 'an AMD card that rocminfo lists'
    for library in hipblas rocblas; do
        if [ -n "$hipcc" ] && ! has_rocm_library "$library"; then
            miss "ROCm's $library with its development files: $(packages "$library-dev" "$library-devel" "$library")"
        fi
    done
}

check_vulkan() {
    fix=$(packages 'libvulkan-dev glslc spirv-headers' 'vulkan-loader-devel glslc spirv-headers-devel' 'vulkan-devel shaderc spirv-headers')
    have glslc || miss "the shader compiler glslc: $fix"
    [ -n "$(vulkan_header)" ] || miss "Vulkan's headers: $fix"
    [ -n "$(spirv_headers)" ] || miss "SPIRV-Headers: $fix"
}

check_disk() {
    for dir in "$(dirname "$venv")" "${TMPDIR:-/tmp}"; do
        free_kb=$(df -Pk "$dir" 2>/dev/null | awk 'NR == 2 { print $4 }')
        if [ -n "$free_kb" ] && [ "$free_kb" -lt 3000000 ]; then
            miss "free disk: the build needs 3 GB, $dir has $((free_kb / 1000)) MB"
        fi
    done
}

# As many compilers as cores, but each needs about 1 GB.
jobs() {
    if have nproc; then cores=$(nproc); else cores=$(sysctl -n hw.ncpu 2>/dev/null || say 2); fi
    if [ -r /proc/meminfo ]; then
        awk -v cores="$cores" '/^MemAvailable/ { n = int($2 / 1000000); if (n < 1) n = 1; if (n < cores) cores = n }
            END { print cores }' /proc/meminfo
    else
        say "$cores"
    fi
}

case $backend in
    cpu) args='' ;;
    cuda) args='-DGGML_CUDA=ON' ;;
    metal) args='-DGGML_METAL=ON' ;;
    rocm) args="-DGGML_HIP=ON -DGPU_TARGETS=$gfx" ;;
    vulkan) args='-DGGML_VULKAN=ON' ;;
esac
# RPC makes other machines' devices usable; llava (images) is not used here and costs a minute.
args="${args:+$args }-DGGML_RPC=ON -DLLAVA_BUILD=OFF${CMAKE_ARGS:+ $CMAKE_ARGS}"

# --- what is there already -------------------------------------------------------------------------

# "0.3.36 cuda rpc": version and backends of the installed llama-cpp-python by its files, "" if there is none.
installed() {
    [ -x "$venv/bin/python" ] || return 0
    "$venv/bin/python" - <<'PYTHON' 2>/dev/null || true
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

lib = Path(find_spec("llama_cpp").origin).parent / "lib"
names = {path.name.split(".")[0].removeprefix("lib").removeprefix("ggml-") for path in lib.iterdir()}
print(version("llama-cpp-python"), *(n for n in ("cuda", "hip", "metal", "vulkan", "rpc") if n in names))
PYTHON
}

wanted_build() {
    case $backend in
        cpu) say "$version rpc" ;;
        rocm) say "$version hip rpc" ;;
        *) say "$version $backend rpc" ;;
    esac
}

# What an installation depends on: an editable one follows the checkout's modules by itself.
requirements() {
    say "$here $extras"
    cat pyproject.toml
    [ ! -e requirements.lock ] || cat requirements.lock
}

is_installed() { [ -e "$venv/moetool.installed" ] && [ "$(requirements)" = "$(cat "$venv/moetool.installed")" ]; }

build=yes
if [ "$rebuild" = no ] && [ "$(installed)" = "$(wanted_build)" ]; then
    build=no
else
    check_compiler
    case $backend in
        cuda) check_cuda ;;
        rocm) check_rocm ;;
        vulkan) check_vulkan ;;
        metal) [ "$system" = Darwin ] || miss 'a Mac: Metal is nowhere else' ;;
    esac
    check_disk
fi

# --- say it ----------------------------------------------------------------------------------------

say "moetool: setting up in $venv"
fact machine "$system $arch${nvidia:+, NVIDIA $nvidia}${gfx:+, AMD $gfx}"
fact python "${python:-none}"
fact backend "$backend"
if [ "$build" = yes ]; then
    fact build "llama-cpp-python $version from source, with ${CMAKE_BUILD_PARALLEL_LEVEL:-$(jobs)} jobs; 1 to 15 minutes"
    fact cmake "$(if have cmake; then command -v cmake; else say 'fetched by pip for the build'; fi)"
    fact args "CMAKE_ARGS=$args"
else
    fact build "kept: llama-cpp-python $(installed)"
fi
printf '%s' "$notes"
if [ -n "$missing" ]; then
    printf 'install.sh: this is missing, nothing was changed:\n%s' "$missing" >&2
    exit 1
fi
[ "$check" = no ] || exit 0

# --- do it -----------------------------------------------------------------------------------------

# Prints how far the build is, until it is killed. ninja writes "[12/345]", make "[ 12%]".
report() {
    start=$(date +%s)
    # Without its own output a sleep that outlives the script keeps nobody waiting on a pipe.
    while sleep 15 >/dev/null 2>&1; do
        step=$(grep -o '\[ *[0-9]*[/%][0-9]*\]' "$1" 2>/dev/null | tail -n 1 || true)
        say "  $(($(date +%s) - start)) s  ${step:-preparing}"
    done
}

build_llama() {
    log=$venv/llama-build.log
    [ -z "$nvcc" ] || [ "$backend" != cuda ] || export CUDACXX="$nvcc"
    if [ "$backend" = rocm ] && have hipconfig; then
        HIPCXX=$(hipconfig -l)/clang
        HIP_PATH=$(hipconfig -R)
        export HIPCXX HIP_PATH
    fi
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(jobs)}
    CMAKE_ARGS=$args
    export CMAKE_ARGS CMAKE_BUILD_PARALLEL_LEVEL
    report "$log" &
    reporter=$!
    # pip's cache does not look at CMAKE_ARGS: without these flags it may bring back a wheel that was built otherwise.
    "$venv/bin/python" -m pip install --disable-pip-version-check --verbose --no-deps --force-reinstall \
        --no-cache-dir --no-binary llama-cpp-python "llama-cpp-python==$version" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        fail "the build of llama-cpp-python failed; the whole log is in $log"
    }
    stop_report
    unset CMAKE_ARGS
}

install_package() {
    say 'Installing moetool and its libraries'
    set -- --editable ".$extras"
    [ ! -e requirements.lock ] || set -- "$@" --constraint requirements.lock
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@"
    requirements >"$venv/moetool.installed"
}

# What the build really has: asked from the library, since a file may be there and not load.
show_backends() {
    "$venv/bin/python" - "$backend" <<'PYTHON'
import ctypes
import sys

from llama_cpp import llama_cpp

lib = llama_cpp._lib


def texts(count, get, *names):
    for name in (count, get, *names):
        getattr(lib, name).restype = ctypes.c_char_p if name in names else ctypes.c_size_t
        getattr(lib, name).argtypes = [ctypes.c_size_t] if name != count else []
    handles = [getattr(lib, get)(i) for i in range(getattr(lib, count)())]
    return [[getattr(lib, name)(handle).decode() for name in names] for handle in handles]


backends = [name for (name,) in texts("ggml_backend_reg_count", "ggml_backend_reg_get", "ggml_backend_reg_name")]
devices = texts(
    "ggml_backend_dev_count", "ggml_backend_dev_get", "ggml_backend_dev_name", "ggml_backend_dev_description"
)
print("Backends in this build:", ", ".join(backends))
print("Devices:", ", ".join(f"{name} ({description})" for name, description in devices))
wanted = {"cuda": "CUDA", "metal": "MTL", "rocm": "ROCm", "vulkan": "Vulkan", "cpu": "CPU"}[sys.argv[1]]
if not any(name.startswith(wanted) or (wanted == "MTL" and name == "Metal") for name in backends):
    sys.exit(f"install.sh: the build came out without {wanted}; try scripts/install.sh --rebuild")
PYTHON
}

began=$(date +%s)
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if [ "$build" = yes ]; then
    say "Building llama.cpp; its log is $venv/llama-build.log"
    build_llama
fi
if [ "$build" = yes ] || ! is_installed; then install_package; fi
show_backends
say "Done in $(($(date +%s) - began)) s. Next: ${venv#"$here/"}/bin/moetool doctor"
