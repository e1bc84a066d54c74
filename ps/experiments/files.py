"""Experiment files: what is run, what is varied, what is measured. TOML, checked before anything starts."""

from __future__ import annotations

import math
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ps.config import SPELLED
from ps.errors import ConfigError
from ps.launch.files import no_toml, read_text
from ps.plugins import describe

World = Literal["virtual", "processes", "netlab"]
Launch = Literal["ps", "ranks"]
Setting = str | int | float | bool
Best = Literal["max", "min"]
TCP_SHARE = 1448 / 1514  # of a link: the payload of its frames
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _no_doubles(values: list[Any]) -> list[Any]:
    double = next((value for at, value in enumerate(values) if value in values[:at]), None)
    if double is not None:
        raise ValueError(f"expected each value once, got {double!r} twice")
    return values


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(min_length=1), AfterValidator(_no_doubles)]
Values = Annotated[list[Setting], Field(min_length=1), AfterValidator(_no_doubles)]
_WORLD = re.compile(r"""(?m)^(\s*world\s*=\s*)("\w*"|'\w*')""")


class Section(BaseModel):
    """A table of the file. A key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Link(Section):
    """The network card of a host: the same both ways."""

    rate_mbit: Positive | None = None  # 10^6 bits per second; None: as fast as it goes
    delay_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # one way, between two hosts

    @property
    def bytes_per_s(self) -> float:
        """What a connection carries; infinity without a rate."""
        return math.inf if self.rate_mbit is None else self.rate_mbit * 1e6 / 8 * TCP_SHARE

    @property
    def delay_s(self) -> float:
        """From the host to the middle of the network: a path has those of both ends."""
        return self.delay_ms / 2e3


class Links(Link):
    """One host per worker (h1, h2, ...), then one per server; `hosts` are those that are not like the others.

    With `servers = "colocated"` server i is on the host of worker i.
    """

    hosts: dict[Annotated[str, Field(pattern=r"^h[1-9]\d*$")], Link] = {}

    def of(self, host: str) -> Link:
        """The link of a host, such as h3: what its own table does not say is as for all."""
        own, common = self.hosts.get(host, Link()), Link(rate_mbit=self.rate_mbit, delay_ms=self.delay_ms)
        return common.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    def filled(self) -> Links:
        """The same, with everything said of each host that has a table."""
        hosts = {host: self.of(host) for host in self.hosts}
        return Links(rate_mbit=self.rate_mbit, delay_ms=self.delay_ms, hosts=hosts)


class Fault(Section):
    """What happens to a worker or server once every worker has finished `clock` clocks: it is killed, or cut off for a
    while; on netlab its host is."""

    clock: Annotated[int, Field(ge=0)]
    kill: Annotated[str, Field(pattern=r"^(worker|server):\d+$")] | None = None
    cut: Annotated[str, Field(pattern=r"^(worker|server):\d+$")] | None = None
    seconds: Positive | None = None  # of a cut

    @property
    def killed(self) -> str:
        """The process that is killed, as runs call it: "worker 1"; empty for a cut."""
        return (self.kill or "").replace(":", " ")

    @property
    def words(self) -> str:
        """What happens, and when."""
        what = f"kill {self.kill}" if self.cut is None else f"cut {self.cut} for {self.seconds:g} s"
        return f"{what} at clock {self.clock}"

    @model_validator(mode="after")
    def _one_thing(self) -> Fault:
        if (self.kill is None) == (self.cut is None):
            raise ValueError("faults: expected kill = PEER or cut = PEER, got both or none")
        if (self.cut is None) != (self.seconds is None):
            raise ValueError("faults: expected seconds with cut, and only there")
        return self


class Tune(Section):
    """Settings that each arm chooses for itself, all from one grid: by the best value of a *validation* metric."""

    metric: str
    best: Best
    seeds: Seeds = [101]
    grid: Annotated[dict[str, Values], Field(min_length=1)]
    stop_after: str | None = None  # of a run that tunes, instead of the experiment's own
    stop_when: str | None = None
    world: World | None = None  # where runs that tune take place, if it is not the experiment's; ranks stay processes
    at: dict[str, Setting] = {}  # of the experiment's grid: arms that differ in these alone are tuned once, there


class Report(Section):
    """What the experiment is about: a logged metric, and the value that counts as reached."""

    metric: str
    best: Best
    target: float | None = None


class Arm(BaseModel):
    """One way to train, under a name. What is none of these fields is a setting."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Setting]

    name: str
    script: str | None = None
    args: list[str] | None = None
    launch: Launch = "ps"  # ranks: `workers` processes with the variables of torch.distributed, and no cluster of ours

    @property
    def settings(self) -> dict[str, Setting]:
        """By name."""
        return dict(self.__pydantic_extra__ or {})


class Experiment(Section):
    """A whole file. Paths are taken from the file's folder."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    description: str = ""
    script: str
    args: list[str] = []  # {name} is the setting of that name
    world: World = "virtual"
    seeds: Seeds = [0]
    timeout_s: Positive = 3600.0  # of this machine's clock, for one cell
    run: dict[str, Any] = {}  # options of `psctl run`, spelled as there; {name} is a setting
    stop_after: str | None = None
    stop_when: str | None = None
    patience: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 0  # of each worker that dies
    links: Links = Links()
    faults: list[Fault] = []
    grid: dict[str, Values] = {}
    compare: list[Arm] = []
    tune: Tune | None = None
    report: Report

    @model_validator(mode="after")
    def _settings_are_told_apart(self) -> Experiment:
        for name in self.run:
            if name == "seed" or name not in (*SPELLED, "parameters"):
                known = [option for option in SPELLED if option != "seed"]
                near = get_close_matches(name, known, 1)
                meant = f"{near[0]}, or another" if near else "one"
                hint = "it is each of `seeds`" if name == "seed" else f"expected {meant} of {', '.join(known)}"
                raise ValueError(f"run.{name}: {hint}, got an unknown option")
        if self.tune is not None and (both := set(self.tune.seeds) & set(self.seeds)):
            raise ValueError(f"tune.seeds: expected seeds that are not among `seeds`, got {min(both)} in both")
        if self.tune is not None and self.tune.metric == self.report.metric:
            raise ValueError(f"tune.metric: expected a validation metric, got {self.tune.metric}, which is reported")
        tuned = self.tune.grid if self.tune is not None else {}
        named = {"grid": list(self.grid), "tune.grid": list(tuned)}
        for where, names in (named | {f"compare: {arm.name}": list(arm.settings) for arm in self.compare}).items():
            if "seed" in names:
                raise ValueError(f"{where}: seed: it is each of `seeds`, expected no setting of that name, got one")
        for name in tuned:
            if name in self.grid:
                raise ValueError(f"tune.grid.{name}: expected a setting that grid does not vary, got one of both")
        for name, value in (self.tune.at if self.tune is not None else {}).items():
            if value not in self.grid.get(name, []):
                values = ", ".join(map(repr, self.grid.get(name, []))) or "none there"
                raise ValueError(f"tune.at.{name}: expected a value of grid.{name} ({values}), got {value!r}")
        names = [arm.name for arm in self.compare]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"compare: expected arms of different names, got {name!r} twice")
        for arm in self.compare:
            for name in arm.settings:
                if name in self.grid or name in tuned:
                    raise ValueError(f"compare: {arm.name}: {name}: expected a setting that no grid varies, got one")
        return self


def read_experiment(path: Path) -> Experiment:
    """The experiment of a file. Raises: ConfigError naming file and field, or the line where it is no TOML."""
    return parse_experiment(path, read_text(str(path)))


def in_virtual_time(path: Path, source: str) -> str:
    """The text of an experiment file with world = "virtual" wherever it says another world.

    Raises: ConfigError where that cannot be told from the text, or the experiment makes no sense there.
    """
    changed = _WORLD.sub(r'\1"virtual"', source)
    experiment = parse_experiment(path, changed)
    if experiment.world != "virtual" or (
        experiment.tune is not None and experiment.tune.world not in (None, "virtual")
    ):
        raise ConfigError(f'{path}: world: expected lines of their own such as world = "netlab", got another spelling')
    return changed


def parse_experiment(path: Path, source: str) -> Experiment:
    """As `read_experiment`, of a text that the file at `path` holds, or would."""
    try:
        return Experiment.model_validate(tomllib.loads(source))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(no_toml(str(path), source, str(error))) from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {_with_known_fields(describe(error), error)}") from None


def _with_known_fields(words: str, error: ValidationError) -> str:
    """pydantic names an unknown key, and not what would be one."""
    extra = [item["loc"] for item in error.errors() if item["type"] == "extra_forbidden"]
    if not extra:
        return words
    loc = extra[0]
    tables: dict[str, type[Section]] = {"links": Links, "faults": Fault, "tune": Tune, "report": Report}
    table = tables.get(str(loc[0]), Experiment) if len(loc) > 1 else Experiment
    field, known = ".".join(map(str, loc)), sorted(table.model_fields)
    near = get_close_matches(str(loc[-1]), known, 1)
    return f"{field}: expected {f'{near[0]}, or another' if near else 'one'} of {', '.join(known)}, got an unknown key"


def schema() -> dict[str, Any]:
    """The JSON Schema of experiment files, for editors."""
    return Experiment.model_json_schema()
