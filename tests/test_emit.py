"""Plans in other programs' words: what is printed, and that llama.cpp's own parser takes it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_plan import DEMO, MOE, machine

from moetool.assets import demo_model_path
from moetool.cli.boundary import run_command_line
from moetool.cli.wishing import Flags, make_wishes
from moetool.emit import Source, emit, llama_flags, wish_flags
from moetool.errors import UsageError
from moetool.machine import to_json
from moetool.plan import Limit, Wishes, make_plan
from moetool.settings import TensorOverride

FILE = Source("/models/my model.gguf")


def flag(line: str, name: str) -> str:
    words = shlex.split(line)
    return words[words.index(name) + 1]


def test_a_plan_over_two_cards_with_experts_in_ram() -> None:
    plan = make_plan(MOE, machine(64, 8, 4), Wishes(n_ctx=4096, n_seq=2, type_k="q8_0", type_v="q8_0"))
    line = emit(plan, "llama-server", FILE)
    assert line.startswith("llama-server -m '/models/my model.gguf' -c 8192 -fit off -fa on ")
    assert (flag(line, "-ctk"), flag(line, "-ctv"), flag(line, "-np")) == ("q8_0", "q8_0", "2")
    assert flag(line, "-dev") == "CUDA0,CUDA1"
    shares = [int(share) for share in flag(line, "-ts").split(",")]
    assert sum(shares) == plan.settings.n_gpu_layers == int(flag(line, "-ngl"))
    patterns = [part.rpartition("=") for part in flag(line, "-ot").split(",")]
    assert [TensorOverride(p, d) for p, _, d in patterns] == list(plan.settings.tensor_overrides)
    assert "-np" not in shlex.split(emit(plan, "llama-cli", FILE))


def test_what_only_some_plans_have() -> None:
    plan = make_plan(MOE, machine(64), Wishes(experts=4, draft=DEMO))
    line = emit(plan, "llama-server", Source(repo="org/repo", quant="Q4_K_M", draft_path="d.gguf", rpc="a:1"))
    assert flag(line, "-hf") == "org/repo:Q4_K_M"
    assert flag(line, "--rpc") == "a:1"
    assert flag(line, "--override-kv") == "qwen3moe.expert_used_count=int:4"
    assert (flag(line, "-md"), flag(line, "--spec-type")) == ("d.gguf", "draft-simple")
    assert (flag(line, "-dev"), flag(line, "-devd"), flag(line, "-ngl")) == ("none", "none", "0")


def test_a_workers_memory_has_its_address_in_its_name() -> None:
    # Devices are numbered through, memory is numbered at each worker.
    names = {"RPC0": "CPU at 10.0.0.2:50052", "RPC1": "CUDA at 10.0.0.3:50052", "RPC2": "10.0.0.3:50052"}
    here = machine(64, 8, 8, 8)
    cards = (
        replace(d, name=n, description=t) for d, (n, t) in zip(here.devices, names.items(), strict=False)
    )
    here = replace(here, devices=(*cards, here.devices[-1]))
    overrides = tuple(TensorOverride(f"blk.{i}.", name) for i, name in enumerate((*names, "CPU")))
    line = emit(make_plan(MOE, here, Wishes(tensor_overrides=overrides)), "llama-server", FILE)
    assert [part.partition("=")[2] for part in flag(line, "-ot").split(",")][:4] == [
        "RPC0[10.0.0.2:50052]",
        "RPC0[10.0.0.3:50052]",
        "RPC1[10.0.0.3:50052]",
        "CPU",
    ]


def test_a_pattern_that_llama_cpp_would_cut_is_refused() -> None:
    wishes = Wishes(tensor_overrides=(TensorOverride(r"blk\.\d{1,2}\.ffn", "CPU"),))
    with pytest.raises(UsageError, match="comma"):
        emit(make_plan(MOE, machine(64, 48), wishes), "llama-server", FILE)


def test_ollama_is_told_what_it_can_do_and_the_rest_is_said() -> None:
    plan = make_plan(MOE, machine(64, 12), Wishes(n_ctx=8192))
    lines = emit(plan, "ollama", FILE).splitlines()
    assert lines[:2] == ["FROM /models/my model.gguf", "PARAMETER num_ctx 8192"]
    (n_gpu,) = (int(line.split()[2]) for line in lines if line.startswith("PARAMETER num_gpu"))
    # Whole layers that fit, experts included: fewer than the plan offloads.
    assert 0 < n_gpu < plan.settings.n_gpu_layers
    assert make_plan(MOE, machine(64, 12), Wishes(n_ctx=8192, n_cpu_moe=0, n_gpu_layers=n_gpu)).fits
    assert any("which Ollama cannot" in line for line in lines if line.startswith("#"))


def test_json_is_one_document() -> None:
    plan = make_plan(MOE, machine(64), Wishes())
    document = json.loads(emit(plan, "json", FILE))
    assert document["model"]["path"] == FILE.path
    assert document["settings"]["n_ctx"] == plan.settings.n_ctx


def test_what_was_fixed_comes_back_as_the_same_wishes() -> None:
    wishes = Wishes(
        n_ctx=0,
        type_k="q8_0",
        type_v="q4_0",
        devices=("CUDA0",),
        n_gpu_layers=5,
        n_cpu_moe=2,
        tensor_overrides=(TensorOverride(r"blk\.1\.", "CPU"), TensorOverride("output", "CUDA0")),
        tensor_split=(3.0, 1.5),
        n_threads=3,
        n_batch=1024,
        n_ubatch=256,
        experts=4,
        vram=(Limit("", 10 << 30), Limit("RPC0", 123456789)),
        ram_bytes=1 << 30,
        reserve_bytes=0,
    )
    words = iter(wish_flags(wishes))
    given: dict[str, object] = {}
    for name, value in zip(words, words, strict=True):
        key = name.removeprefix("--").replace("-", "_")
        if key == "override_tensor":
            given.setdefault(key, []).append(value)  # type: ignore[attr-defined]
        else:
            given[key] = int(value) if Flags.__annotations__[key].startswith("int") else value
    assert make_wishes(Flags(**given)) == wishes  # type: ignore[arg-type]
    assert wish_flags(Wishes()) == []


@pytest.fixture
def desk(tmp_path: Path) -> str:
    """A machine's file."""
    path = tmp_path / "my desk.json"
    path.write_text(json.dumps(to_json(machine(64, 8))))
    return str(path)


def test_another_programs_flags_in_a_document(desk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["plan", "demo", "--machine", desk, "--emit", "llama-cli", "-o", "json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["target"] == "llama-cli"
    assert data["text"].startswith("llama-cli -m ")


@pytest.mark.parametrize("more", [["--draft", "demo"], ["--parallel", "2"]])
def test_the_last_line_makes_the_same_plan(
    desk: str, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert run_command_line(["plan", "demo", "--ctx", "512", "--machine", desk, *more]) == 0
    line = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert line[:2] == ["moetool", "plan"]
    assert line[-2:] == ["--emit", "llama-server"]
    for words in (more, ["--machine", desk], ["--ctx", "512"]):
        at = line.index(words[0])
        assert line[at : at + 2] == words
    assert run_command_line(line[1:]) == 0


COMPLETION = shutil.which("llama-completion", path=os.environ.get("LLAMA_CPP_BIN") or os.environ["PATH"])


@pytest.mark.skipif(COMPLETION is None, reason="needs llama-completion, on PATH or in LLAMA_CPP_BIN")
def test_llama_cpp_takes_the_flags(tmp_path: Path) -> None:
    assert COMPLETION is not None
    override = TensorOverride(r"blk\.(0|1)\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU")
    wishes = Wishes(n_ctx=512, type_k="q8_0", type_v="q8_0", experts=1, tensor_overrides=(override,))
    plan = make_plan(DEMO, machine(8), wishes)
    flags = llama_flags(plan, Source(str(demo_model_path())), is_server=False)
    done = subprocess.run(
        [COMPLETION, *flags, "-p", "Hello", "-n", "2", "-no-cnv", "-v"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    log = done.stderr + done.stdout
    assert re.search(r"n_ctx\s+= 512", log)
    assert re.search(r"n_expert_used\s+= 1", log)
    assert "blk.1.ffn_down_exps.weight (0 MiB q8_0) buffer type overridden to CPU" in log
