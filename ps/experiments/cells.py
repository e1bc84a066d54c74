"""An experiment becomes cells: each one run, with nothing left open."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ps.colocated import counted, is_colocated
from ps.config import SPELLED, RunConfig
from ps.errors import ConfigError
from ps.experiments.files import Arm, Experiment, Fault, Launch, Links, Setting, World
from ps.launch.options import look_beside, rules_of
from ps.launch.rules import StopAfter
from ps.plugins import describe

Phase = Literal["tune", "final"]
Settings = dict[str, Setting]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LINKS = ("rate_mbit", "delay_ms")  # settings that change the links
_SHOWN = 4  # arms in an error
_OWN = "seed"  # {seed} needs no setting
_DIGITS = 12  # of a number in the name of an arm
_SIZE = "workers"  # the one option that reaches ranks


class Cell(BaseModel):
    """One run. Two cells with equal `id` are the same run."""

    model_config = ConfigDict(frozen=True)

    id: str  # digest of all that follows
    arm: str
    phase: Phase
    seed: int
    settings: Settings  # what tells it from others: of grid, compare and tune
    tuned: Settings  # those of tune
    world: World
    launch: Launch
    script: str  # an absolute path
    script_sha256: str  # of what is in it
    args: list[str]
    options: dict[str, Any]  # of `psctl run`
    stop_after: str | None
    stop_when: str | None
    patience: str | None
    max_restarts: int
    links: Links
    faults: list[Fault]
    timeout_s: float

    @property
    def config(self) -> RunConfig:
        """The run's config, but for a number of servers that is a word."""
        return RunConfig.check(counted(self.options))

    @property
    def hosts(self) -> dict[str, str]:
        """Which host each worker and server is on: worker:0 -> h1."""
        config = self.config
        found = {f"worker:{rank}": f"h{rank + 1}" for rank in range(config.workers)}
        first = 0 if is_colocated(self.options) else config.workers
        return found | {f"server:{shard}": f"h{first + shard + 1}" for shard in range(config.servers)}


def arms(experiment: Experiment) -> dict[str, tuple[Arm, Settings]]:
    """By name: what is compared. Grids multiply what `compare` lists."""
    found: dict[str, tuple[Arm, Settings]] = {}
    varied = {name for name, values in experiment.grid.items() if len(values) > 1}
    for arm in experiment.compare or [Arm.model_validate({"name": ""})]:
        for settings in product(experiment.grid):
            said = [arm.name, *(spelled(name, value) for name, value in settings.items() if name in varied)]
            name = ", ".join(filter(None, said)) or experiment.name
            if name in found:
                raise ConfigError(f"grid: expected values that tell arms apart, got two arms called {name!r}")
            found[name] = (arm, arm.settings | settings)
    return found


def tuned_by(experiment: Experiment) -> dict[str, str]:
    """By arm: the one whose tuning it takes, itself unless `tune.at` says where arms are tuned."""
    at = experiment.tune.at if experiment.tune is not None else {}
    known = arms(experiment)
    names = {(arm.name, frozenset(settings.items())): name for name, (arm, settings) in known.items()}
    return {name: names[arm.name, frozenset((settings | at).items())] for name, (arm, settings) in known.items()}


def matching(experiment: Experiment, pattern: str) -> list[str]:
    """The arms whose names match, as file names do. Raises: ConfigError with some names, when none does."""
    known = list(arms(experiment))
    found = fnmatch.filter(known, pattern)
    if not found:
        some = "; ".join(known[:_SHOWN]) + (f"; ... ({len(known)} in all)" if len(known) > _SHOWN else "")
        raise ConfigError(f"--only: expected a pattern such as '*onebit*' that fits some of {some}, got {pattern!r}")
    return found


def tuning_cells(experiment: Experiment, folder: Path, names: Sequence[str] | None = None) -> list[Cell]:
    """What has to run before each arm (of those named) knows its settings; none without [tune]."""
    if experiment.tune is None:
        return []
    known = arms(experiment)
    return [
        make_cell(experiment, folder, name, *known[name], settings, "tune", seed)
        for name in _tuned(experiment, names)
        for settings in product(experiment.tune.grid)
        for seed in experiment.tune.seeds
    ]


def final_cells(experiment: Experiment, folder: Path, chosen: Mapping[str, Settings]) -> list[Cell]:
    """What is reported, seed by seed: a sweep that is broken off has had all arms on the first ones.

    chosen: by arm, the settings that tuning has found, {} without [tune].
    """
    known = arms(experiment)
    return [
        make_cell(experiment, folder, name, *known[name], tuned, "final", seed)
        for seed in experiment.seeds
        for name, tuned in chosen.items()
    ]


def check_cells(experiment: Experiment, folder: Path) -> None:
    """Makes every cell that may run once. Raises: ConfigError naming the arm and field."""
    tuning_cells(experiment, folder)
    untuned_cells(experiment, folder)


def count_cells(experiment: Experiment, names: Sequence[str] | None = None) -> int:
    """That a sweep of all arms, or of those named, runs."""
    tune = experiment.tune
    each = 0 if tune is None else len(list(product(tune.grid))) * len(tune.seeds)
    final = len(arms(experiment)) if names is None else len(names)
    return len(_tuned(experiment, names)) * each + final * len(experiment.seeds)


def _tuned(experiment: Experiment, names: Sequence[str] | None) -> list[str]:
    by = tuned_by(experiment)
    return list(dict.fromkeys(by[name] for name in (by if names is None else names)))


def untuned_cells(experiment: Experiment, folder: Path) -> list[Cell]:
    """As `final_cells`, before anything was tuned: with the first setting of the tuning grid."""
    first = next(product(experiment.tune.grid)) if experiment.tune is not None else {}
    return final_cells(experiment, folder, dict.fromkeys(arms(experiment), first))


def worlds(experiment: Experiment) -> set[World]:
    """Where its cells run, those of tuning too."""
    found: set[World] = {experiment.world}
    if (tune := experiment.tune) is not None:
        found |= {_world_to_tune_in(tune.world or experiment.world, arm) for arm, _ in arms(experiment).values()}
    return found


def product(grid: Mapping[str, list[Setting]]) -> Iterator[Settings]:
    """Every choice of one value each; one empty choice of nothing."""
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def spelled(name: str, value: Setting) -> str:
    """Of a setting, in the name of an arm: a text speaks for itself, a number does not."""
    if isinstance(value, str):
        return value
    return f"{name}={value}" if isinstance(value, bool) else f"{name}={value:.{_DIGITS}g}"


def make_cell(
    experiment: Experiment, folder: Path, name: str, arm: Arm, own: Settings, tuned: Settings, phase: Phase, seed: int
) -> Cell:
    """One run of an arm of this name and settings. Raises: ConfigError naming the arm and what is impossible in it."""
    try:
        script = _existing(folder / (arm.script or experiment.script))
        cell = _filled(experiment, script, name, arm, own, tuned, phase, seed)
        _check(cell)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return cell


def is_of(cell: Cell, experiment: Experiment) -> bool:
    """Whether the experiment, as it is now, may run this cell. Nothing is looked for on this machine."""
    arm, own = arms(experiment).get(cell.arm, (None, {}))
    tune = experiment.tune
    tuned = [{}] if tune is None else list(product(tune.grid))
    seeds = experiment.seeds if cell.phase == "final" else tune.seeds if tune is not None else []
    if arm is None or cell.seed not in seeds or cell.tuned not in tuned:
        return False
    if cell.phase == "tune" and tune is not None and any(own[name] != value for name, value in tune.at.items()):
        return False  # another arm is tuned for it
    if Path(cell.script).name != Path(arm.script or experiment.script).name:
        return False
    try:
        made = _filled(
            experiment, (cell.script, cell.script_sha256), cell.arm, arm, own, cell.tuned, cell.phase, cell.seed
        )
    except ConfigError:
        return False
    return made.model_dump(exclude={"id"}) == cell.model_dump(exclude={"id"})


def _filled(
    experiment: Experiment,
    script: tuple[str, str],
    name: str,
    arm: Arm,
    own: Settings,
    tuned: Settings,
    phase: Phase,
    seed: int,
) -> Cell:
    settings = own | tuned
    world, after, when = experiment.world, experiment.stop_after, experiment.stop_when
    if phase == "tune" and (tune := experiment.tune) is not None:
        world, after, when = _world_to_tune_in(tune.world or world, arm), tune.stop_after or after, tune.stop_when
    known = {**settings, _OWN: seed}
    fill = _Filler(known)
    run = {**experiment.run, **{key: value for key, value in settings.items() if key in SPELLED}}
    options = fill.all(run, "run")
    if arm.launch == "ranks":
        fill = _Filler(known)  # of the options they use the number of workers alone
        fill.text(run.get(_SIZE), f"run.{_SIZE}")
    if experiment.max_restarts:
        options.setdefault("on_worker_loss", "wait")  # as `psctl run --max-restarts`
    args = experiment.args if arm.args is None else arm.args
    links = _linked(experiment.links, settings)
    if phase == "tune" and arm.launch == "ranks" and world == "processes":
        links = Links()  # they have none there
    made = {
        "arm": name,
        "phase": phase,
        "seed": seed,
        "settings": settings,
        "tuned": tuned,
        "world": world,
        "launch": arm.launch,
        "script": script[0],
        "script_sha256": script[1],
        "args": [fill.text(part, "args") for part in args],
        "options": {**options, "seed": seed},
        "stop_after": fill.text(after, "stop_after"),
        "stop_when": fill.text(when, "stop_when"),
        "patience": fill.text(experiment.patience, "patience"),
        "max_restarts": experiment.max_restarts,
        "links": links.filled().model_dump(),
        "faults": [fault.model_dump() for fault in experiment.faults],
        "timeout_s": experiment.timeout_s,
    }
    _check_used(arm.launch, set(settings) - fill.used)
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]
    return Cell(id=digest, **made)


def _check_used(launch: Launch, unnamed: set[str]) -> None:
    """Of the settings those that stand nowhere in braces. Raises: ConfigError for one that is no option, no link."""
    unused = unnamed - set(_LINKS) - ({_SIZE} if launch == "ranks" else set(SPELLED))
    if not unused:
        return
    name = min(unused)
    if launch == "ranks":
        raise ConfigError(
            f"{name}: expected workers, rate_mbit, delay_ms, or a name that args of ranks hold as {{{name}}}, got "
            "a setting that changes nothing for them; let args hold it, or give it to other arms under [[compare]]"
        )
    raise ConfigError(
        f"{name}: expected a run option, rate_mbit, delay_ms, or a name that args or an option hold as "
        f"{{{name}}}, got a setting that changes nothing"
    )


def _linked(links: Links, settings: Settings) -> Links:
    """With what the settings change of them. Raises: ConfigError naming the setting."""
    own = {key: settings[key] for key in _LINKS if key in settings}
    try:
        Links.model_validate(own)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None
    return links.model_copy(update=own)


def _world_to_tune_in(world: World, arm: Arm) -> World:
    """Ranks need processes."""
    return "processes" if world == "virtual" and arm.launch == "ranks" else world


class _Filler:
    """Puts settings where {name} stands."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._settings = settings
        self.used: set[str] = set()

    def text(self, text: Any, where: str) -> Any:
        """Anything that is no text stays as it is. Raises: ConfigError naming a setting that there is none of."""
        if not isinstance(text, str):
            return text

        def value(found: re.Match[str]) -> str:
            if found[1] not in self._settings:
                known = ", ".join(sorted(self._settings))
                raise ConfigError(f"{where}: expected one of the settings {known} in braces, got {found[0]}")
            self.used.add(found[1])
            return str(self._settings[found[1]])

        return _PLACEHOLDER.sub(value, text)

    def all(self, options: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Of a table."""
        return {name: self.text(value, f"{where}.{name}") for name, value in options.items()}


def _existing(script: Path) -> tuple[str, str]:
    """Its absolute path, and a digest of what is in it: an edited script makes new cells."""
    if not script.is_file():
        raise ConfigError(f"script: expected a Python file, got {str(script)!r}, which is none")
    return str(script.resolve()), digest_of(script)


def digest_of(script: Path) -> str:
    """Of what is in it."""
    return hashlib.sha256(script.read_bytes()).hexdigest()


def _check(cell: Cell) -> None:
    look_beside(cell.script)
    config = cell.config
    rules = rules_of(cell.stop_after, cell.stop_when, cell.patience)
    if cell.faults and cell.launch == "ranks":
        raise ConfigError("faults: expected none beside launch = ranks, which they cannot reach, got some")
    for fault in cell.faults:
        peer = fault.kill or fault.cut or ""
        if peer not in cell.hosts:
            raise ConfigError(f"faults: expected one of {', '.join(cell.hosts)}, got {peer!r}")
        for rule in rules:
            if isinstance(rule, StopAfter) and rule.unit == "clocks" and fault.clock >= rule.amount:
                last = f"{rule.amount:g}, where stop_after ends the run"
                raise ConfigError(f"faults: expected a clock below {last}, got {fault.clock}")
    for host in cell.links.hosts:
        if host not in cell.hosts.values():
            last = f"h{len(set(cell.hosts.values()))}"
            raise ConfigError(f"links.hosts: expected h1 to {last}, got {host!r}")
    if cell.world == "virtual" and config.stragglers not in (None, "none") and config.compute_s is None:
        raise ConfigError("stragglers: expected compute_s beside them in virtual time, where computing takes none")
    if cell.world == "processes" and cell.launch == "ranks" and cell.links != Links():
        raise ConfigError(
            "links: expected world = netlab for launch = ranks, whose transport is their own, got processes; "
            "their bytes cannot be held back there"
        )
    if cell.world == "netlab" and any(link.delay_ms != cell.links.delay_ms for link in cell.links.hosts.values()):
        raise ConfigError("links.hosts: expected the delay_ms of all hosts in world = netlab, got another one")
    if cell.world == "processes" and any(fault.cut for fault in cell.faults):
        raise ConfigError("faults: expected kill, or world = virtual or netlab, where hosts can be cut, got cut")
    if cell.world == "virtual" and cell.launch == "ranks":
        raise ConfigError("launch: expected world = processes or netlab for ranks, got virtual")
