"""Workers: real processes on loopback; what is said when they are missing, strange, busy, or killed."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cli_fixture import Done, Moetool
from worker_fixture import (
    GRAPH_COMPUTE,
    GRAPH_RECOMPUTE,
    LENT_BYTES,
    SET_TENSOR,
    Trigger,
    Worker,
    go_between,
    running_worker,
    stranger,
)

from moetool.engine.aborts import make_abort_error
from moetool.engine.rpc import PROTOCOL, Address, greet, parse_addresses
from moetool.errors import EngineError, UsageError, WorkerError

# One thread here and one there: on two cores more would wait for each other.
QUESTION = ("run", "demo", "Extract name and age as JSON: Ada Lovelace, 36.", "--temp", "0", "-t", "1")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with running_worker(tmp_path_factory.mktemp("worker")) as running:
        yield running


def devices_of(done: Done) -> dict[str, dict[str, object]]:
    return {device["name"]: device for device in done.document["data"]["machine"]["devices"]}


# --- a worker that works ---------------------------------------------------------------------------


def test_a_worker_says_what_it_lends(worker: Worker) -> None:
    assert worker.data["host"] == "127.0.0.1"
    assert worker.data["open_to_network"] is False
    (device,) = worker.data["devices"]
    assert device["name"] == "CPU"
    assert device["total_bytes"] == LENT_BYTES  # what --memory allows


def test_a_plan_has_its_device_memory_and_link(worker: Worker, moetool: Moetool) -> None:
    done = moetool("plan", "demo", "--rpc", worker.address, "-ngl", "99", "-o", "json")
    assert (done.code, done.err) == (0, "")
    device = devices_of(done)["RPC0"]
    assert device["total_bytes"] == LENT_BYTES
    assert device["description"] == f"CPU at {worker.address}"
    assert device["bandwidth_source"] == "measured through RPC"
    for name in ("bandwidth_bytes_s", "link_bytes_s", "link_latency_s"):
        assert isinstance(device[name], float)
    # What is kept on the worker is what llama.cpp's own allocator puts there.
    (dry,) = [reason for reason in done.document["data"]["reasons"] if reason["code"] == "dry-run"]
    assert "agrees within 0.0%" in dry["text"]
    rows = {row["device"]: row for row in done.document["data"]["memory"]}
    assert rows["RPC0"]["weights_bytes"] > 7 << 20


ANSWER = '{"name": "Ada Lovelace", "age": 36}\n'


def test_the_answer_here(moetool_here: Moetool) -> None:
    assert moetool_here(*QUESTION).out == ANSWER


@pytest.mark.parametrize("placement", [("-ngl", "99"), ("-ngl", "2", "--n-cpu-moe", "3")])
def test_the_answer_is_the_same_there(worker: Worker, moetool: Moetool, placement: tuple[str, ...]) -> None:
    there = moetool(*QUESTION, "--rpc", worker.address, *placement)
    assert (there.code, there.err, there.out) == (0, "", ANSWER)


def test_bench_names_the_worker_that_computed(worker: Worker, moetool: Moetool) -> None:
    test = ("-p", "0", "-n", "4", "-r", "1", "-t", "1")
    done = moetool("bench", "demo", *test, "--rpc", worker.address, "-ngl", "99,0", "-o", "json")
    assert done.code == 0
    found = [(row["gpu_info"], row["backends"]) for row in done.document["data"]["rows"]]
    assert found == [(f"CPU at {worker.address}", "CPU,RPC"), ("", "CPU")]


def test_a_tensor_can_go_there_alone(worker: Worker, moetool: Moetool) -> None:
    alone = ("-ngl", "0", "-ot", r"blk\.0\..*_exps=RPC0")
    there = moetool(*QUESTION, "--rpc", worker.address, *alone, "-o", "json")
    assert there.code == 0
    assert there.document["data"]["text"] + "\n" == ANSWER
    buffers = there.document["data"]["measured"]["buffers"]
    assert f"RPC0[{worker.address}]" in {buffer["buffer"] for buffer in buffers}


def test_ctrl_c_is_its_usual_end(tmp_path: Path) -> None:
    with running_worker(tmp_path) as running:
        running.process.send_signal(signal.SIGINT)
        out, err = running.process.communicate(timeout=20)
        assert (running.process.returncode, out, err) == (0, b"", b"Stopped.\n")


def test_routing_is_read_off_a_worker_as_off_the_cpu(
    worker: Worker, moetool: Moetool, moetool_here: Moetool, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Ada Lovelace, 36, lives in London. " * 4)
    asked = ("experts", "demo", "--text", "a.txt", "-o", "json")
    here = moetool_here(*asked).document["data"]["layers"]
    there = moetool(*asked, "--rpc", worker.address, "-ngl", "99").document["data"]["layers"]
    for mine, its in zip(here, there, strict=True):
        assert mine["counts"] == its["counts"]
        assert mine["confidence"] == pytest.approx(its["confidence"])


# --- a worker that dies ----------------------------------------------------------------------------


def at_load(command: int, body: bytes) -> bool:
    return command == SET_TENSOR and b"blk.2." in body[:300]


def at_prompt(command: int, body: bytes) -> bool:
    return command == GRAPH_COMPUTE and b"ffn_moe" in body


def at_decode() -> Trigger:
    seen = 0

    def kills_at(command: int, _body: bytes) -> bool:
        nonlocal seen
        seen += command == GRAPH_RECOMPUTE
        return seen == 3

    return kills_at


@pytest.mark.parametrize("kills_at", [at_load, at_decode()], ids=["load", "decode"])
def test_a_worker_that_is_killed_ends_the_command_with_a_sentence(
    tmp_path: Path, moetool: Moetool, kills_at: Trigger
) -> None:
    with running_worker(tmp_path) as running, go_between(running, kills_at) as address:
        done = moetool(*QUESTION, "--rpc", address, "-ngl", "99")
        assert running.process.poll() == -signal.SIGKILL
    assert done.code == 1
    assert f"error: The worker {address} went away." in done.err
    assert "start it again" in done.err
    assert done.err.count("\n") == 2  # and no word of llama.cpp's


def test_its_death_is_a_document_too(tmp_path: Path, moetool: Moetool) -> None:
    with running_worker(tmp_path) as running, go_between(running, at_prompt) as address:
        done = moetool(*QUESTION, "--rpc", address, "-ngl", "99", "-o", "json")
    assert (done.code, done.err) == (1, "")
    assert done.document["errors"][0]["code"] == "worker"


def test_other_last_words_of_llama_cpp_are_passed_on() -> None:
    error = make_abort_error("ggml.c:12: GGML_ASSERT(a == b) failed")
    assert type(error) is EngineError
    assert "GGML_ASSERT(a == b)" in error.message


# --- no worker at all ------------------------------------------------------------------------------


def hello(major: int, minor: int) -> bytes:
    return struct.pack("<QBBBx24x", 28, major, minor, 0)


# what is heard -> words of the message
STRANGERS = [
    (b"HTTP/1.1 400 Bad Request\r\nServer: nobody\r\n\r\n", "no worker of llama.cpp"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "no worker of llama.cpp"),
    (b"", "hung up"),
    (hello(PROTOCOL[0] - 1, 0), f"speaks protocol {PROTOCOL[0] - 1}.0"),
    (hello(PROTOCOL[0], PROTOCOL[1] + 1), f"speaks protocol {PROTOCOL[0]}.{PROTOCOL[1] + 1}"),
    (None, "does not answer"),
]


@pytest.mark.parametrize(("answer", "words"), STRANGERS)
def test_what_is_no_worker_is_named(answer: bytes | None, words: str) -> None:
    with stranger(answer) as port, pytest.raises(WorkerError, match=words):
        greet(Address("127.0.0.1", port), patience_s=0.2)


def test_a_worker_is_greeted(worker: Worker) -> None:
    greet(parse_addresses(worker.address)[0])


def test_a_worker_with_a_client_is_busy(worker: Worker) -> None:
    address = parse_addresses(worker.address)[0]
    with (
        closing(socket.create_connection((address.host, address.port))),
        pytest.raises(WorkerError, match="does not answer"),
    ):
        greet(address, patience_s=0.3)


def test_nobody_there() -> None:
    with pytest.raises(WorkerError, match="No worker listens"):
        greet(Address("127.0.0.1", 9), patience_s=1)
    with pytest.raises(WorkerError, match="no machine called"):
        greet(Address("no..name", 50052), patience_s=1)


@pytest.mark.parametrize("text", ["", "here", "here:", ":1", "here:0", "here:70000", "[::1]:1", "a:1,,b:2"])
def test_addresses_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match="not a worker's address"):
        parse_addresses(text)


def test_several_addresses() -> None:
    assert parse_addresses("a.b:1, 10.0.0.1:2") == (Address("a.b", 1), Address("10.0.0.1", 2))
    with pytest.raises(UsageError, match="twice"):
        parse_addresses("a:1,a:1")


# arguments -> exit code, words of the message, words of the hint
WRONG: list[tuple[tuple[str, ...], int, str, str]] = [
    (("plan", "demo", "--rpc", "127.0.0.1:9"), 1, "No worker listens at 127.0.0.1:9", "moetool worker"),
    (("plan", "demo", "--rpc", "127.0.0.1:9", "--machine", "x.json"), 2, "exclude each other", ""),
    (("worker", "--host", "0.0.0.0"), 2, "everybody", "--open-to-network"),  # noqa: S104
    (("worker", "--host", "::1"), 2, "not an IPv4 address", "127.0.0.1"),
    (("worker", "--host", "192.0.2.1", "--open-to-network"), 2, "Cannot listen", "--port 0"),
    (("worker", "--device", "CUDA7", "--port", "0"), 2, "no such device", "CPU"),
    (("worker", "--memory", "much"), 2, "not a size", "12G"),
]


@pytest.mark.parametrize(("arguments", "code", "message", "hint"), WRONG)
def test_what_cannot_be_meant(
    moetool_here: Moetool, arguments: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    done = moetool_here(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert hint in done.err


def test_a_port_in_use_is_said(worker: Worker, moetool: Moetool) -> None:
    done = moetool("worker", "--port", str(worker.data["port"]))
    assert (done.code, done.out) == (2, "")
    assert "Cannot listen" in done.err
    assert "--port 0" in done.err
