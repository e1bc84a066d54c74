"""The arrays of a shard: written in place only when nobody holds them, combined as in NumPy, replayed to the byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.compression.choice import RAW, Frame
from ps.keyspace import Options, Slice
from ps.optim import optimizer
from ps.server.follower import Follower
from ps.server.ledger import Added, Commit, Contribution, Initialised, Ledger, Record, Sent
from ps.server.values import Values
from ps.types import Array, Float

N = 1000


def one_slice(dtype: str = "float32", options: Options = Options(), trainable: bool = True) -> Slice:
    return Slice((), N, dtype, options, trainable, N, N)


def raw(*array: Array) -> list[Frame]:
    """Frames that are the arrays themselves."""
    return [Frame(RAW, one) for one in array]


def values(rule: str = "sgd:lr=0.1", gathers: bool = True, keep: bool = False, **slice_kind: object) -> Values:
    """Values with one initialised slice."""
    made = Values(optimizer(rule), gathers, keep)
    item = one_slice(**slice_kind)  # type: ignore[arg-type]
    made.add([item])
    made.store(0, grad(99, item.dtype))
    return made


def grad(seed: int, dtype: str = "float32") -> Float:
    return np.random.default_rng(seed).standard_normal(N).astype(dtype)


def commit(version: int, weights: Sequence[float] = (1.0,), lr: float = 0.1, **more: object) -> Commit:
    """A commit on slice 0 of one push per weight, by workers 0, 1, ..."""
    pushes = tuple(Contribution(worker, version, weight, 0) for worker, weight in enumerate(weights))
    number = {"number": version} | more
    return Commit(slice=0, version=version, lr=lr, staleness=0, base=version - 1, contributions=pushes, **number)  # type: ignore[arg-type]


# ---- who holds what -------------------------------------------------------------------------------------------------


def test_a_commit_writes_in_place_when_nobody_holds_the_slice() -> None:
    shard = values()
    before = shard.current[0]
    shard.commit(commit(1), raw(grad(1)))
    assert shard.current[0] is before


def test_a_held_slice_stays_as_it_was_and_its_memory_is_used_again_after_release() -> None:
    shard = values()
    reply = shard.hold(0, 0, current_version=0)
    was = reply.array.copy()
    shard.commit(commit(1), raw(grad(1)))
    assert shard.current[0] is not reply and reply.array.tobytes() == was.tobytes()
    reply.release()
    assert shard.pool.take("float32", N).array is reply.array


def test_every_holder_counts() -> None:
    """A reply to each of two workers, released one after the other."""
    shard = values()
    first, second = shard.hold(0, 0, 0), shard.hold(0, 0, 0)
    shard.commit(commit(1), raw(grad(1)))
    first.release()
    assert shard.pool.take("float32", N).array is not first.array
    second.release()
    assert shard.pool.take("float32", N).array is first.array
    now = shard.current[0]
    shard.commit(commit(2), raw(grad(2)))
    assert shard.current[0] is now, "nobody holds the new version"


def test_commits_take_no_new_memory() -> None:
    """The sum of a commit lies where that of the one before lay."""
    shard = values()
    assert shard.commit(commit(1), raw(grad(1))) is shard.commit(commit(2), raw(grad(2)))


def test_an_empty_round_touches_nothing() -> None:
    shard = values("momentum:lr=0.1,decay=0.9")
    shard.commit(commit(1), raw(grad(1)))
    before = shard.contents()
    assert shard.commit(commit(2, weights=()), []) is None
    assert shard.contents() == before


def test_slices_start_at_zero_until_values_are_stored() -> None:
    shard = Values(optimizer("adam:lr=0.1"), True, False)
    used = shard.pool.take("float32", N)
    used.array.fill(7)
    used.release()
    shard.add([one_slice()])
    assert not shard.current[0].array.any()
    assert [len(names) for names in shard.state] == [2]


def test_frozen_slices_have_no_optimizer_state() -> None:
    shard = Values(optimizer("adam:lr=0.1"), True, False)
    shard.add([one_slice(trainable=False)])
    assert shard.state == [[]]


# ---- kept versions --------------------------------------------------------------------------------------------------


def test_versions_are_kept_until_they_are_forgotten() -> None:
    shard = values(keep=True)
    seen = [shard.current[0].array.copy()]
    for version in (1, 2, 3):
        shard.commit(commit(version), raw(grad(version)))
        seen.append(shard.current[0].array.copy())
    for version in range(4):
        assert shard.hold(0, version, current_version=3).array.tobytes() == seen[version].tobytes()
    shard.forget(np.array([2]))
    assert sorted(shard.kept[0]) == [2]


def test_a_forgotten_version_that_is_being_sent_stays_until_it_is_sent() -> None:
    shard = values(keep=True)
    shard.commit(commit(1), raw(grad(1)))
    reply = shard.hold(0, 0, current_version=1)
    was = reply.array.copy()
    shard.forget(np.array([1]))
    shard.commit(commit(2), raw(grad(2)))
    assert reply.array.tobytes() == was.tobytes()
    reply.release()
    assert shard.pool.take("float32", N).array is reply.array


def test_an_empty_round_keeps_a_version_too() -> None:
    shard = values(keep=True)
    shard.commit(commit(1, weights=()), [])
    shard.commit(commit(2), raw(grad(2)))
    assert shard.hold(0, 0, current_version=2).array is shard.hold(0, 1, current_version=2).array
    assert shard.hold(0, 2, current_version=2).array is not shard.hold(0, 1, current_version=2).array


# ---- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(weights=st.lists(st.floats(2.0**-20, 2.0**20), min_size=1, max_size=6))
def test_the_weighted_mean_is_the_fold_in_rank_order_to_the_bit(dtype: str, weights: list[float]) -> None:
    shard = values("sgd:lr=1", dtype=dtype)
    frames = [grad(worker, dtype) for worker in range(len(weights))]
    cast = np.array(weights, dtype)
    total = cast[0] * frames[0]
    for weight, frame in zip(cast[1:], frames[1:], strict=True):
        total = total + weight * frame
    mean = total / np.dtype(dtype).type(math.fsum(cast))
    taken = shard.commit(commit(1, weights, lr=1.0), raw(*frames))
    assert taken is not None and taken.dtype == np.dtype(dtype) and taken.tobytes() == mean.tobytes()
    assert shard.current[0].array.tobytes() == (grad(99, dtype) - mean).tobytes()


def test_the_order_of_ranks_is_the_order_of_the_sum() -> None:
    frames = [grad(worker) for worker in range(8)]
    forth, back = values(), values()
    forth.commit(commit(1, [0.1 * w + 0.3 for w in range(8)]), raw(*frames))
    back.commit(commit(1, [0.1 * w + 0.3 for w in reversed(range(8))]), raw(*frames[::-1]))
    np.testing.assert_allclose(forth.current[0].array, back.current[0].array, rtol=1e-4)
    assert forth.contents() != back.contents(), "else this test could not tell a wrong order"


def test_an_optimizer_that_adds_gets_the_sum() -> None:
    shard = values("add")
    frames = [grad(1), grad(2)]
    shard.commit(commit(1, [2.0, 3.0], lr=1.0), raw(*frames))
    total = np.float32(2) * frames[0] + np.float32(3) * frames[1]
    assert shard.current[0].array.tobytes() == (grad(99) + total).tobytes()


def test_one_arrival_is_its_own_mean_untouched_by_its_weight() -> None:
    heavy, light = values(gathers=False), values(gathers=False)
    heavy.commit(commit(1, [0.3]), raw(grad(1)))
    light.commit(commit(1, [1.0]), raw(grad(1)))
    assert heavy.contents() == light.contents()


def test_frames_are_only_read() -> None:
    for rule in ("sgd:lr=0.1,weight_decay=0.1", "adam:lr=0.1", "staleness:kind=sqrt+momentum:lr=0.1,decay=0.9"):
        for gathers in (False, True):
            frame = grad(1)
            frame.flags.writeable = False
            values(rule, gathers).commit(commit(1), raw(frame))


def test_elements_are_clipped_before_the_optimizer_and_not_in_the_frame() -> None:
    clipped = Values(optimizer("sgd:lr=1"), True, False, clip_value=0.5)
    clipped.add([one_slice()])
    frame = grad(1)
    clipped.commit(commit(1, lr=1.0), raw(frame))
    assert clipped.current[0].array.tobytes() == (-np.clip(frame, -0.5, 0.5)).tobytes()
    assert frame.tobytes() == grad(1).tobytes()


# ---- options of a slice ---------------------------------------------------------------------------------------------


def stepped(rule: str, options: Options) -> bytes:
    shard = values(rule, options=options)
    shard.commit(commit(1, lr=0.1), raw(grad(1)))
    return shard.contents()[0]


def test_options_of_a_slice_replace_weight_decay_and_scale_the_rate() -> None:
    plain = stepped("sgd:lr=0.1", Options())
    decayed = stepped("sgd:lr=0.1,weight_decay=0.5", Options())
    assert plain != decayed
    assert stepped("sgd:lr=0.1,weight_decay=0.5", Options(weight_decay=0.0)) == plain
    assert stepped("sgd:lr=0.1", Options(weight_decay=0.5)) == decayed
    assert stepped("sgd:lr=0.1", Options(lr_scale=0.0)) == values().contents()[0]
    shard = values("sgd:lr=0.1")
    shard.commit(commit(1, lr=0.05), raw(grad(1)))
    assert stepped("sgd:lr=0.1", Options(lr_scale=0.5)) == shard.contents()[0]


# ---- delay compensation ---------------------------------------------------------------------------------------------


def test_what_a_worker_was_sent_is_held_until_it_is_sent_again() -> None:
    shard = values("dcasgd:lam=0.1+sgd:lr=0.1", gathers=False)
    shard.remember(0, 0)
    base = shard.base[0, 0]
    was = base.array.copy()
    shard.commit(commit(1), raw(grad(1)))
    assert base.array.tobytes() == was.tobytes() and shard.current[0] is not base
    shard.remember(0, 0)
    assert shard.pool.take("float32", N).array is base.array


def test_the_step_is_measured_against_what_the_pushing_worker_was_sent() -> None:
    steps = []
    for pusher in (0, 1):
        shard = values("dcasgd:lam=0.5+sgd:lr=0.1", gathers=False)
        shard.remember(0, 0)
        shard.commit(commit(1), raw(grad(1)))
        shard.remember(1, 0)
        push = Contribution(pusher, 1, 1.0, 0)
        shard.commit(Commit(0, 2, 0.1, 2, 1 - pusher, pusher, (push,)), raw(grad(2)))
        steps.append(shard.contents())
    plain = values("sgd:lr=0.1", gathers=False)
    for version in (1, 2):
        plain.commit(commit(version), raw(grad(version)))
    assert steps[1] == plain.contents(), "worker 1 has the newest values: nothing drifted"
    assert steps[0] != plain.contents()


# ---- followers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sgd:lr=0.1", "adam:lr=0.1", "add", "dcasgd:lam=0.1+momentum:lr=0.1,decay=0.9"])
@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_follower_replays_the_log_to_the_same_bytes(rule: str, gathers: bool, keep: bool) -> None:
    primary, ledger = Values(optimizer(rule), gathers, keep), Ledger(3)
    follower = Follower(3, Values(optimizer(rule), gathers, keep_versions=False))
    items = [one_slice(), one_slice(options=Options(lr_scale=2.0, weight_decay=0.1))]

    def both(record: Record, payload: Sequence[Float] = (), slices: Sequence[Slice] = ()) -> None:
        ledger.apply(record)
        follower.feed(record, [frame.copy() for frame in payload], slices)

    primary.add(items)
    both(Added(np.array([0, 1]), np.zeros(2, np.int64), tuple(np.zeros((3, 2), np.int64))), slices=items)
    for index in (0, 1):
        primary.store(index, grad(index))
    both(Initialised(np.array([0, 1])), [grad(0), grad(1)])
    for version in range(1, 7):
        weights = [0.5, 1.5, 1.0][: 3 if gathers else 1]
        pushes = tuple(Contribution(w, version, weight, 0) for w, weight in enumerate(weights)) if version != 4 else ()
        record = Commit(version % 2, (version + 1) // 2, 0.1, (version + 1) // 2, 1, version - 1, pushes)
        taken = primary.commit(record, raw(*(grad(10 * version + push.worker) for push in pushes)))
        both(record, [] if taken is None else [taken])
        primary.remember(version % 3, 0)
        both(Sent(version % 3, np.array([0])))
    assert follower.values.contents() == primary.contents()
    assert follower.ledger.state() == ledger.state()
