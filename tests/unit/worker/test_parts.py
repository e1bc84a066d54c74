"""How a push is cut into messages: by what really travels, and never between slices that share a buffer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ps.consistency import consistency
from ps.messages import Push, Verdicts, Welcome
from ps.types import Clock, Int64
from ps.wire import PART_BYTES
from ps.worker.actions import Send, Thin
from ps.worker.core import Session
from ps.worker.parts import cut

NONE = np.empty(0, np.int64)


def session(nbytes_S: list[int], shard_S: list[int]) -> Session:
    made = Session(0, 1, consistency("async"), max(shard_S) + 1)
    made.join(0.0)
    for shard in range(max(shard_S) + 1):
        made.handle(shard, Welcome(1, False, Clock(0), NONE, NONE, NONE, NONE, NONE), 0.0)
    made.place(np.array(shard_S), np.array(nbytes_S))
    return made


def messages(one: Session, thin: dict[int, Thin]) -> list[tuple[str, list[int]]]:
    _, sends = one.push(np.arange(len(one.shard_S)), 1.0, 0.0, thin)
    return [(send.to, send.body.slice_E.tolist()) for send in sends if isinstance(send, Send)]


def test_dense_slices_are_cut_by_their_size() -> None:
    one = session([PART_BYTES] * 3, [0, 0, 0])
    assert messages(one, {}) == [("server:0", [0]), ("server:0", [1]), ("server:0", [2])]


def test_slices_of_factors_travel_together_however_large_they_would_be() -> None:
    one = session([PART_BYTES] * 5, [0, 0, 0, 1, 1])
    thin = {slice_id: Thin(1000, 7) for slice_id in range(5)}
    assert messages(one, thin) == [("server:0", [0, 1, 2]), ("server:1", [3, 4])]


def test_factors_that_are_large_themselves_stay_together_and_apart_from_others() -> None:
    one = session([4 * PART_BYTES] * 6, [0] * 6)
    thin = {0: Thin(PART_BYTES, 1), 1: Thin(PART_BYTES, 1), 2: Thin(PART_BYTES, 2), 3: Thin(PART_BYTES, 2)}
    assert messages(one, thin) == [("server:0", ids) for ids in ([0, 1], [2, 3], [4], [5])]


def test_what_is_sent_again_is_cut_the_same_way() -> None:
    one = session([PART_BYTES] * 3, [0, 0, 0])
    messages(one, {slice_id: Thin(1000, 0) for slice_id in range(3)})
    ok = np.array([2], np.uint8)
    one.handle(0, Verdicts(1, np.array([1]), np.array([1]), ok, np.array([1])), 0.1)
    again = one.on_timer(100.0)
    assert [send.body.slice_E.tolist() for send in again if isinstance(send, Send) and isinstance(send.body, Push)] == [
        [0, 2]
    ]


@given(
    sizes=st.lists(st.integers(0, 2 * PART_BYTES), min_size=1, max_size=12),
    groups=st.lists(st.integers(-1, 2), min_size=12, max_size=12),
)
def test_every_slice_is_sent_once_in_order_and_no_group_is_torn(sizes: list[int], groups: list[int]) -> None:
    groups = sorted(groups[: len(sizes)])  # slices of one parameter have neighbouring ids
    thin = {
        place: Thin(size, group) for place, (size, group) in enumerate(zip(sizes, groups, strict=True)) if group >= 0
    }
    parts: list[Int64] = cut(np.arange(len(sizes)), np.full(len(sizes), 9), thin)
    assert np.concatenate(parts).tolist() == list(range(len(sizes)))
    for group in {one.group for one in thin.values()}:
        assert sum(any(thin[s].group == group for s in part.tolist() if s in thin) for part in parts) == 1
