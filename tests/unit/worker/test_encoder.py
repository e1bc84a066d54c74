"""What a worker remembers of its frames goes into its state: a worker that is made anew sends the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from ps import factors
from ps.buffers import Buffer, Pool
from ps.config import RunConfig
from ps.factors import Factors
from ps.keyspace import Keyspace, Parameter
from ps.types import Float32
from ps.worker.encoder import Encoder, Packed
from tests.carried import carried

SHAPE, SLICE, LR = (64, 32), 0, 0.5


def normal(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def encoder(codec: str) -> Encoder:
    keyspace = Keyspace()
    keyspace.extend([Parameter.of("w", np.zeros(SHAPE, np.float32))])
    return Encoder(keyspace, RunConfig(push_compression=codec).codecs(), Pool(), seed=1)


def pushed(one: Encoder, clock: int) -> Packed:
    return one.pack(SLICE, Buffer(one.pool, normal(clock, *SHAPE).ravel(), lent=True), clock, LR)


@pytest.mark.parametrize("codec", ["onebit:min_elements=0", "powersgd:min_elements=0", "none:error_feedback=true"])
@pytest.mark.parametrize("refused", [False, True])
def test_a_worker_made_anew_sends_the_same_bytes(codec: str, refused: bool) -> None:
    """Also after a frame of factors was refused: what it held is owed, and travels whole with the next push."""
    whole = encoder(codec)
    pushed(whole, 0)
    if refused:
        grad = Factors(normal(8, 4, SHAPE[0]), normal(9, 4, SHAPE[1]))
        whole.refund(SLICE, whole.pack_factors(SLICE, grad, factors.shared(grad)), LR)
    anew = encoder(codec)
    anew.load_state(carried(whole.state()))
    for clock in (1, 2, 3):
        one, other = pushed(whole, clock), pushed(anew, clock)
        assert one.codec == other.codec
        assert one.frame.data.tobytes() == other.frame.data.tobytes()
