"""Leased data by the public face, in threads and in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, cluster, run

EXAMPLES = 60


def train(client: ps.Client, begin: Callable[[], object] = int) -> list[int]:
    """The examples that this worker has computed; `begin` is called once it is registered."""
    client.register({"w": np.zeros(EXAMPLES, np.float32)})
    begin()
    seen: list[int] = []
    for indices in ps.data.leased(EXAMPLES, client, batch=4, epochs=2, lease=10):
        client.pull()
        grad = np.zeros(EXAMPLES, np.float32)
        grad[indices] = 1 / len(indices)
        client.push({"w": grad}, weight=len(indices))
        client.tick()
        seen += indices.tolist()
    return seen


@pytest.mark.parametrize("model", ["bsp", "ssp:staleness=2", "async"])
def test_workers_share_the_data_out(seed: int | None, model: str) -> None:
    parts = run(seed, train, workers=3, servers=2, consistency=model, optimizer="add")
    assert sorted(i for part in parts for i in part) == sorted(2 * list(range(EXAMPLES)))


@pytest.mark.parametrize("model", ["bsp", "async"])
def test_a_killed_workers_examples_are_computed_by_the_others(model: str) -> None:
    held = threading.Event()

    def body(client: ps.Client) -> list[int]:
        if client.rank == 0:
            return train(client, lambda: held.wait(DEADLINE_S))  # until the other has some
        client.register({"w": np.zeros(EXAMPLES, np.float32)})
        next(ps.data.leased(EXAMPLES, client, batch=4, epochs=2, lease=10))
        one.kill("worker:1")
        held.set()
        client.pull()
        raise AssertionError("it was killed")

    with cluster(None, workers=2, consistency=model, optimizer="add") as one:
        first, none = one.run(body, timeout=DEADLINE_S)
        assert none is None and sorted(first) == sorted(2 * list(range(EXAMPLES)))
        assert (one.pull()["w"] == 2).all()


def test_who_waits_for_ever_is_told_for_whom() -> None:
    """One holds the rest and does nothing; nobody else can have it, as it lives."""
    over = threading.Event()

    def holds(client: ps.Client) -> str:
        client.register({"w": np.zeros(1, np.float32)})
        batches = ps.data.leased(8, client, batch=8, epochs=1, timeout=0.3)
        if client.rank == 1:
            next(batches)
        client.barrier()
        if client.rank == 1:
            over.wait(DEADLINE_S)
            return ""
        with pytest.raises(ps.DeadlineError) as caught:
            next(batches)
        over.set()
        return str(caught.value)

    with cluster(None, workers=2, consistency="async") as one:
        words, _ = one.run(holds, timeout=DEADLINE_S)
    assert words.startswith("after 0.3 s: data set 'data': waits for worker 1, at clock 0, last heard ")
    assert words.endswith(" s ago, which holds what is left")


def test_workers_that_disagree_on_the_data_are_told(seed: int | None) -> None:
    def differ(client: ps.Client) -> None:
        client.register({"w": np.zeros(1, np.float32)})
        list(ps.data.leased(8 + client.rank, client, batch=8, epochs=1))

    with pytest.raises(ps.ConfigError, match=r"worker \d: data set 'data': expected [89] examples, 1 epochs like the"):
        run(seed, differ, consistency="async")


def test_files_are_leased_by_their_numbers(tmp_path: Path) -> None:
    """A file is one example of several clocks: as docs/data.md has it."""
    for number in range(7):
        np.save(tmp_path / f"{number}.npy", np.arange(10 * number, 10 * number + 10))
    files = sorted(tmp_path.glob("*.npy"))

    def reads(client: ps.Client) -> list[int]:
        client.register({"w": np.zeros(1, np.float32)})
        seen: list[int] = []
        for [number] in ps.data.leased(len(files), client, batch=1, epochs=1, lease=1, name="files"):
            for rows in np.array_split(np.load(files[number]), 3):
                client.pull()
                client.push({"w": np.ones(1, np.float32)}, weight=len(rows))
                client.tick()
                seen += rows.tolist()
        return seen

    parts = run(1, reads, workers=3, consistency="ssp:staleness=2")
    assert sorted(i for part in parts for i in part) == list(range(70))
    assert min(map(len, parts)) > 0


def test_tokens_in_a_mapped_file_are_leased_by_blocks(tmp_path: Path) -> None:
    np.arange(103, dtype=np.uint16).tofile(tmp_path / "tokens.bin")

    def reads(client: ps.Client) -> list[int]:
        client.register({"w": np.zeros(1, np.float32)})
        tokens, length = np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r"), 10
        blocks = tokens[: len(tokens) // length * length].reshape(-1, length)
        seen: list[int] = []
        for (block,) in ps.data.leased((blocks,), client, batch=3, epochs=1, lease=3):
            assert block.shape == (len(block), length) and (np.diff(block, axis=1) == 1).all()
            client.pull()
            client.push({"w": np.ones(1, np.float32)}, weight=len(block))
            client.tick()
            seen += block.reshape(-1).tolist()
        return seen

    parts = run(1, reads, workers=2)
    assert sorted(i for part in parts for i in part) == list(range(100))
