"""Every row of the consistency table, an own class, and what the check says of models that break a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from ps.consistency import CONSISTENCY, Cadence, Consistency, Gather, OnArrival
from ps.testing.consistency import check_consistency
from ps.types import Bool, Int64

OPTIONS = {"ssp": ":staleness=2", "quorum": ":n=2", "local": ":every=2,local_lr=0.5"}
OPTIONS |= {"async_local": OPTIONS["local"], "easgd": ":alpha=0.5,every=2,local_lr=0.5"}
MORE = [
    "ssp:staleness=0",
    "downpour:push_every=2,pull_every=3,local_lr=0.5",
    "downpour:warm_start=3",
    "quorum:n=1",
    "local:every=1,local_lr=1",
    "local:every=4,local_lr=0.5,fragments=2",
    "local:every=4,local_lr=0.5,fragments=4,mix=0.5",
    "local:every=6,local_lr=0.5,fragments=2,overlap=2",
    "easgd:alpha=1,every=1,local_lr=1",
]
HERE = __name__ if "." in __name__ else f"tests.conformance.{__name__}"


@dataclass(frozen=True)
class Pipelined(Consistency):
    """One's own: commits like `bsp`, reads up to `lag` commits early."""

    lag: Annotated[int, Field(ge=0)] = 1

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.asarray(version_E >= clock_E - self.lag)

    def commit(self, live: int) -> OnArrival | Gather:
        return Gather(quorum=live)


@pytest.mark.parametrize("spec", [*(name + OPTIONS.get(name, "") for name in CONSISTENCY), *MORE])
def test_every_row_of_the_table_conforms(spec: str) -> None:
    check_consistency(spec)


def test_an_own_class_conforms() -> None:
    check_consistency(f"{HERE}:Pipelined:lag=2")


# ---- broken models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shuts(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.asarray(version_E == clock_E)


@dataclass(frozen=True)
class NeverOpens(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return version_E > clock_E


@dataclass(frozen=True)
class OneAnswer(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.asarray((version_E >= clock_E).all())


@dataclass(frozen=True)
class AllOrNone(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.full(len(clock_E), (version_E >= clock_E).all())


@dataclass(frozen=True)
class Numbers(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.where(version_E >= clock_E, 1, 0)


@dataclass(frozen=True)
class Writes(Pipelined):
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        clock_E -= 1
        return version_E >= clock_E


@dataclass(frozen=True)
class WantsTwo(Pipelined):
    def commit(self, live: int) -> OnArrival | Gather:
        return Gather(quorum=2)


@dataclass(frozen=True)
class TwoKinds(Pipelined):
    def commit(self, live: int) -> OnArrival | Gather:
        return Gather(quorum=live) if live > 1 else OnArrival(rate=1.0)


@dataclass(frozen=True)
class NoRate(Pipelined):
    def commit(self, live: int) -> OnArrival | Gather:
        return OnArrival(rate=0.0)


@dataclass(frozen=True)
class NoReplica(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(pull_every=2)


@dataclass(frozen=True)
class DeltaTwice(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(push_every=2, pull_every=4, carries="delta", local_lr=0.5)


@dataclass(frozen=True)
class Fragments(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(push_every=4, pull_every=4, carries="delta", local_lr=0.5, fragments=3)


@dataclass(frozen=True)
class LongOverlap(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(push_every=4, pull_every=4, carries="delta", local_lr=0.5, fragments=2, overlap=2)


@dataclass(frozen=True)
class OnlyItsOwn(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(push_every=4, pull_every=4, carries="delta", local_lr=0.5, mix=1.0)


@dataclass(frozen=True)
class FragmentsOfGradients(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(push_every=4, fragments=2)


@dataclass(frozen=True)
class ElasticRounds(Pipelined):
    @property
    def cadence(self) -> Cadence:
        return Cadence(carries="delta", local_lr=0.5, elastic=0.5)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (ElasticRounds, "expected OnArrival with elastic"),
        (Shuts, "expected to stay open"),
        (NeverOpens, "to read when all rounds are committed"),
        (OneAnswer, "boolean array of shape"),
        (AllOrNone, "to open on its own"),
        (Numbers, "boolean array of shape"),
        (Writes, "arguments unchanged"),
        (WantsTwo, "a quorum of 1 to 1, got 2"),
        (TwoKinds, "for any number of workers"),
        (NoRate, "a finite rate > 0"),
        (NoReplica, "expected a local_lr"),
        (DeltaTwice, "push_every = pull_every"),
        (Fragments, "expected fragments to divide push_every = 4, got 3"),
        (LongOverlap, "expected overlap >= 0 and below 2, got 2"),
        (OnlyItsOwn, "expected mix >= 0 and below 1, got 1.0"),
        (FragmentsOfGradients, "expected deltas and rounds with fragments"),
    ],
)
def test_the_check_names_the_broken_rule(broken: type[Consistency], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_consistency(f"{HERE}:{broken.__name__}")
