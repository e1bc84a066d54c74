"""A disk that refuses, or stands still: one warning, nothing is held, and what was written before stays whole."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ps.compression.choice import RAW, Frame
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.record import writer
from ps.record.entries import KINDS, End, Header, Registered, file_of
from ps.record.reader import Recording
from ps.record.writer import Recorder
from ps.server.ledger import Commit, Contribution, Left, Record

HEADER = Header(0, "00", RunConfig.check({}))
FRAME = Frame(RAW, np.arange(4096, dtype=np.float32))


def commit(version: int) -> Commit:
    return Commit(0, version, 0.1, version, 0, version - 1, (Contribution(0, version, 1.0, version - 1),))


def entries_of(folder: Path) -> list[Any]:
    return [entry for entry, _, _ in Recording(file_of(folder, 0)).entries(lambda _: None)]


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """A write beyond that fails, as one to a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_added_is_read_again_with_its_seconds_and_frames(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, HEADER)
    shared = np.arange(3, dtype=np.float32)
    recorder.add(Left(2, 1, done=True), 5.0)
    recorder.add(commit(1), 5.5, [Frame(11, np.arange(9, dtype=np.uint8), shared), FRAME])
    recorder.end(77, 7.0)
    first, second, last = Recording(file_of(tmp_path, 0)).entries(lambda _: None)
    assert (first, last) == ((Left(2, 1, done=True), 0.0, []), (End(77), 2.0, []))
    entry, seconds, (frame, raw) = second
    assert (entry, seconds, frame.codec) == (commit(1), 0.5, 11) and frame.shared is not None
    np.testing.assert_array_equal(frame.data, np.arange(9, dtype=np.uint8))
    for array, expected in ((frame.shared, shared), (raw.data, FRAME.data)):
        assert array.view(np.float32).flags.aligned
        np.testing.assert_array_equal(array.view(np.float32), expected)


def test_every_record_of_a_log_has_a_kind() -> None:
    assert set(get_args(Record)) == set(KINDS) - {Registered, End}


def test_a_full_disk_is_one_warning_and_frames_are_let_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    with files_of_at_most(100 << 10), caplog.at_level(logging.WARNING, "ps"):
        recorder = Recorder(tmp_path, HEADER)
        for version in range(1, 200):
            recorder.add(commit(version), 0.0, [FRAME], [lambda version=version: done.append(version)])  # type: ignore[misc]
        recorder.end(0, 0.0)
    assert sorted(done) == list(range(1, 200))
    (warning,) = caplog.messages
    assert "ends after " in warning and warning.endswith("File too large; training goes on")
    written = entries_of(tmp_path)
    assert written == [commit(version) for version in range(1, len(written) + 1)] and len(written) == 6


def test_a_disk_that_stands_still_is_waited_for_and_then_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_BYTES", 2 * FRAME.data.nbytes)
    monkeypatch.setattr(writer, "BATCH_BYTES", 1)
    goes_on, stands = threading.Event(), threading.Event()
    recorder = Recorder(tmp_path, HEADER)
    file = recorder._file

    class Slow:
        flush, close = file.flush, file.close

        @staticmethod
        def writelines(parts: Any) -> None:
            stands.set()
            assert goes_on.wait(30.0)
            file.writelines(parts)

    monkeypatch.setattr(recorder, "_file", Slow)
    recorder.add(commit(1), 0.0, [FRAME])
    assert stands.wait(30.0)
    monkeypatch.setattr(writer, "WAIT_S", 0.01)
    with caplog.at_level(logging.WARNING, "ps"):
        recorder.add(commit(2), 0.0, [FRAME])
        recorder.add(commit(3), 0.0, [FRAME])
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "the disk is behind by 0 MiB for 0.01 s; training goes on"
    ]
    monkeypatch.setattr(writer, "WAIT_S", 30.0)
    goes_on.set()
    recorder.end(0, 0.0)
    assert entries_of(tmp_path) == [commit(1)], "no gap, no end"


def test_an_existing_file_is_never_written_to(tmp_path: Path) -> None:
    file_of(tmp_path, 0).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"^record: expected a new file '.*server-0\.record', got .*File exists"):
        Recorder(tmp_path, HEADER)
    assert file_of(tmp_path, 0).read_bytes() == b"mine"
