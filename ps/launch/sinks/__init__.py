"""Where logged values go: `--log-to jsonl,tensorboard,wandb,mlflow`."""

from __future__ import annotations

from importlib.util import find_spec

from ps.errors import ConfigError
from ps.launch.sinks.base import Sink, Started
from ps.launch.sinks.jsonl import JsonLines
from ps.launch.sinks.mlflow import MLflow
from ps.launch.sinks.tensorboard import TensorBoard
from ps.launch.sinks.wandb import WandB

SINKS: dict[str, type[Sink]] = {"jsonl": JsonLines, "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
LOG_TO = "jsonl"  # unless --log-to says otherwise


def sinks_of(text: str) -> dict[str, Sink]:
    """The sinks that a text names, not begun. Raises: ConfigError for unknown names, and packages that are missing."""
    made: dict[str, Sink] = {}
    for name in (part.strip() for part in text.split(",")):
        if name not in SINKS:
            raise ConfigError(f"--log-to: expected some of {', '.join(SINKS)}, with commas between them, got {name!r}")
        if name in made:
            raise ConfigError(f"--log-to: expected each name once, got {name!r} twice")
        package = SINKS[name].package
        if package and not _is_installed(package):
            raise ConfigError(
                f"--log-to: {name} needs the package {package}, which is not installed; run pip install "
                f"'paramserver[{name}]'"
            )
        made[name] = SINKS[name]()
    return made


def _is_installed(package: str) -> bool:
    """A folder of this name in the current one is not: wandb leaves such a folder where it runs."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


__all__ = ["LOG_TO", "SINKS", "Sink", "Started", "sinks_of"]
