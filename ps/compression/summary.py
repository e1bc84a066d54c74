"""What compression does to a batch of parameters, in one line for a person, before the run begins."""

from __future__ import annotations

from collections.abc import Iterable

from ps.compression.choice import Codecs
from ps.keyspace import Slice


def summary(slices: Iterable[Slice], codecs: Codecs, workers: int, shared: bool) -> str:
    """Bytes on the wire and in memory; empty where nothing is encoded. shared: all workers read one view."""
    whole = pushed = pulled = residuals = views = 0
    names: list[set[str]] = [set(), set()]
    for item in slices:
        push, pull = codecs.of_push(item), codecs.of_pull(item)
        whole += item.nbytes
        pushed += codecs.push_bytes(item)
        pulled += codecs.pull_bytes(item)
        residuals += item.nbytes if push is not None and push.error_feedback else 0
        views += item.nbytes if pull is not None else 0
        for codec, found in zip((push, pull), names, strict=True):
            found.update({"raw"} if codec is None else {type(codec).__name__.lower()})
    if all(found <= {"raw"} for found in names):
        return ""
    by_push, by_pull = ("+".join(sorted(found, key=lambda name: name == "raw")) for found in names)
    held = views if shared else views * workers
    return (
        f"{in_mb(whole)} of parameters: "
        f"pushes {by_push}, at most {in_mb(pushed)}; pulls {by_pull}, at most {in_mb(pulled)}; "
        f"memory beside that of an uncompressed run: {in_mb(residuals + views)} in each worker, {in_mb(held)} in the "
        f"servers together"
    )


def in_mb(nbytes: int) -> str:
    """Bytes, for a person."""
    if not nbytes:
        return "nothing"
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:,.1f} kB"
