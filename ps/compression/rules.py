"""Which codecs may go together with the rest of a run; combinations that are known to be wrong are refused here."""

from __future__ import annotations

from collections.abc import Iterator

from ps.compression import compressor
from ps.compression.choice import Codecs
from ps.compression.none import Identity
from ps.consistency import Consistency, Gather
from ps.errors import ConfigError
from ps.optim import OPTIMIZERS, WRAPPERS, Optimizer, Wrapper
from ps.plugins import parse_spec

AUTO = "auto"  # what a batch of parameters travels with is decided when it is registered: ps.compression.auto


def chosen(both: str | None, push: str | None, pull: str | None, rule: Optimizer, model: Consistency) -> Codecs:
    """The codecs of a run. `both` holds for a direction that is not given, for pulls only where that is safe; None is
    what the optimizer implies.

    Raises: ConfigError for a codec that is wrong with this optimizer or model, with the reason.
    """
    for name, spec in (("push_compression", push), ("pull_compression", pull)):
        if spec == AUTO:
            raise ConfigError(
                f"{name}: expected a codec, got 'auto', which decides for both directions: say compression"
            )
    per_clock = isinstance(model.commit(1), Gather) and model.cadence.push_every == 1
    if rule.PER_CLOCK and not (per_clock and model.cadence.carries == "gradient"):
        raise ConfigError(f"optimizer: {next(_names(rule))} counts commits as clocks: use it under bsp or quorum")
    both = rule.IMPLIES.format(**vars(rule)) if both is None else both
    codecs = Codecs(push or both, pull or both)
    if why := wrong_push(codecs.push, rule, model):
        raise ConfigError(f"{'push_compression' if push else 'compression'}: {why}")
    if why := wrong_pull(codecs.pull, rule):
        if pull:
            raise ConfigError(f"pull_compression: {why}")
        return Codecs(codecs.push)
    return codecs


def wrong_push(spec: str, rule: Optimizer, model: Consistency) -> str | None:
    """Why gradients must not be encoded so in this run."""
    codec, name = compressor(spec), parse_spec(spec)[0]
    if isinstance(codec, Identity):
        return None
    for optimizer in _names(rule):
        if optimizer in codec.REFUSES:
            return f"{name} is wrong with optimizer {optimizer}: {codec.REFUSES[optimizer]}"
    if model.cadence.carries not in codec.CARRIES:
        return f"{name} is wrong where workers push the outcome of several steps, a {model.cadence.carries}"
    return None


def wrong_pull(spec: str, rule: Optimizer) -> str | None:
    """Why values must not be encoded so in this run."""
    codec, name = compressor(spec), parse_spec(spec)[0]
    if isinstance(codec, Identity):
        return None
    if codec.PULLS is not None:
        return f"{name} cannot encode values: {codec.PULLS}"
    if rule.needs_base:
        return "expected none: this optimizer compares with what each worker was sent, and keeps it uncompressed"
    return None


def _names(rule: Optimizer) -> Iterator[str]:
    """The names in a chain of optimizers, the outermost first."""
    tables = {kind: name for table in (OPTIMIZERS, WRAPPERS) for name, kind in table.items()}
    while True:
        yield tables.get(type(rule), type(rule).__name__)
        if not isinstance(rule, Wrapper):
            return
        rule = rule.inner
