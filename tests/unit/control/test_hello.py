"""What a Hello must say: each mismatch names field, expected, got and remedy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ps.control.hello import Hello, check, numerics_id
from ps.wire import WIRE_VERSION

CHECKOUT = Path(__file__).resolve().parents[3]
JOB = bytes(range(16))
FITTING = {
    "worker": Hello("worker", rank=3),
    "server": Hello("server", job=JOB, data_address="tcp://127.0.0.1:7000"),
    "server6": Hello("server", data_address="tcp://[::1]:7000"),
    "reader": Hello("reader"),
}


@pytest.mark.parametrize("hello", FITTING.values(), ids=FITTING)
def test_what_fits_is_let_in(hello: Hello) -> None:
    assert check(hello, JOB) is None


@pytest.mark.parametrize(
    ("role", "changes", "expected", "got"),
    [
        ("worker", {"wire_version_min": WIRE_VERSION + 1, "wire_version_max": 9}, str(WIRE_VERSION), "9"),
        ("worker", {"wire_version_min": 0, "wire_version_max": 0}, str(WIRE_VERSION), "0 to 0"),
        ("worker", {"job": b"\xff" * 16}, JOB.hex(), "ff" * 16),
        ("worker", {"job": b"x"}, JOB.hex(), "78"),
        ("worker", {"numerics_id": "abacus"}, numerics_id(), "abacus"),
        ("worker", {"rank": -2}, "worker's rank", "-2"),
        ("reader", {"rank": 0}, "-1 from a reader", "0"),
        ("worker", {"data_address": "tcp://h:1"}, "none from a worker", "tcp://h:1"),
        ("server", {"data_address": ""}, "tcp://host:port", "''"),
        ("server", {"data_address": "h:1"}, "tcp://host:port", "h:1"),
        ("server", {"data_address": "tcp://h:70000"}, "tcp://host:port", "70000"),
        ("server", {"data_address": "tcp://h:" + "9" * 900}, "tcp://host:port", "999"),
        ("worker", {"host": "h" * 2000}, "1024", "2000"),
    ],
)
def test_a_mismatch_names_all_four(role: str, changes: dict[str, Any], expected: str, got: str) -> None:
    refusal = check(dataclasses.replace(FITTING[role], **changes), JOB)
    assert refusal is not None
    name = next(iter(changes)).removesuffix("_min").replace("wire_version", "wire version")
    assert refusal.field == name and expected in refusal.expected and got in refusal.got and refusal.remedy
    assert str(refusal) == f"{name}: expected {refusal.expected}, got {refusal.got}; {refusal.remedy}"


def test_saying_hello_needs_no_grpc() -> None:
    script = "import sys, ps.control.hello; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'ps'" in done.stdout and "'grpc'" not in done.stdout and "'google'" not in done.stdout
