"""What a run is asked to be, and the environments of its processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from ps.colocated import counted, is_colocated
from ps.config import SPELLED, RunConfig
from ps.errors import ConfigError
from ps.key import VARIABLE, Key, key_in
from ps.launch.figures import FIGURES_S
from ps.launch.rules import Rule, patience, stop_after, stop_when
from ps.launch.save import check_target
from ps.launch.sinks import LOG_TO, Sink, sinks_of
from ps.launch.supervisor import GRACE_S, Supervisor
from ps.record.entries import new_folder

LOG_DIR = "ps-logs"
# ours to set
_OURS = ("CONTROLLER", "JOB", "RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE", "ROLE", "SHARD", "KEY", "FIGURES_S", "LINKS")


@dataclass(frozen=True)
class Place:
    """Where a process is started: by a command of its host's, which its own follows; where it listens there; and what
    its environment says of the place."""

    command: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    env: Mapping[str, str] = field(default_factory=dict)


class Deed(NamedTuple):
    """A fault that a run is to have: when all workers have finished so many clocks."""

    clock: int
    words: str
    do: Callable[[Supervisor], None]


@dataclass(frozen=True)
class RunOptions:
    """The flags of `psctl run`, unchecked; `config` holds those of RunConfig that were given.

    places: which of all these a file has given, and its line: name -> "FILE:LINE".
    """

    script: str
    args: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    save: str | None = None
    record: str | None = None  # a new folder
    stop_after: str | None = None
    stop_when: str | None = None
    patience: str | None = None
    evaluator: str | None = None
    max_restarts: int = 0  # of each worker
    log_dir: str = LOG_DIR
    log_to: str = LOG_TO
    quiet: bool = False
    key: str | None = None
    grace_s: float = GRACE_S  # from SIGTERM to SIGKILL
    figures_s: float = FIGURES_S  # between two reports of our own figures
    faults: tuple[Deed, ...] = ()  # for experiments
    place: Callable[[str], Place] = lambda name: Place()  # for experiments: of a process; "controller" is this one
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_colocated(self) -> bool:
        """One server beside each worker, reached without the network."""
        return is_colocated(self.config)

    def check(self) -> tuple[RunConfig, list[Rule]]:
        """The run's config and its stop rules. Raises: ConfigError naming the flag, or the line of the file."""
        with naming_lines(self.places):
            return self._checked()

    def read_key(self) -> Key | None:
        """Raises: ConfigError naming the flag, or the line of the file."""
        with naming_lines(self.places):
            return key_in(self.key)

    def make_record(self) -> None:
        """Makes the folder of the recording, if there is to be one. Raises: as `read_key`."""
        if self.record is not None:
            with naming_lines(self.places):
                new_folder("--record", Path(self.record))

    def make_sinks(self) -> dict[str, Sink]:
        """Raises: ConfigError naming the flag, or the line of the file."""
        with naming_lines(self.places):
            return sinks_of(self.log_to)

    def _checked(self) -> tuple[RunConfig, list[Rule]]:
        check_script("SCRIPT", self.script)
        if self.evaluator is not None:
            check_script("--evaluator", self.evaluator)
        if self.max_restarts < 0:
            raise ConfigError(f"--max-restarts: expected a number >= 0, got {self.max_restarts}")
        if self.save is not None:
            check_target(self.save)
        config = dict(self.config)
        if self.max_restarts and "on_worker_loss" not in config:
            config["on_worker_loss"] = "wait"  # else the others would not wait for the one that is restarted
        rules = rules_of(self.stop_after, self.stop_when, self.patience)
        look_beside(self.script)
        return checked_config(config), rules


def rules_of(after: str | None, when: str | None, patient: str | None) -> list[Rule]:
    """The stop rules that were given. Raises: ConfigError naming the flag."""
    given = ((after, stop_after), (when, stop_when), (patient, patience))
    return [parse(text) for text, parse in given if text is not None]


@contextmanager
def naming_lines(places: Mapping[str, str]) -> Iterator[None]:
    """Errors that begin with the flag of an option that a file has given begin with its line instead."""
    try:
        yield
    except ConfigError as error:
        flag, _, rest = str(error).partition(":")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in places:
            raise ConfigError(f"{places[name]}: {name}:{rest}") from None
        raise


def checked_config(options: dict[str, Any]) -> RunConfig:
    """As RunConfig.check, with the flag's name in the error."""
    try:
        return RunConfig.check(counted(options))
    except ConfigError:
        for name, value in options.items():  # but for `beside`, no option looks at another: one is wrong by itself
            beside = {"compute_s": 0.0} if name == "stragglers" else {}
            _check_alone(name, value, beside)
        raise


def _check_alone(name: str, value: Any, beside: dict[str, Any]) -> None:
    try:
        RunConfig.check(counted({**beside, name: value}))
    except ConfigError as error:
        words = str(error).removeprefix(f"{name}: ")
        raise ConfigError(f"--{name.replace('_', '-')}: {words}") from None


def check_script(what: str, path: str) -> None:
    """Raises: ConfigError unless it is a file that can be read."""
    if not os.path.exists(path):
        near = Path(path).parent
        names = [entry.name for entry in near.iterdir()] if near.is_dir() else []
        meant = get_close_matches(Path(path).name, names, 1, cutoff=0.75)
        hint = f"; did you mean {near / meant[0]}?" if meant else ""
        raise ConfigError(f"{what}: expected a Python file, got {path!r}, which does not exist{hint}")
    if os.path.isdir(path):
        raise ConfigError(f"{what}: expected a Python file, got the folder {path!r}")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{what}: expected a Python file, got {path!r}, which may not be read")


def look_beside(script: str) -> None:
    """The script's folder is where plug-ins of one's own, `package.module:Class`, are looked for, too."""
    folder = str(Path(script).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def ignored_variables(environ: Mapping[str, str]) -> list[str]:
    """Run options in the environment, which a cluster's processes must not see: the controller is the authority."""
    return sorted(name for name in (f"PS_{field.upper()}" for field in SPELLED) if name in environ)


def threads_of(workers: int) -> str:
    """OMP_NUM_THREADS of each worker of this machine, where the user has set none: else each takes all cores."""
    return str(max(1, len(os.sched_getaffinity(0)) // workers))


def cluster_environment(
    environ: Mapping[str, str], controller: str, job: bytes, workers: int, key: Key | None
) -> dict[str, str]:
    """What all processes of the run get; of the key its path."""
    unwanted = {f"PS_{name}" for name in _OURS} | set(ignored_variables(environ))
    env = {name: value for name, value in environ.items() if name not in unwanted}
    env.setdefault("OMP_NUM_THREADS", threads_of(workers))
    named = {} if key is None else {VARIABLE: key.path}
    return {**env, **named, "PYTHONUNBUFFERED": "1", "PS_CONTROLLER": controller, "PS_JOB": job.hex()}


def worker_environment(
    env: Mapping[str, str], rank: int, size: int, local: tuple[int, int] | None = None
) -> dict[str, str]:
    """local: rank and size on this machine; None: all run here. Never RANK or WORLD_SIZE: PyTorch reads those."""
    local_rank, local_size = (rank, size) if local is None else local
    own = {"PS_RANK": rank, "PS_LOCAL_RANK": local_rank, "PS_SIZE": size, "PS_LOCAL_SIZE": local_size}
    return {**env, **{name: str(value) for name, value in own.items()}}


def server_environment(env: Mapping[str, str], shard: int, script: str) -> dict[str, str]:
    """Servers make the same plug-ins as the script, so they look for modules where it does."""
    path = [part for part in (env.get("PYTHONPATH"), str(Path(script).resolve().parent)) if part]
    return {**env, "PS_SHARD": str(shard), "PYTHONPATH": os.pathsep.join(path)}
