"""What a worker is: one process, or a group of torch.distributed whose rank 0 alone speaks to the cluster."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.distributed as dist

from ps import errors
from ps.torch.tensors import Mirror, in_buckets
from ps.worker.client import Client
from ps.worker.pulling import PullFuture

T = TypeVar("T")
Begin = Callable[[Client], PullFuture | None]  # pushes and ticks; what it has asked for, if anything
FRAME_BYTES = 256  # of what rank 0 says in a step, unless it is an error
KINDS: dict[str, type[errors.Error]] = {
    kind.__name__: kind for kind in (errors.ConfigError, errors.DeadlineError, errors.StoppedError)
}


class About(NamedTuple):
    """What the client says of the worker."""

    rank: int
    size: int
    clock: int
    should_stop: bool


class Member(Protocol):
    """This process in its worker. Every method is one for all processes of the worker, in the same order."""

    @property
    def about(self) -> About: ...

    def ask(self, call: Callable[[Client], T]) -> T:
        """What `call` gives with the worker's client: a value that JSON has."""

    def reduce(self, parameters: Sequence[torch.nn.Parameter], examples: float) -> float:
        """Every gradient becomes that of the whole worker; returns the examples behind it."""

    def load(self, mirrors: Iterable[Mirror]) -> None:
        """The parameters take over what has been pulled."""

    def end_clock(self, begin: Begin, mirrors: Iterable[Mirror]) -> PullFuture | None:
        """Ends the clock; returns what is still under way to these."""

    def while_computing(self, hook: Callable[[Client], None]) -> None:
        """Calls it if gradients may leave before `step`."""


class Alone:
    """A worker of one process."""

    def __init__(self, client: Client | None) -> None:
        if client is None:
            raise errors.ConfigError(
                "client: expected that of ps.connect(), got None, which is for ranks above 0 of a process_group"
            )
        self._client = client

    @property
    def about(self) -> About:
        return _about(self._client)

    def ask(self, call: Callable[[Client], T]) -> T:
        return call(self._client)

    def reduce(self, parameters: Sequence[torch.nn.Parameter], examples: float) -> float:
        return examples

    def load(self, mirrors: Iterable[Mirror]) -> None:
        for mirror in mirrors:
            mirror.load()

    def end_clock(self, begin: Begin, mirrors: Iterable[Mirror]) -> PullFuture | None:
        return begin(self._client)

    def while_computing(self, hook: Callable[[Client], None]) -> None:
        hook(self._client)


class Group:
    """A worker of several processes. Each call is a collective of the group, with the group's own timeout.

    Values are in place on all ranks when `end_clock` returns: a collective that waited for the next forward pass would
    hang where one rank alone reads, saves or evaluates.
    Raises: ConfigError on all ranks, unless rank 0 alone has a client and all have the same parameters.
    """

    def __init__(self, client: Client | None, group: dist.ProcessGroup, mirrors: Sequence[Mirror]) -> None:
        if dist.get_rank(group) < 0:
            raise errors.ConfigError(
                "process_group: expected a group with this process in it, got one without; pass its own group"
            )
        self._client, self._group = client, group
        self._first = dist.get_global_rank(group, 0)
        self._device = mirrors[0].parameter.device  # what the group's backend can move
        self._check(mirrors)
        self._about = About(0, 0, 0, False)
        self.ask(lambda _: None)

    @property
    def about(self) -> About:
        """As of the last step."""
        return self._about

    def ask(self, call: Callable[[Client], T]) -> T:
        """What `call` gives on rank 0, told to all; what it raises there is raised on all. Raises: as `call`."""
        told: dict[str, Any] = {}
        if self._client is not None:
            try:
                told = {"result": call(self._client), "about": _about(self._client)}
            except Exception as error:
                with suppress(RuntimeError):  # the others may be gone: the error to see is this one
                    self._tell({"error": [type(error).__name__, str(error)]})
                raise
        told = self._tell(told)
        if "error" in told:
            kind, text = told["error"]
            prefix = "" if kind in KINDS else f"{kind}: "
            raise KINDS.get(kind, errors.PeerError)(f"rank 0 of process_group: {prefix}{text}")
        self._about = About(*told["about"])
        result: T = told["result"]
        return result

    def reduce(self, parameters: Sequence[torch.nn.Parameter], examples: float) -> float:
        """The mean over all ranks, weighted by their examples; a rank without a gradient that others have adds zeros.

        In place, as torch's DistributedDataParallel does it.
        """
        head = [examples, *(float(one.grad is not None) for one in parameters)]
        summed = torch.tensor(head, dtype=torch.float64, device=self._device)
        dist.all_reduce(summed, group=self._group)
        total, *counts = summed.tolist()
        share = examples / total if total else 0.0  # of zero examples rank 0 tells when it pushes
        grads = []
        for parameter, count in zip(parameters, counts, strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                grads.append(parameter.grad)
        in_buckets(grads, lambda flat: dist.all_reduce(flat.mul_(share), group=self._group))
        return float(total)

    def load(self, mirrors: Iterable[Mirror]) -> None:
        tensors = []
        for mirror in mirrors:
            if self._client is not None:
                mirror.load()
            tensors.append(mirror.parameter.data)
        in_buckets(tensors, self._from_first)

    def end_clock(self, begin: Begin, mirrors: Iterable[Mirror]) -> PullFuture | None:
        def end(client: Client) -> bool:
            pending = begin(client)
            if pending is not None:
                pending.result()
            return pending is not None

        if self.ask(end):
            self.load(mirrors)
        return None

    def while_computing(self, hook: Callable[[Client], None]) -> None:
        """Not here: the group's mean is known in `step`."""

    def _check(self, mirrors: Sequence[Mirror]) -> None:
        described = [(one.name, tuple(one.parameter.shape), str(one.parameter.dtype)) for one in mirrors]
        row = [int(self._client is not None), zlib.crc32(repr(described).encode())]
        own = torch.tensor(row, device=self._device)
        rows = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(rows, own, group=self._group)
        told = torch.stack(rows).tolist()
        if (holders := [rank for rank, (holds, _) in enumerate(told) if holds]) != [0]:
            raise errors.ConfigError(
                f"client: expected that of ps.connect() on rank 0 of process_group and None on its other ranks, got "
                f"one on {_ranks(holders)}; say: client = ps.connect() if dist.get_rank(process_group) == 0 else None"
            )
        if others := [rank for rank, (_, digest) in enumerate(told) if digest != told[0][1]]:
            raise errors.ConfigError(
                f"model: expected the same parameters (names, shapes, dtypes) on all ranks of process_group, got "
                f"others than rank 0 on {_ranks(others)}"
            )

    def _tell(self, told: dict[str, Any]) -> dict[str, Any]:
        """What rank 0 says; what others say is lost. One collective, unless it is long."""
        text = json.dumps(told).encode()
        short = text if len(text) <= FRAME_BYTES else json.dumps({"bytes": len(text)}).encode()
        heard = self._heard(short.ljust(FRAME_BYTES))
        if "bytes" in heard:
            heard = self._heard(text.ljust(heard["bytes"])[: heard["bytes"]])
        return heard

    def _heard(self, text: bytes) -> dict[str, Any]:
        """That of rank 0, as long as this one."""
        raw = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self._device)
        self._from_first(raw)
        heard: dict[str, Any] = json.loads(bytes(raw.tolist()))
        return heard

    def _from_first(self, tensor: torch.Tensor) -> None:
        dist.broadcast(tensor, self._first, group=self._group)


def member(client: Client | None, group: dist.ProcessGroup | None, mirrors: Sequence[Mirror]) -> Member:
    """Raises: as `Alone` and `Group`."""
    return Alone(client) if group is None else Group(client, group, mirrors)


def _about(client: Client) -> About:
    return About(client.rank, client.size, client.clock, client.should_stop)


def _ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return "no rank"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
