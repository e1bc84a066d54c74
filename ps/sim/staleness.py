"""Imposed staleness: a run of one worker, whose every push is applied exactly so many commits after the version that it
was computed on. The simulator keeps old values, and answers the worker's pulls with them.

`constant:4`; `geometric:mean=8`, as memoryless workers have it (Mitliagkas et al., Allerton 2016); `trace:FILE`, whole
numbers one after the other, from the start again at the end. Before there are so many commits it is the first version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from ps import wire
from ps.config import RunConfig
from ps.consistency import Cadence, Gather
from ps.errors import ConfigError
from ps.messages import Values
from ps.server.ledger import Commit, Initialised, Record
from ps.server.runtime import Server
from ps.transport.base import Message
from ps.types import Array

TAIL = 30  # a geometric delay above so many means is cut: one in 10^13


@dataclass(frozen=True, slots=True)
class Delays:
    """How old the values of the next pull are, in commits."""

    draw: Callable[[], int]
    longest: int


def delays(spec: str, random: Random) -> Delays:
    """What `spec` spells. Raises: ConfigError naming what was expected."""
    name, _, rest = spec.partition(":")
    if name == "constant" and rest.isdecimal():
        return Delays(lambda: int(rest), int(rest))
    if name == "geometric" and rest.startswith("mean="):
        return _geometric(spec, rest[5:], random)
    if name == "trace" and rest:
        return _trace(rest)
    raise ConfigError(f"staleness: expected constant:COMMITS, geometric:mean=COMMITS or trace:FILE, got {spec!r}")


def _geometric(spec: str, text: str, random: Random) -> Delays:
    try:
        mean = float(text)
    except ValueError:
        mean = -1.0
    if not 0 <= mean < math.inf:
        raise ConfigError(f"staleness: expected geometric:mean=COMMITS with a finite mean >= 0, got {spec!r}")
    if not mean:
        return Delays(lambda: 0, 0)
    longest, log = math.ceil(TAIL * (mean + 1)), math.log1p(-1 / (mean + 1))
    return Delays(lambda: min(int(math.log(1 - random.random()) / log), longest), longest)


def _trace(file: str) -> Delays:
    try:
        words = Path(file).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"staleness: trace: expected a file of whole numbers, got {error}") from None
    wrong = next((word for word in words if not word.isdecimal()), None)
    if wrong is not None or not words:
        raise ConfigError(f"staleness: trace:{file}: expected whole numbers >= 0, got {wrong or 'none'!r}")
    ages, place = [int(word) for word in words], -1

    def draw() -> int:
        nonlocal place
        place += 1
        return ages[place % len(ages)]

    return Delays(draw, max(ages))


class Imposed:
    """Keeps what the servers had, and makes older values of those that they send to the worker."""

    def __init__(self, spec: str, config: RunConfig, seed: int) -> None:
        _check(config)
        self._delays = delays(spec, Random(f"staleness {seed}"))
        self._kept: dict[int, dict[int, Array]] = {}  # slice id -> version -> values
        self._pull, self._age = -1, 0

    def see(self, server: Server, record: Record) -> None:
        """A record of a server's log; what it made of the values is in them."""
        if isinstance(record, Initialised):
            changed = record.slices.tolist()
        elif isinstance(record, Commit):
            changed = [record.slice]
        else:
            return
        ledger = server.shard.ledger
        for index in changed:
            kept, version = self._kept.setdefault(int(ledger.ids_S[index]), {}), int(ledger.version_S[index])
            kept[version] = server.values.current[index].array.copy()
            kept.pop(version - self._delays.longest - 1, None)

    def aged(self, job: bytes, message: Message) -> Message:
        """The message to the worker, with the values that the pull is to have. One pull has one age."""
        *others, body = wire.decode(message.header, job)
        if not isinstance(body, Values):
            return message
        if body.id != self._pull:
            self._pull, self._age = body.id, self._delays.draw()
        version_E = np.maximum(body.version_E - self._age, 0)
        rows = zip(body.slice_E.tolist(), version_E.tolist(), strict=True)
        buffers = [self._kept[slice_id][version] for slice_id, version in rows]
        header = wire.encode(job, *others, replace(body, version_E=version_E))
        return Message(header, buffers, message.release)


def _check(config: RunConfig) -> None:
    model = config.model()
    if config.workers != 1 or isinstance(model.commit(1), Gather) or model.cadence != Cadence():
        raise ConfigError(
            f"staleness: expected workers=1 and consistency=async: it is imposed on one worker, in place of those that "
            f"would cause it, got {config.workers} and {config.consistency}"
        )
    if config.codecs().pull != "none" or any(rule.pull_compression for rule in config.parameters):
        raise ConfigError(
            "staleness: expected pull_compression=none, as its frames say what has changed since the last"
        )
    if config.rule().needs_base:
        raise ConfigError(f"staleness: expected an optimizer that needs no earlier values, got {config.optimizer}")
