"""What is free in a container, from files such as the kernel writes."""

from __future__ import annotations

import sys
from pathlib import Path

from ps import machine

GIB = 1 << 30


def test_file_pages_that_can_be_given_up_are_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{16 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{15 * GIB}\n")
    assert machine.group_free(tmp_path) == GIB
    (tmp_path / "memory.stat").write_text(f"anon {GIB}\nactive_file {5 * GIB}\ninactive_file {9 * GIB}\nslab 7\n")
    assert machine.group_free(tmp_path) == 15 * GIB


def test_without_a_limit_a_group_holds_everything(tmp_path: Path) -> None:
    assert machine.group_free(tmp_path) == sys.maxsize
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert machine.group_free(tmp_path) == sys.maxsize


def test_of_this_machine_something_is_known() -> None:
    assert machine.machine_name() == machine.machine_name() != ""
    assert 0 < machine.available_bytes() <= machine.meminfo()["MemTotal"]
