"""Parameters, slices and where they live: the one list that every process derives from the registered shapes.

A *slice* is the unit of placement, transfer, versioning, scheduling, checkpoint and migration: a run of keys of one
parameter, or a bundle of whole small parameters with equal dtype and options. Slicing depends only on the registered
shapes, never on the number of shards, so every process that registers the same parameters has the same slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ps.errors import ConfigError
from ps.types import Array, Int64

SLICE_ELEMENTS_MIN, SLICE_ELEMENTS_MAX = 1 << 10, 1 << 20
BUNDLE_MEMBER_BYTES_MAX = 4 * 1024  # a parameter under this joins a bundle: those that codecs leave raw anyway
PARAMETER_ELEMENTS_MAX = 1 << 40
NAME_BYTES_MAX = 512

MASTER: dict[str, str] = {  # registered dtype -> dtype of the server's master copy and of what travels
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from parameter to parameter; slices bundle only what is equal here.

    `lr_scale` multiplies the learning rate; `weight_decay` replaces the optimizer's own (None keeps it); so do
    `push_compression` and `pull_compression` with the run's codecs; `frozen` parameters are stored and pulled, never
    pushed. A parameter is cut on row boundaries into slices of at most `slice_elements` (wider rows inside): smaller
    ones spread over more servers, larger ones cost less. Above SLICE_ELEMENTS_MAX it is that.
    """

    lr_scale: float = 1.0
    weight_decay: float | None = None
    push_compression: str | None = None
    pull_compression: str | None = None
    frozen: bool = False
    slice_elements: int = SLICE_ELEMENTS_MAX

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr_scale) and self.lr_scale >= 0):
            raise ConfigError(f"options.lr_scale: expected a finite number >= 0, got {self.lr_scale}")
        if self.weight_decay is not None and not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"options.weight_decay: expected a finite number >= 0 or None, got {self.weight_decay}")
        if self.slice_elements < SLICE_ELEMENTS_MIN:
            raise ConfigError(f"options.slice_elements: expected >= {SLICE_ELEMENTS_MIN}, got {self.slice_elements}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named tensor. `dtype` is the registered one, by name: pulls come back in it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    options: Options = Options()

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode()) > NAME_BYTES_MAX:
            raise ConfigError(f"parameter name: expected 1 to {NAME_BYTES_MAX} bytes, got {self.name[:40]!r}")
        if self.dtype not in MASTER:
            raise ConfigError(
                f"parameter {self.name!r}: expected dtype float16, bfloat16, float32, float64 or an integer, "
                f"got {self.dtype}; cast it before register"
            )
        if any(n < 0 for n in self.shape) or self.size > PARAMETER_ELEMENTS_MAX:
            raise ConfigError(
                f"parameter {self.name!r}: expected at most {PARAMETER_ELEMENTS_MAX} elements, got shape {self.shape}"
            )

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def master(self) -> str:
        """dtype of the server's copy: float32, float64, or the integer type itself."""
        return MASTER[self.dtype]

    @property
    def trainable(self) -> bool:
        """False for frozen parameters and integer buffers: stored and pulled, never pushed."""
        return not self.options.frozen and self.master.startswith("float")

    @classmethod
    def of(cls, name: str, values: Array, options: Options = Options()) -> Parameter:
        """The parameter that an initial array describes."""
        return cls(name, tuple(values.shape), values.dtype.name, options)


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements [start, stop) of one parameter, flat in C order, at `offset` in its slice."""

    parameter: int  # index in Keyspace.parameters
    start: int
    stop: int
    offset: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The unit of everything. `size` in elements of `dtype` (the master dtype)."""

    pieces: tuple[Piece, ...]
    size: int
    dtype: str
    options: Options
    trainable: bool
    columns: int  # the slice as a matrix: a run of whole rows of its parameter where it is one, else a single row
    smallest: int  # elements of its smallest parameter

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def rows(self) -> int:
        return self.size // self.columns if self.columns else 1


@dataclass
class Keyspace:
    """The append-only list of parameters and of the slices that their shapes give."""

    parameters: list[Parameter] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    slices_of: dict[str, range] = field(default_factory=dict)  # parameter name -> ids of its slices
    index_of: dict[str, int] = field(default_factory=dict)  # parameter name -> index in parameters

    def extend(self, batch: Sequence[Parameter]) -> range:
        """Appends one registered batch; returns the ids of its slices. All or nothing.

        Raises: ConfigError when a name is registered already or stands twice.
        """
        seen = set(self.index_of)
        for parameter in batch:
            if parameter.name in seen:
                raise ConfigError(f"parameter {parameter.name!r}: expected a new name, got one that is registered")
            seen.add(parameter.name)
        first_slice, first_parameter = len(self.slices), len(self.parameters)
        self.parameters.extend(batch)
        for index, parameter in enumerate(batch, first_parameter):
            self.index_of[parameter.name] = index
        for made in _cut(batch, first_parameter):
            for piece in made.pieces:
                name = self.parameters[piece.parameter].name
                first = self.slices_of[name].start if name in self.slices_of else len(self.slices)
                self.slices_of[name] = range(first, len(self.slices) + 1)
            self.slices.append(made)
        return range(first_slice, len(self.slices))

    def names(self, wanted: Iterable[str] | None) -> list[str]:
        """The wanted names as a list; all that are registered for None.

        Raises: ConfigError for a bare string, or naming a parameter that is not registered.
        """
        if wanted is None:
            return list(self.index_of)
        if isinstance(wanted, str):
            raise ConfigError(f"names: expected a list of names, got the string {wanted!r}; write [{wanted!r}]")
        names = list(wanted)
        for name in names:
            self._check_known(name)
        return names

    def slice_ids(self, names: Iterable[str]) -> list[int]:
        """Ids of the slices that hold these parameters, ascending, each once.

        Raises: ConfigError naming a parameter that is not registered.
        """
        ids: set[int] = set()
        for name in names:
            self._check_known(name)
            ids.update(self.slices_of[name])
        return sorted(ids)

    def _check_known(self, name: str) -> None:
        if name not in self.slices_of:
            known = ", ".join(sorted(self.index_of)[:8]) or "none yet: call register first"
            raise ConfigError(f"parameter {name!r}: expected a registered name ({known}), got an unknown one")

    def describe(self, slice_id: int) -> str:
        """How messages name a slice: `'w1'[0:512]`, or `bundle of 3 ('b1' ...)`."""
        pieces = self.slices[slice_id].pieces
        first = self.parameters[pieces[0].parameter]
        if len(pieces) > 1:
            return f"bundle of {len(pieces)} ({first.name!r} ...)"
        if pieces[0].stop - pieces[0].start == first.size:
            return repr(first.name)
        return f"{first.name!r}[{pieces[0].start}:{pieces[0].stop}]"


def _cut(batch: Sequence[Parameter], first: int) -> Iterator[Slice]:
    """The slices of one batch: large parameters cut, small ones bundled; order of first appearance."""
    bundles: dict[tuple[str, Options, bool], list[Piece]] = {}
    made: list[tuple[int, Slice]] = []  # (index of first parameter, slice)

    def close(kind: tuple[str, Options, bool]) -> None:
        pieces = tuple(bundles.pop(kind))
        size = pieces[-1].offset + pieces[-1].stop
        columns = _columns(batch[pieces[0].parameter - first], size) if len(pieces) == 1 else size
        made.append((pieces[0].parameter, Slice(pieces, size, *kind, columns, min(piece.stop for piece in pieces))))

    for index, parameter in enumerate(batch, first):
        kind = (parameter.master, parameter.options, parameter.trainable)
        if parameter.size * np.dtype(parameter.master).itemsize < BUNDLE_MEMBER_BYTES_MAX:
            members = bundles.setdefault(kind, [])
            offset = members[-1].offset + members[-1].stop if members else 0
            members.append(Piece(index, 0, parameter.size, offset))
            if offset + parameter.size > min(parameter.options.slice_elements, SLICE_ELEMENTS_MAX) // 4:
                close(kind)
        else:
            for start, stop in _runs(parameter):
                size = stop - start
                columns = _columns(parameter, size)
                made.append((index, Slice((Piece(index, start, stop, 0),), size, *kind, columns, parameter.size)))
    for kind in list(bundles):
        close(kind)
    made.sort(key=lambda entry: entry[0])  # stable: the runs of one parameter stay in order
    return iter([entry[1] for entry in made])


def _columns(parameter: Parameter, size: int) -> int:
    """Elements in a row of the parameter as a matrix (first axis by all others); `size` where rows are cut inside."""
    row = math.prod(parameter.shape[1:])
    return row if len(parameter.shape) > 1 and row and size % row == 0 else size


def _runs(parameter: Parameter) -> Iterator[tuple[int, int]]:
    """Cuts [0, size) on row boundaries into runs of at most `slice_elements`; wider rows are cut inside."""
    row = math.prod(parameter.shape[1:]) if parameter.shape else 1
    most = min(parameter.options.slice_elements, SLICE_ELEMENTS_MAX)
    step = most // row * row if row <= most else 0
    if step:
        yield from ((s, min(s + step, parameter.size)) for s in range(0, parameter.size, step))
        return
    for row_start in range(0, parameter.size, row):
        for start in range(row_start, row_start + row, most):
            yield start, min(start + most, row_start + row)


@dataclass(frozen=True, slots=True)
class PlacementMap:
    """Slice -> shard. `epoch` grows with every change; `shard_S[slice id]` is the shard."""

    epoch: int
    shards: int
    shard_S: Int64

    def of_shard(self, shard: int) -> Int64:
        """Ids of the slices on one shard, ascending."""
        return np.flatnonzero(self.shard_S == shard)


def place(slices: Sequence[Slice], before: PlacementMap) -> PlacementMap:
    """Places slices registered since `before`, each on the shard that has the fewest bytes so far.

    So neighbours, whose gradients leave at the same moment, go to different servers. Depends on nothing but its
    arguments, so every process computes the same map. Of the first batch, max load <= mean load + the largest slice.
    """
    shard_S = np.empty(len(slices), np.int64)
    known = len(before.shard_S)
    shard_S[:known] = before.shard_S
    size = np.array([max(s.nbytes, 1) for s in slices], np.int64)
    load = np.bincount(before.shard_S, weights=size[:known], minlength=before.shards)
    for index in range(known, len(slices)):
        shard_S[index] = target = int(np.argmin(load))
        load[target] += size[index]
    return PlacementMap(before.epoch + 1, before.shards, shard_S)


def empty_map(shards: int) -> PlacementMap:
    """The map before anything is registered, epoch 0."""
    return PlacementMap(0, shards, np.empty(0, np.int64))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a registered dtype's name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # late: only who uses bfloat16 pays for it

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
