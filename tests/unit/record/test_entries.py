"""Headers and entries that are whole and say what nothing of ours says: the error has what came, and where."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest

from ps.errors import ConfigError, FrameError
from ps.record.entries import VERSION, Header, unpacked


def test_a_config_that_this_release_does_not_know_is_named_with_its_file() -> None:
    path, config = Path("tape/server-0.record"), {"optimizer": "no_module_of_mine:Mine:lr=0.1"}
    text = json.dumps({"recording": VERSION, "shard": 0, "job": "00", "config": config})
    line = f"{text} {zlib.crc32(text.encode()):08x}\n".encode()
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: .*no_module_of_mine"):
        Header.read(path, line)


@pytest.mark.parametrize(
    ("seconds", "sizes", "words"),
    [
        (float("nan"), [], "expected finite seconds, got nan"),
        ("soon", [], "expected finite seconds, got 'soon'"),
        (1.0, [(0, 4, -1), (0, -3, -1)], "expected sizes of buffers >= 0, got -3"),
        (1.0, [(0, 4, -1)], "expected 4 bytes of buffers, got 0"),
    ],
)
def test_what_an_entry_says_instead_is_named(seconds: object, sizes: list[tuple[int, int, int]], words: str) -> None:
    header = msgpack.packb([0, seconds, [], sizes])
    with pytest.raises(FrameError, match=f"^{re.escape(words)}$"):
        unpacked(header, np.empty(0, np.uint8))
