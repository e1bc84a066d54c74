"""Random fault schedules in which one parameter is pushed as factors: same promises, same witness.

What the witness adds here: the frame and the shared factor are what the script gave, the values are what the product
gives that it computes itself, and what was refused travels with the next push.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ps.compression.choice import FACTORS, RAW
from ps.messages import Code
from ps.testing.schedules import Run, check_schedules, draw_schedule
from ps.worker.encoder import Encoder

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bsp, wait": ("bsp", {"on_worker_loss": "wait"}),
    "bsp, drop": ("bsp", {"on_worker_loss": "drop"}),
    "ssp": ("ssp:staleness=1", {"optimizer": "momentum:lr=0.1,decay=0.9"}),
    "ssp, stepping a replica": ("ssp:staleness=1", {"optimizer": "sgd:lr=0.5"}),
    "async": ("async", {}),
    "async, adam": ("async", {"optimizer": "adam:lr=0.1"}),
    "quorum": ("quorum:n=2", {}),
    "quorum, refunds": ("quorum:n=2", {"push": "none:error_feedback=true"}),
    "local": ("local:every=2,local_lr=0.5", {}),
}
CODECS = ["fp16:min_elements=0", "int8:block=16,min_elements=0", "topk:ratio=0.3,min_elements=0"]
SEEDS, CHUNK = 40, 20
SOAK_SEEDS, SOAK_CHUNK = 3000, 150


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
@pytest.mark.parametrize("name", MODELS)
def test_random_schedules(name: str, first: int) -> None:
    model, drawn = MODELS[name]
    check_schedules(model, range(first, first + CHUNK), factors=True, **drawn)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("model", ["async", "quorum:n=2"])
def test_beside_codecs_that_leave_something_behind(model: str, codec: str) -> None:
    check_schedules(model, range(20), factors=True, push=codec)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SOAK_SEEDS, SOAK_CHUNK))
@pytest.mark.parametrize("name", MODELS)
def test_random_schedules_for_long(name: str, first: int) -> None:
    model, drawn = MODELS[name]
    check_schedules(model, range(first, first + SOAK_CHUNK), factors=True, **drawn)


def pushed(model: str, seeds: range, **drawn: Any) -> Counter[tuple[int, Code | None]]:
    """How the matrix travelled, and what became of it."""
    seen: Counter[tuple[int, Code | None]] = Counter()
    for seed in seeds:
        run = Run(draw_schedule(seed, model, factors=True, **drawn), model)
        run.run()
        for (_, slice_id), made in run.witness.pushes.items():
            if run.witness.keyspace.slices[slice_id].size == 48:
                seen.update((push.codec, None if push.verdict is None else push.verdict[0]) for push in made.values())
    return seen


def test_the_schedules_do_send_factors() -> None:
    seen = pushed("async", range(20))
    assert seen[FACTORS, Code.APPLIED] > 100 and seen[RAW, Code.APPLIED] > 10
    assert seen.keys() <= {(FACTORS, Code.APPLIED), (RAW, Code.APPLIED), (FACTORS, None), (RAW, None)}


def test_where_a_worker_steps_its_replica_all_is_dense() -> None:
    assert {codec for codec, _ in pushed("ssp:staleness=1", range(10), optimizer="sgd:lr=0.5")} == {RAW}
    assert {codec for codec, _ in pushed("local:every=2,local_lr=0.5", range(10))} == {RAW}


def test_refused_factors_are_seen_and_a_forgotten_refund_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"push": "none:error_feedback=true"}
    seen = pushed("quorum:n=2", range(30), **drawn)
    assert seen[FACTORS, Code.LATE] > 10
    refund = Encoder.refund

    def forgets(self: Encoder, slice_id: int, packed: Any, lr: float) -> None:
        if packed.codec != FACTORS:
            refund(self, slice_id, packed, lr)

    monkeypatch.setattr(Encoder, "refund", forgets)
    with pytest.raises(AssertionError, match="frames"):
        check_schedules("quorum:n=2", range(30), factors=True, **drawn)
