"""`moetool plan org/repo` and `moetool pull org/repo`, as a shell runs them, against a Hub on loopback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_fixture import Done, Moetool
from hub_fixture import HubWorld, pull
from quant_repo import quant_file, vocabulary
from test_plan import machine

from moetool.assets import demo_model_path
from moetool.machine import Machine, to_json

GIB = 1 << 30
REPO = "org/model-GGUF"
WORDS = vocabulary(20_000)
LABELS = ("BF16", "Q8_0", "Q6_K", "Q4_K_M", "IQ1_S")


@pytest.fixture
def repo(world: HubWorld) -> HubWorld:
    files = {f"model-{label}.gguf": quant_file("Qwen3-30B-A3B", label, WORDS) for label in LABELS}
    world.server.put(REPO, files)  # type: ignore[arg-type]
    return world


def desk(folder: Path, here: Machine | None = None) -> str:
    path = folder / "desk.json"
    path.write_text(json.dumps(to_json(here or machine(64, 12))))
    return str(path)


def plan(run: Moetool, repo: HubWorld, folder: Path, *arguments: str, **more: str) -> Done:
    where = {"HF_ENDPOINT": repo.server.url, **more}
    return run("plan", *arguments, "--machine", desk(folder), **where)


def test_a_table_with_the_pick_marked_and_the_next_command(
    moetool_here: Moetool, repo: HubWorld, tmp_path: Path
) -> None:
    done = plan(moetool_here, repo, tmp_path, REPO)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert sum("decode tok/s  expected loss" in line for line in lines) == 1
    (marked,) = (line for line in lines if line.startswith("▸"))
    assert marked.split()[1] == "Q8_0"
    assert sum(label in done.out for label in LABELS) == len(LABELS)
    assert "Picked Q8_0: the best expected quality above 10 tok/s." in done.out
    assert "of headers read in" in done.out
    assert lines[-1] == f"moetool pull {REPO}:Q8_0"
    assert max(map(len, lines)) <= 160
    assert not [line for line in lines if line != line.rstrip()]


def test_on_a_narrow_screen_the_numbers_stay(moetool_here: Moetool, repo: HubWorld, tmp_path: Path) -> None:
    def lines(columns: int) -> list[str]:
        return plan(moetool_here, repo, tmp_path, REPO, COLUMNS=str(columns)).out.splitlines()

    wide, narrow, slim = lines(100), lines(60), lines(40)
    assert all(len(line) <= 100 for line in wide)
    assert all(len(line) <= 60 for line in narrow)
    assert all(len(line) <= 40 for line in slim)
    row = re.compile(r"▸ +Q8_0 +30\.2 +\d+\.\d +\d+\.\d +\d+\.\d – \d+\.\d")
    assert any("experts of" in line for line in wide)
    for shown in (wide, narrow):
        assert any(row.match(line) for line in shown)
    assert "(this screen is too narrow for: placement)" in narrow
    assert any(line.startswith("(this screen is too narrow for:") for line in slim)
    assert not any("…" in line for line in (*wide, *narrow, *slim))


def test_the_document_holds_the_pick_the_candidates_and_the_cost(
    moetool_here: Moetool, repo: HubWorld, tmp_path: Path
) -> None:
    done = plan(moetool_here, repo, tmp_path, REPO, "-o", "json")
    data = done.document["data"]
    assert (done.document["status"], data["fits"], data["pick"]) == ("ok", True, "Q8_0")
    assert data["model"]["file"] == "model-Q8_0.gguf"
    assert [row["quant"] for row in data["candidates"]] == list(LABELS)
    assert data["quality"]["band"] == "none"
    assert data["quality"]["evidence"]
    assert 0 < data["headers"]["fetched_bytes"] < 4_000_000
    assert data["headers"]["requests"] >= len(LABELS)
    again = plan(moetool_here, repo, tmp_path, REPO, "-o", "json", HF_HUB_OFFLINE="1").document["data"]
    assert again["headers"]["fetched_bytes"] == 0
    assert again["candidates"] == data["candidates"]


def test_a_wished_speed_or_quant_is_obeyed(moetool_here: Moetool, repo: HubWorld, tmp_path: Path) -> None:
    named = plan(moetool_here, repo, tmp_path, REPO, "--quant", "q4_k_m")
    assert named.out.splitlines()[-1] == f"moetool pull {REPO}:Q4_K_M"
    assert (
        plan(moetool_here, repo, tmp_path, f"{REPO}:q4_k_m").out.splitlines()[-1]
        == named.out.splitlines()[-1]
    )
    data = plan(moetool_here, repo, tmp_path, REPO, "--min-tok-s", "100000", "-o", "json").document["data"]
    assert data["why"]["code"] == "best-speed"
    assert plan(moetool_here, repo, tmp_path, REPO, "--quant", "Q9").code == 5
    assert plan(moetool_here, repo, tmp_path, "demo", "--quant", "Q8_0").code == 2


def test_on_this_machine_the_pick_is_held_against_the_allocator_before_a_weight_is_here(
    moetool_here: Moetool, world: HubWorld
) -> None:
    world.server.put(REPO, {"model-IQ1_S.gguf": quant_file("OLMoE", "IQ1_S", WORDS)})
    done = moetool_here("plan", REPO, "--ctx", "1024", HF_ENDPOINT=world.server.url)
    assert done.code == 0, done.err
    assert "llama.cpp's allocator agrees within 0.0% (dry run)" in done.out
    assert sum(entry.sent_bytes for entry in world.server.bodies()) < 4_000_000
    line = moetool_here(
        "plan", REPO, "--ctx", "1024", "--emit", "llama-server", HF_ENDPOINT=world.server.url
    ).out
    assert line.startswith(f"llama-server -hf {REPO}:IQ1_S -c 1024 ")


def test_nothing_fits_says_what_would(moetool_here: Moetool, repo: HubWorld, tmp_path: Path) -> None:
    small = desk(tmp_path, machine(4))
    done = moetool_here("plan", REPO, "--machine", small, HF_ENDPOINT=repo.server.url)
    assert done.code == 3
    assert "Nothing fits. IQ1_S comes nearest" in done.out
    assert "GiB more of RAM" in done.err
    assert "moetool pull" not in done.out
    document = moetool_here(
        "plan", REPO, "--machine", small, "-o", "json", HF_ENDPOINT=repo.server.url
    ).document
    assert (document["exit_code"], document["data"]["pick"]) == (3, None)
    assert document["data"]["remedies"]


def test_a_repo_that_is_not_there(moetool_here: Moetool, repo: HubWorld, tmp_path: Path) -> None:
    assert plan(moetool_here, repo, tmp_path, "org/other-GGUF").code == 5
    offline = plan(moetool_here, repo, tmp_path, REPO, HF_HUB_OFFLINE="1")
    assert offline.code == 1
    assert "HF_HUB_OFFLINE" in offline.err


def test_pull_takes_what_fits_this_machine(moetool_here: Moetool, world: HubWorld) -> None:
    huge = quant_file("DeepSeek", "BF16", WORDS, 384)
    files = {"demo-BF16.gguf": huge, "demo-Q8_0.gguf": demo_model_path().read_bytes()}
    world.server.put(REPO, files)
    dry = moetool_here("pull", REPO, "--dry-run", HF_ENDPOINT=world.server.url)
    assert dry.code == 0, dry.err
    assert f"{REPO}:Q8_0" in dry.out
    assert "does not fit" in dry.err
    done = moetool_here("pull", REPO, "-o", "json", HF_ENDPOINT=world.server.url)
    assert done.document["data"]["quant"] == "Q8_0"


def test_without_a_hub_pull_chooses_from_what_is_here(moetool_here: Moetool, world: HubWorld) -> None:
    demo = demo_model_path().read_bytes()
    world.server.put(REPO, {"demo-Q8_0.gguf": demo, "demo-Q4_0.gguf": demo + bytes(32)})
    cache = {"HF_HOME": str(world.home)}
    dry = moetool_here("pull", REPO, "--dry-run", HF_ENDPOINT=world.server.url, **cache)
    assert f"moetool pull {REPO}:Q8_0" in dry.out
    pull(world, f"{REPO}:Q4_0")
    gone = moetool_here("pull", REPO, "-o", "json", **cache)
    assert gone.document["data"]["quant"] == "Q4_0"
    assert "cannot be reached" in gone.err


def test_pull_downloads_nothing_where_nothing_fits(moetool_here: Moetool, world: HubWorld) -> None:
    world.server.put(REPO, {"demo-BF16.gguf": quant_file("DeepSeek", "BF16", WORDS, 384)})
    done = moetool_here("pull", REPO, "--yes", HF_ENDPOINT=world.server.url)
    assert done.code == 3
    assert "does not fit" in done.err
    assert sum(entry.sent_bytes for entry in world.server.bodies()) < 4_000_000
