"""Random fault schedules with encoded pushes and pulls, under every model: same promises, same witness.

What the witness adds here: each frame is what its codec makes of gradient and residual; values are what the decoded
frames give; all views are the same on both sides, bit for bit, whatever was lost or repeated on the way.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ps.testing.schedules import Run, check_schedules, draw_schedule
from ps.testing.views import Views

MODELS = {
    "bsp": "bsp",
    "ssp": "ssp:staleness=1",
    "async": "async",
    "downpour": "downpour:push_every=2,pull_every=3,local_lr=0.5,warm_start=2",
    "quorum": "quorum:n=2",
    "local": "local:every=2,local_lr=0.5",
    "local, overlap": "local:every=4,local_lr=0.5,fragments=2,overlap=1",
    "async_local": "async_local:every=2,local_lr=0.5",
}
CODECS = {
    "onebit": "onebit:group=8,min_elements=0",
    "onebit, warm-up": "onebit:group=16,min_elements=0,warmup=2,threshold=mean",
    "int8": "int8:block=16,min_elements=0",
    "fp16": "fp16:min_elements=0",
    "topk": "topk:ratio=0.1,min_elements=0",
}
OPTIMIZERS = ["sgd:lr=0.5", "momentum:lr=0.1,decay=0.9", "adagrad:lr=0.1", "adam:lr=0.1"]
SEEDS, SOAK_SEEDS = 12, 100


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("model", MODELS)
def test_both_directions_encoded(model: str, codec: str) -> None:
    """Optimizers take turns: each meets every model and every codec."""
    spec, turn = CODECS[codec], list(MODELS).index(model) + list(CODECS).index(codec)
    optimizer = OPTIMIZERS[turn % len(OPTIMIZERS)]
    check_schedules(MODELS[model], range(SEEDS), push=spec, pull=spec, optimizer=optimizer)


@pytest.mark.soak
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("model", MODELS)
def test_both_directions_encoded_for_long(model: str, codec: str, optimizer: str) -> None:
    spec = CODECS[codec]
    check_schedules(MODELS[model], range(SOAK_SEEDS), push=spec, pull=spec, optimizer=optimizer)


@pytest.mark.parametrize("codec", CODECS)
def test_moves_of_elastic_averaging_encoded(codec: str) -> None:
    spec = CODECS[codec]
    check_schedules("easgd:alpha=0.3,every=2,local_lr=0.5", range(2 * SEEDS), push=spec, pull=spec)


@pytest.mark.parametrize("push", ["threshold:min_elements=0", "dgc:min_elements=0,ratio=0.1", "qsgd:min_elements=0"])
def test_codecs_of_pushes_alone(push: str) -> None:
    check_schedules("async", range(20), push=push, optimizer="sgd:lr=0.5")


def test_the_schedules_do_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most frames that could be encoded are, in both directions."""
    seen: Counter[int] = Counter()
    received = Views.received

    def counted(self: Views, worker: int, slice_id: int, frame: Any) -> Any:
        seen[frame.codec] += self.codec(slice_id) is not None
        return received(self, worker, slice_id, frame)

    monkeypatch.setattr(Views, "received", counted)
    pushes: Counter[int] = Counter()
    spec = CODECS["onebit"]
    for seed in range(20):
        run = Run(draw_schedule(seed, "async", push=spec, pull=spec), "async")
        run.run()
        for (_, slice_id), made in run.witness.pushes.items():
            if run.witness.keyspace.slices[slice_id].size > 40 and made:
                pushes.update(push.codec for push in made.values())
    assert set(seen) == {0, 1} and seen[1] > 100
    assert set(pushes) == {1}
