"""Slices and their places: every element exactly once, from the shapes alone, whatever the number of shards."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import ConfigError
from ps.keyspace import (
    BUNDLE_MEMBER_BYTES_MAX,
    MASTER,
    SLICE_ELEMENTS_MAX,
    Keyspace,
    Options,
    Parameter,
    Slice,
    empty_map,
    numpy_dtype,
    place,
)

DTYPES = sorted(MASTER)
KINDS = (Options(), Options(lr_scale=2.0), Options(frozen=True))

sizes = st.sampled_from([0, 1, 3, 1000, 4096, 50_000, SLICE_ELEMENTS_MAX - 1, SLICE_ELEMENTS_MAX + 1, 3_000_000])
shapes = st.one_of(
    st.just(()),
    st.tuples(sizes),
    st.tuples(st.integers(0, 40), sizes),
    st.tuples(st.integers(1, 5), st.integers(0, 300), st.integers(1, 300)),
)
one_parameter = st.tuples(shapes, st.sampled_from(["float32", "float64", "float16", "int8"]), st.sampled_from(KINDS))
batches = st.lists(st.lists(one_parameter, min_size=1, max_size=12), min_size=1, max_size=3)
BatchDraw = list[list[tuple[tuple[int, ...], str, Options]]]


def named(drawn: BatchDraw) -> list[list[Parameter]]:
    """Drawn batches with a name for each parameter."""
    return [
        [Parameter(f"b{b}p{i}", shape, dtype, options) for i, (shape, dtype, options) in enumerate(batch)]
        for b, batch in enumerate(drawn)
    ]


def filled(batches: Sequence[Sequence[Parameter]]) -> Keyspace:
    keyspace = Keyspace()
    for batch in batches:
        keyspace.extend(batch)
    return keyspace


def slices_of_bytes(*kilobytes: int) -> list[Slice]:
    """Slices of these sizes."""
    return [Slice((), kib * 256, "float32", Options(), True, kib * 256, kib * 256) for kib in kilobytes]


# ---- slices ---------------------------------------------------------------------------------------------------------


def test_smaller_slices_spread_one_parameter_over_servers() -> None:
    keyspace = Keyspace()
    keyspace.extend([Parameter("w", (784, 512), "float32", Options(slice_elements=1 << 17))])
    assert [s.size for s in keyspace.slices] == [256 * 512, 256 * 512, 256 * 512, 16 * 512]
    with pytest.raises(ConfigError, match="slice_elements: expected >= 1024, got 10"):
        Options(slice_elements=10)


@given(batches)
def test_slices_hold_every_element_of_every_parameter_once(drawn: BatchDraw) -> None:
    keyspace = filled(named(drawn))
    runs: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(keyspace.parameters))}
    for item in keyspace.slices:
        end = 0
        for piece in item.pieces:
            assert piece.offset == end, "pieces lie one behind the other in their slice"
            end += piece.stop - piece.start
            runs[piece.parameter].append((piece.start, piece.stop))
        assert end == item.size
    for index, parameter in enumerate(keyspace.parameters):
        end = 0
        for start, stop in sorted(runs[index]):
            assert start == end
            end = stop
        assert end == parameter.size


@given(batches)
def test_slices_are_bounded_cut_on_rows_and_bundle_only_what_is_small_and_alike(drawn: BatchDraw) -> None:
    keyspace = filled(named(drawn))
    for item in keyspace.slices:
        members = [keyspace.parameters[piece.parameter] for piece in item.pieces]
        assert item.size <= SLICE_ELEMENTS_MAX
        assert {(m.master, m.options, m.trainable) for m in members} == {(item.dtype, item.options, item.trainable)}
        for member, piece in zip(members, item.pieces, strict=True):
            row = math.prod(member.shape[1:])
            if 0 < row <= SLICE_ELEMENTS_MAX:
                assert piece.start % row == 0 and piece.stop % row == 0
            if len(members) > 1:
                assert (piece.start, piece.stop) == (0, member.size)
                assert member.size * np.dtype(item.dtype).itemsize < BUNDLE_MEMBER_BYTES_MAX


@given(batches)
def test_a_later_batch_changes_nothing_before_it_and_the_same_input_gives_the_same_list(drawn: BatchDraw) -> None:
    parts = named(drawn)
    whole, before = filled(parts), filled(parts[:-1])
    assert whole.slices[: len(before.slices)] == before.slices
    assert whole.parameters[: len(before.parameters)] == before.parameters
    assert all(whole.slices_of[name] == before.slices_of[name] for name in before.slices_of)
    assert asdict(filled(parts)) == asdict(whole)


@given(batches)
def test_a_name_leads_to_the_slices_that_hold_it(drawn: BatchDraw) -> None:
    keyspace = filled(named(drawn))
    for index, parameter in enumerate(keyspace.parameters):
        holding = [i for i, s in enumerate(keyspace.slices) if any(p.parameter == index for p in s.pieces)]
        assert (
            keyspace.slice_ids([parameter.name, parameter.name]) == holding == list(keyspace.slices_of[parameter.name])
        )


def test_a_matrix_is_cut_between_rows_and_a_wide_row_inside() -> None:
    keyspace = Keyspace()
    keyspace.extend([Parameter("tall", (5, SLICE_ELEMENTS_MAX // 2 - 1), "float32")])
    keyspace.extend([Parameter("wide", (2, SLICE_ELEMENTS_MAX + 10), "float32")])
    row = SLICE_ELEMENTS_MAX // 2 - 1
    assert [s.size for s in keyspace.slices[:3]] == [2 * row, 2 * row, row]
    assert [s.size for s in keyspace.slices[3:]] == [SLICE_ELEMENTS_MAX, 10] * 2


def test_small_parameters_share_a_slice_until_it_is_a_quarter_full() -> None:
    keyspace = Keyspace()
    ids = keyspace.extend([Parameter(f"b{i}", (1000,), "float32") for i in range(400)])
    assert len(ids) == 2 and keyspace.slices[0].size == 263 * 1000


def test_a_refused_batch_leaves_no_trace() -> None:
    keyspace = Keyspace()
    keyspace.extend([Parameter("a", (2,), "float32")])
    for batch in ("ba", "bb"):
        with pytest.raises(
            ConfigError, match=rf"parameter '{batch[1]}': expected a new name, got one that is registered"
        ):
            keyspace.extend([Parameter(name, (2,), "float32") for name in batch])
    assert [p.name for p in keyspace.parameters] == list(keyspace.index_of) == list(keyspace.slices_of) == ["a"]
    assert len(keyspace.slices) == 1


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    keyspace = Keyspace()
    with pytest.raises(ConfigError, match="expected a registered name \\(none yet: call register first\\)"):
        keyspace.slice_ids(["w"])
    keyspace.extend([Parameter("w1", (2,), "float32"), Parameter("w0", (2,), "float32")])
    with pytest.raises(ConfigError, match=re.escape("parameter 'w': expected a registered name (w0, w1)")):
        keyspace.slice_ids(["w1", "w"])


def test_messages_name_slices_in_words() -> None:
    keyspace = Keyspace()
    large = SLICE_ELEMENTS_MAX
    keyspace.extend(
        [
            Parameter("w", (3, large // 2), "float32"),
            Parameter("whole", (100, 100), "float32"),
            Parameter("b1", (10,), "float32"),
            Parameter("b2", (10,), "float32"),
            Parameter("alone", (10,), "float64"),
        ]
    )
    assert [keyspace.describe(i) for i in range(len(keyspace.slices))] == [
        f"'w'[0:{large}]",
        f"'w'[{large}:{large + large // 2}]",
        "'whole'",
        "bundle of 2 ('b1' ...)",
        "'alone'",
    ]


# ---- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_of_every_known_dtype_describes_a_parameter(dtype: str) -> None:
    parameter = Parameter.of("w", np.zeros((2, 3), numpy_dtype(dtype)))
    assert (parameter.name, parameter.shape, parameter.dtype) == ("w", (2, 3), dtype)
    assert parameter.master == {"float16": "float32", "bfloat16": "float32"}.get(dtype, dtype)
    assert parameter.trainable == ("float" in dtype)
    assert not Parameter("w", (2,), dtype, Options(frozen=True)).trainable


@pytest.mark.parametrize(
    "dtype", ["complex64", "bool", "object", "str32", "datetime64[s]", "longdouble", "float8_e4m3"]
)
def test_a_dtype_that_we_cannot_hold_is_refused_by_name(dtype: str) -> None:
    text = f"parameter 'w': expected dtype float16, bfloat16, float32, float64 or an integer, got {dtype}; cast it"
    with pytest.raises(ConfigError, match=re.escape(text)):
        Parameter("w", (2,), dtype)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("", (1,), "parameter name: expected 1 to 512 bytes, got ''"),
        ("x" * 513, (1,), "parameter name: expected 1 to 512 bytes, got 'xxx"),
        ("\u20ac" * 171, (1,), "parameter name: expected 1 to 512 bytes"),
        ("w", (2, -1), "parameter 'w': expected at most 1099511627776 elements, got shape (2, -1)"),
        ("w", (1 << 30, 1 << 30), "parameter 'w': expected at most 1099511627776 elements, got shape"),
    ],
)
def test_a_parameter_that_we_cannot_hold_is_refused_by_name(name: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        Parameter(name, shape, "float32")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_options_out_of_range_are_refused_by_name(value: float) -> None:
    with pytest.raises(ConfigError, match=f"options.lr_scale: expected a finite number >= 0, got {value}"):
        Options(lr_scale=value)
    with pytest.raises(ConfigError, match=f"options.weight_decay: expected a finite number >= 0 or None, got {value}"):
        Options(weight_decay=value)


# ---- placement ------------------------------------------------------------------------------------------------------

byte_sizes = st.lists(st.integers(0, 4096), min_size=1, max_size=60)


@given(byte_sizes, st.integers(1, 9))
def test_the_first_batch_is_balanced(kilobytes: list[int], shards: int) -> None:
    slices = slices_of_bytes(*kilobytes)
    placed = place(slices, empty_map(shards))
    assert (placed.epoch, placed.shards, len(placed.shard_S)) == (1, shards, len(slices))
    assert placed.shard_S.min() >= 0 and placed.shard_S.max() < shards
    size = np.array([max(s.nbytes, 1) for s in slices])
    load = np.bincount(placed.shard_S, weights=size, minlength=shards)
    assert load.max() <= size.sum() / shards + size.max()
    assert np.array_equal(place(slices, empty_map(shards)).shard_S, placed.shard_S)


def test_neighbours_of_one_size_go_to_different_shards() -> None:
    """Their gradients leave at the same moment, from all workers: in runs, each server would be waited for in turn."""
    assert place(slices_of_bytes(*[4] * 7), empty_map(3)).shard_S.tolist() == [0, 1, 2, 0, 1, 2, 0]


@given(byte_sizes, byte_sizes, st.integers(1, 9))
def test_later_slices_go_to_the_least_loaded_and_earlier_ones_stay(first: list[int], more: list[int], n: int) -> None:
    slices = slices_of_bytes(*first, *more)
    before = place(slices[: len(first)], empty_map(n))
    after = place(slices, before)
    assert after.epoch == before.epoch + 1
    assert np.array_equal(after.shard_S[: len(first)], before.shard_S)
    load = np.bincount(before.shard_S, weights=[max(s.nbytes, 1) for s in slices[: len(first)]], minlength=n)
    for item, shard in zip(slices[len(first) :], after.shard_S[len(first) :], strict=True):
        assert load[shard] == load.min()
        load[shard] += max(item.nbytes, 1)


@given(batches, st.integers(1, 5))
def test_slicing_knows_nothing_of_shards(drawn: BatchDraw, shards: int) -> None:
    """The list that a cluster of any size places is the list of the shapes."""
    keyspace, placed = Keyspace(), empty_map(shards)
    for batch in named(drawn):
        keyspace.extend(batch)
        placed = place(keyspace.slices, placed)
    assert keyspace.slices == filled(named(drawn)).slices
    assert placed.epoch == len(drawn)
    every = np.concatenate([placed.of_shard(shard) for shard in range(shards)])
    assert sorted(every.tolist()) == list(range(len(keyspace.slices)))


def test_more_shards_than_slices_leaves_some_empty() -> None:
    placed = place(slices_of_bytes(1, 1), empty_map(5))
    assert [len(placed.of_shard(s)) for s in range(5)] == [1, 1, 0, 0, 0]
