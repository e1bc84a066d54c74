"""Two workers of two processes each: this process has rank 0 of both, in threads; two others are rank 1 of one each.

So the cluster is one of threads here, and the groups are real ones, over gloo.
"""

from __future__ import annotations

import multiprocessing
import pickle  # of its own: torch's pipes share memory, and keep a thread for it
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import ps
from tests.pytorch.models import run

DEADLINE_S = 60.0  # reached only by a hang
RANKS = 4  # of both groups together: 2 * group + rank in it


@dataclass(frozen=True)
class Place:
    """One process in its worker; `index` counts those of both groups."""

    client: ps.Client | None
    group: dist.ProcessGroup
    index: int


@dataclass(frozen=True)
class Raised:
    """How a rank has failed."""

    kind: str
    text: str


Train = Callable[..., Any]  # (place, *args), importable by name


class World:
    """The processes, for many tests."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._peers: list[tuple[Any, Connection]] = []
        for rank in (1, 2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(folder / "store"), theirs), daemon=True)
            process.start()
            theirs.close()
            self._peers.append((process, ours))
        self._groups = _join(0, str(folder / "store"))

    def run(self, train: Train, *args: Any, **options: Any) -> list[Any]:
        """What `train(place, *args)` gives on each of the four ranks, or how it has failed; options: of the cluster."""
        for _, pipe in self._peers:
            pipe.send_bytes(pickle.dumps((train, args)))
        mine = run(
            lambda client: _outcome(train, Place(client, self._groups[client.rank], 2 * client.rank), args),
            workers=2,
            **options,
        )
        theirs = [self._heard(pipe) for _, pipe in self._peers]
        return [mine[0], theirs[0], mine[1], theirs[1]]

    def close(self) -> None:
        dist.destroy_process_group()
        for _, pipe in self._peers:
            pipe.close()
        for process, _ in self._peers:
            process.join(DEADLINE_S)
            process.kill()

    def _heard(self, pipe: Connection) -> Any:
        assert pipe.poll(DEADLINE_S), "a rank 1 hangs"
        return pickle.loads(pipe.recv_bytes())


def good(outcomes: Sequence[Any]) -> list[Any]:
    """The same, when none has failed."""
    assert not [one for one in outcomes if isinstance(one, Raised)], outcomes
    return list(outcomes)


def _join(rank: int, store: str) -> list[dist.ProcessGroup]:
    """The two groups. Only their members may use them."""
    wait = timedelta(seconds=DEADLINE_S)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3, timeout=wait)
    return [dist.new_group([0, other], timeout=wait) for other in (1, 2)]


def _serve(rank: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    group = _join(rank, store)[rank - 1]
    while True:
        try:
            train, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            dist.destroy_process_group()
            return
        pipe.send_bytes(pickle.dumps(_outcome(train, Place(None, group, 2 * rank - 1), args)))


def _outcome(train: Train, place: Place, args: Sequence[Any]) -> Any:
    try:
        return train(place, *args)
    except Exception as error:
        return Raised(type(error).__name__, str(error))
