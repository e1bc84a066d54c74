"""What messages are made of: kinds of fields, codec ids, verdicts, one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, TypeAlias

import numpy as np

from ps.keyspace import NAME_BYTES_MAX, Options, Parameter
from ps.types import Clock, Int64, UInt8, WorkerId
from ps.wire import CODECS_K, COUNT, COUNTS_E, FLAG, IDS_E, RANK, REAL, listing, optional, text, tuple_of

TEXT_MAX = 16 << 10
Worker: TypeAlias = Annotated[WorkerId, RANK]
Number: TypeAlias = Annotated[int, COUNT]
AtClock: TypeAlias = Annotated[Clock, COUNT]
Ids: TypeAlias = Annotated[Int64, IDS_E]
Counts: TypeAlias = Annotated[Int64, COUNTS_E]
Text: TypeAlias = Annotated[str, text(TEXT_MAX)]
Flag: TypeAlias = Annotated[bool, FLAG]
Real: TypeAlias = Annotated[float, REAL]
Codecs: TypeAlias = Annotated[UInt8, CODECS_K]

RATE_MAX = 1e15  # positions of a data set per second
RAW = 0  # codec ids in codec_K: the slice itself
FACTORS = 11  # rows of a product whose other factor lies in a shared buffer: see ps.factors
SAME = 255  # nothing new
NO_CODECS: UInt8 = np.empty(0, np.uint8)
NO_MARKS: Int64 = np.empty(0, np.int64)
NO_SHARED: Int64 = np.empty(0, np.int64)


class Code(IntEnum):
    """What became of a push on a slice: the verdict."""

    GATHERED = 1  # it is here and waits for its commit; frames are kept, a crash may ask for them again
    APPLIED = 2  # it is in version `version`
    LATE = 3  # refused: its round was committed without it; with error feedback it goes back into the residual


@dataclass(frozen=True, slots=True)
class Spec:
    """One registered parameter on the wire."""

    name: Annotated[str, text(NAME_BYTES_MAX)]
    shape: Annotated[tuple[int, ...], tuple_of(COUNT, 64)]
    dtype: Annotated[str, text(16)]
    lr_scale: Real
    weight_decay: Annotated[float | None, optional(REAL)]
    push_compression: Annotated[str | None, optional(text(NAME_BYTES_MAX))]
    pull_compression: Annotated[str | None, optional(text(NAME_BYTES_MAX))]
    frozen: Flag
    slice_elements: Number

    @classmethod
    def of(cls, p: Parameter) -> Spec:
        o = p.options
        both = o.push_compression, o.pull_compression
        return cls(p.name, p.shape, p.dtype, o.lr_scale, o.weight_decay, *both, o.frozen, o.slice_elements)

    def parameter(self) -> Parameter:
        """Raises: ConfigError when the claim is not a parameter we can hold."""
        both = self.push_compression, self.pull_compression
        options = Options(self.lr_scale, self.weight_decay, *both, self.frozen, self.slice_elements)
        return Parameter(self.name, self.shape, self.dtype, options)


Specs: TypeAlias = Annotated[tuple[Spec, ...], listing(Spec, 1 << 20)]
