"""What one step of a script is made of, measured once: a file that simulations without payload read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.keyspace import Keyspace, Parameter
from ps.plugins import describe
from ps.sim.network import Network
from ps.sim.scale import Profile
from ps.stragglers import slowdowns

VERSION = 3
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A table of the file. A key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tensor(Part):
    """A parameter."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    dtype: str = "float32"


class Cost(Part):
    """Seconds, or seconds per byte. low, high: 5th and 95th percentile."""

    median: NonNegative
    low: NonNegative
    high: NonNegative

    @classmethod
    def of(cls, values: Sequence[float]) -> Cost:
        """Of one or more measured values; those below zero, of differences, count as zero."""
        low, median, high = np.percentile(np.maximum(values, 0.0), (5, 50, 95)).tolist()
        return cls(median=median, low=low, high=high)


FREE = Cost(median=0.0, low=0.0, high=0.0)


class Costs(Part):
    """What work costs: fields of `ps.sim.network.Network`; see there what each stands for."""

    encode_s_per_byte: Cost = FREE
    decode_s_per_byte: Cost = FREE
    apply_s_per_byte: Cost = FREE
    worker_message_s: Cost = FREE
    server_message_s: Cost = FREE

    def on(self, network: Network) -> Network:
        """The network, and on it the medians."""
        return replace(
            network,
            encode_s_per_byte=self.encode_s_per_byte.median,
            decode_s_per_byte=self.decode_s_per_byte.median,
            apply_s_per_byte=self.apply_s_per_byte.median,
            worker_message_s=self.worker_message_s.median,
            server_message_s=self.server_message_s.median,
        )


class Check(Part):
    """A step of two workers with one server, which no figure was taken from: as it was, and as it is predicted."""

    measured_s: NonNegative
    predicted_s: NonNegative

    @property
    def error(self) -> float:
        """How far the prediction is off, as a part of what was measured."""
        return abs(self.predicted_s / self.measured_s - 1) if self.measured_s else 0.0


class Codec(Part):
    """The three options of the run that say how pushes and pulls travel."""

    compression: str = "none"
    push_compression: str | None = None
    pull_compression: str | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Codec:
        """Of a run."""
        named = config.compression or config.codecs().push
        return cls(
            compression=named, push_compression=config.push_compression, pull_compression=config.pull_compression
        )

    def __str__(self) -> str:
        both = ((self.push_compression, "push"), (self.pull_compression, "pull"))
        return ", ".join([self.compression, *(f"{way} {spec}" for spec, way in both if spec is not None)])


class Measured(Part):
    """A profile. compute_s: seconds that each measured step computed, the fastest first: one that was slow is as rare
    in what is predicted as it was.

    push_share, pull_share: of the bytes of the values those that travel in a step. optimizer: what the script brings
    for the servers; empty: nothing. check: None where it was not measured.
    """

    version: Literal[3] = 3
    script: str
    codec: Codec
    parameters: Annotated[list[Tensor], Field(min_length=1)]
    compute_s: Annotated[list[NonNegative], Field(min_length=1)]
    push_share: Share
    pull_share: Share
    optimizer: str = ""
    costs: Costs
    check: Check | None = None

    @property
    def mean_compute_s(self) -> float:
        """Of a step."""
        return fmean(self.compute_s)

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(one.nbytes for one in self.keyspace.slices)

    @property
    def keyspace(self) -> Keyspace:
        """The parameters, cut into slices."""
        made = Keyspace()
        made.extend([Parameter(one.name, tuple(one.shape), one.dtype) for one in self.parameters])
        return made

    def completed(self, config: RunConfig) -> RunConfig:
        """The run with the optimizer that the script brings to it: none where workers step by themselves.

        Raises: ConfigError when it does not go with the rest.
        """
        if not self.optimizer or config.model().cadence.carries == "delta":
            return config
        return config.with_optimizer(self.optimizer)

    def steps(self, config: RunConfig) -> Profile:
        """The steps of this run: `compute_s` where it names one, else drawn from those measured; slowed as it says."""
        return Profile(
            {one.name: tuple(one.shape) for one in self.parameters},
            self._compute(config),
            self.push_share,
            self.pull_share,
            {one.name: one.dtype for one in self.parameters},
        )

    def _compute(self, config: RunConfig) -> Callable[[int, Random], float]:
        slow, clocks = slowdowns(config.stragglers, config.seed or 0), [0] * config.workers

        def compute(rank: int, random: Random) -> float:
            drawn = random.choice(self.compute_s) if config.compute_s is None else config.compute_s
            clocks[rank] += 1
            return drawn * slow.of(rank, config.workers, clocks[rank] - 1)

        return compute


def write_profile(profile: Measured, path: Path) -> None:
    """Raises: ConfigError when the file cannot be written."""
    try:
        path.write_text(json.dumps(profile.model_dump(), indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def read_profile(path: Path) -> Measured:
    """Raises: ConfigError naming the file and the field, or what else is wrong with it."""
    try:
        plain = json.loads(path.read_bytes())
        if not isinstance(plain, dict):
            raise ConfigError(f"{path}: expected a profile made by psctl profile, got JSON that is no object")
        if plain.get("version") != VERSION:
            raise ConfigError(
                f"{path}: version: expected {VERSION}, got {plain.get('version')!r}; make it again with psctl profile"
            )
        found = Measured.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: expected a profile made by psctl profile, got {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected JSON made by psctl profile, got none: {error}") from None
    try:
        found.keyspace  # noqa: B018  its parameters make sense together
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found
