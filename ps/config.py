"""Every knob of a run, checked once, told by the controller to everybody: workers are never configured apart."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ps.compression.choice import Codecs
from ps.compression.rules import AUTO, chosen, wrong_pull, wrong_push
from ps.consistency import Consistency, consistency
from ps.errors import ConfigError
from ps.keyspace import SLICE_ELEMENTS_MAX, SLICE_ELEMENTS_MIN, Options
from ps.optim import optimizer, schedule
from ps.optim.base import Optimizer
from ps.optim.schedules import Schedule
from ps.plugins import describe
from ps.stragglers import slowdowns

SliceElements = Annotated[int, Field(ge=SLICE_ELEMENTS_MIN, le=SLICE_ELEMENTS_MAX)]
OPTIMIZER = "sgd:lr=0.1"  # of a run that names none, whose script asks for none


class ParameterRule(BaseModel, frozen=True, extra="forbid"):
    """What holds for the parameters whose names match a pattern, `*.bias`; a field that is None changes nothing."""

    match: str  # of shells: * ? [a-z]; upper and lower case differ
    push_compression: str | None = None
    pull_compression: str | None = None
    lr_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    frozen: bool | None = None
    slice_elements: SliceElements | None = None

    def changes(self) -> dict[str, Any]:
        """The fields of Options that it sets."""
        return self.model_dump(exclude={"match"}, exclude_none=True)


class RunConfig(BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="strings"):
    """One run. The same names are keywords of LocalCluster, flags and TOML keys."""

    servers: Annotated[int, Field(ge=1, le=4096)] = 1  # shards
    workers: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    consistency: str = "bsp"
    optimizer: str | None = None  # None: what the script asks for at its first `register`, else sgd:lr=0.1
    schedule: str = "constant"
    parameters: tuple[ParameterRule, ...] = ()  # where several match, the last one that sets a field
    slice_elements: SliceElements = SLICE_ELEMENTS_MAX  # what a parameter is cut into; see ps.keyspace.Options
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # of a worker's whole gradient, before error feedback
    clip_value: Annotated[float, Field(gt=0)] | None = None  # of each element, on the server at commit
    compression: str | None = None  # codec of both directions, as far as each is safe; None: as the optimizer implies
    push_compression: str | None = None  # of gradients; None: as `compression`
    pull_compression: str | None = None  # of values; None: as `compression`, where safe
    on_worker_loss: Literal["wait", "drop"] = "drop"
    epoch_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # a data epoch ends when this share of workers is through
    seed: Annotated[int, Field(ge=0)] | None = None
    compute_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # a step is made to compute so long
    stragglers: str | None = None  # who is slowed, and when; of `compute_s`, or of what a step takes
    timeout_s: Annotated[float, Field(gt=0)] = 60.0  # default deadline of every call
    resend_s: Annotated[float, Field(gt=0)] = 1.0  # unanswered messages are sent again after this, then ever later
    lease_s: Annotated[float, Field(gt=0)] = float("inf")  # a worker without progress for so long is lost
    restart_s: Annotated[float, Field(gt=0)] = 60.0  # on_worker_loss=wait: a lost worker must be back after this
    inflight_clocks: Annotated[int, Field(ge=1)] = 2  # clocks whose frames a worker keeps until their verdict
    trace: bool = False  # workers and servers keep their last spans, for `psctl trace`

    @classmethod
    def check(cls, options: dict[str, Any]) -> RunConfig:
        """A config whose plug-ins exist too. Raises: ConfigError naming field, expected, got."""
        known = set(cls.model_fields)
        for name in options:
            if name not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(sorted(known))}, got an unknown option")
        try:
            config = cls(**options)
        except ValidationError as error:
            raise ConfigError(describe(error)) from None
        config.model(), config.rule(), config.rates(), config.codecs()
        slow = slowdowns(config.stragglers)
        if config.compute_s is None and any(part.hastens for part in slow.parts):
            raise ConfigError(
                f"stragglers: expected compute_s beside {config.stragglers}, whose steps may take less time than what "
                "they compute, got none"
            )
        return config._with_checked_rules()

    def model(self) -> Consistency:
        """The consistency model."""
        return consistency(self.consistency)

    def rule(self) -> Optimizer:
        """The server optimizer. Raises: ConfigError for one that would change the moves of an elastic model."""
        spec = self.optimizer or OPTIMIZER
        rule = optimizer(spec)
        if self.model().cadence.elastic is not None and rule.TAKES != "sum":
            raise ConfigError(f"optimizer: expected add, as {self.consistency} sends moves, got {spec}")
        return rule

    @property
    def optimizer_in_words(self) -> str:
        """For a person, before a script has asked for anything."""
        return self.optimizer or f"{OPTIMIZER} or the script's own optimizer"

    def with_optimizer(self, spec: str) -> RunConfig:
        """This run with the server optimizer that its script asks for.

        Raises: ConfigError when the run has named another one itself, or `spec` does not go with the rest of it.
        """
        if self.optimizer is not None and self.rule() != optimizer(spec):
            raise ConfigError(
                f"optimizer: expected {spec} as the script brings it, or none named by the run, got "
                f"{self.optimizer}; leave it out"
            )
        config = self.model_copy(update={"optimizer": spec})
        if config.codecs() != self.codecs():
            raise ConfigError(f"optimizer: {spec} implies a compression: expected it named by the run, got it later")
        return config._with_checked_rules()

    def _with_checked_rules(self) -> RunConfig:
        """Itself. Raises: ConfigError for a rule of `parameters` that does not go with the rest."""
        for rule in self.parameters:
            self.options_of("", Options(**rule.changes()))
        return self

    def rates(self) -> Schedule:
        """The learning-rate schedule."""
        return schedule(self.schedule)

    def codecs(self) -> Codecs:
        """The codecs of both directions. Raises: ConfigError for a combination that is known to be wrong."""
        both = "none" if self.compression == AUTO else self.compression  # until a batch is registered
        return chosen(both, self.push_compression, self.pull_compression, self.rule(), self.model())

    def options_of(self, name: str, given: Options) -> Options:
        """The options of one parameter: what the script gives, and over it what the run says of its name.

        Raises: ConfigError for a codec that does not exist, or is wrong in this run.
        """
        given = replace(given, slice_elements=min(given.slice_elements, self.slice_elements))
        for rule in self.parameters:
            if fnmatchcase(name, rule.match):
                given = replace(given, **rule.changes())
        where = f"parameter {name!r}: " if name else "parameters: "
        push, pull = given.push_compression, given.pull_compression
        if push is not None and (why := wrong_push(push, self.rule(), self.model())):
            raise ConfigError(f"{where}push_compression: {why}")
        if pull is not None and (why := wrong_pull(pull, self.rule())):
            raise ConfigError(f"{where}pull_compression: {why}")
        return given

    @property
    def keep_versions(self) -> bool:
        """Shards keep the version that a worker coming back may have to read again."""
        return self.on_worker_loss == "wait"


SPELLED = tuple(name for name in RunConfig.model_fields if name != "parameters")  # flags and variables; it is a table
