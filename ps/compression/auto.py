"""`--compression auto`: one bit both ways where the measured link makes it pay, nothing where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from ps.compression.base import Codec
from ps.compression.choice import Codecs
from ps.compression.rules import AUTO
from ps.compression.summary import in_mb
from ps.config import RunConfig
from ps.cost import encoded_s, link_s
from ps.kernels.dispatch import IN_USE, TWIN
from ps.keyspace import Keyspace, Options, Parameter

__all__ = ["AUTO", "Decision", "decide", "decided"]

CANDIDATE = "onebit"
GAIN_MIN = 1.25  # it must make a clock's traffic so many times shorter, and by so many seconds: less is not worth it
SAVED_MIN_S = 0.5e-3


class Decision(NamedTuple):
    """A codec, or `none`; and why, for a person."""

    spec: str
    why: str


def decide(parameters: Iterable[Parameter], link_bytes_per_s: float) -> Decision:
    """What this batch of parameters travels with over such a link, each way."""
    keyspace, codecs = Keyspace(), Codecs(CANDIDATE, CANDIDATE)
    keyspace.extend(list(parameters))
    dense = encoded = 0
    for item in keyspace.slices:
        codec = codecs.of_push(item)
        if codec is not None:
            dense += item.nbytes
            encoded += codec.bytes_max(item.rows, item.columns)
    native = IN_USE != TWIN
    plain_s, coded_s = 2 * link_s(dense, link_bytes_per_s), encoded_s(dense, encoded, link_bytes_per_s, native)
    pays = plain_s > GAIN_MIN * coded_s and plain_s - coded_s > SAVED_MIN_S
    link = f"at the {link_bytes_per_s / 1e6:,.0f} MB/s of this link"
    times = f"{1e3 * plain_s:.1f} ms per clock raw, {1e3 * coded_s:.1f} ms with {CANDIDATE}"
    kind = "native kernels" if native else "NumPy: without native kernels codecs are slow"
    if not dense:
        return Decision("none", f"no parameter has {Codec.min_elements} elements")
    return Decision(CANDIDATE if pays else "none", f"{in_mb(dense)} each way {link} take {times} ({kind})")


def decided(config: RunConfig, given: Options, spec: str) -> Options:
    """The options of a parameter of a batch for which `spec` was chosen, in the directions that nobody has named."""
    codecs = config.model_copy(update={"compression": spec}).codecs()
    push = codecs.push if given.push_compression is None else given.push_compression
    pull = codecs.pull if given.pull_compression is None else given.pull_compression
    return replace(given, push_compression=push, pull_compression=pull)
