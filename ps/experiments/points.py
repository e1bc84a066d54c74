"""What a run has logged becomes rows: one per logged value, with the bytes and commits up to then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ps.errors import ConfigError
from ps.experiments.cells import Cell
from ps.launch.rules import RUN

if TYPE_CHECKING:
    import pyarrow

Axis = Literal["virtual", "emulated", "wall"]
FIGURES_S = 0.5  # between two reports of our own figures: bytes and commits in between are taken to grow evenly
FIGURES = "ps/"  # how the names of our own figures begin
_SUMS = {"pushed_mb": "ps/pushed_mb", "pulled_mb": "ps/pulled_mb", "commits": "ps/commits"}


def axis_of(cell: Cell, links: str) -> Axis:
    """What the seconds of a cell are; they are compared with no others."""
    if cell.world == "virtual":
        return "virtual"
    config = cell.config
    made = config.compute_s is not None or config.stragglers is not None or links != "none"
    return "emulated" if made else "wall"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The logged values of a run.jsonl. Raises: ConfigError."""
    lines = enumerate(path.read_bytes().splitlines(), 1)
    return [row for number, line in lines if (row := logged_row(line, path, number)) is not None]


def logged_row(line: bytes, path: Path, number: int) -> dict[str, Any] | None:
    """One logged value; None for a line that holds none: an event, one that was cut off or that two have written into.
    Raises: ConfigError naming file and line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or "name" not in row:
        return None
    try:
        row["rank"] = RUN if row["rank"] is None else int(row["rank"])
        row |= {"seconds": float(row["time"]), "clock": int(row["clock"]), "value": float(row["value"])}
    except (KeyError, TypeError, ValueError) as error:
        text = line[:80].decode(errors="replace")
        raise ConfigError(
            f"{path}:{number}: expected time, rank, clock, name and value, got {text} ({error!r})"
        ) from None
    return row


def points(cell: Cell, rows: list[dict[str, Any]], axis: Axis, began: float) -> pyarrow.Table:
    """The table of a cell: rows that a script has logged, those of our own figures as columns beside them.

    began: when the first clock was finished: seconds count from there, not from the start of processes.
    """
    import pyarrow as pa

    logged = [row for row in rows if not row["name"].startswith(FIGURES)]
    seconds = np.array([row["seconds"] for row in logged], np.float64)
    same = {
        "cell": cell.id,
        "arm": cell.arm,
        "phase": cell.phase,
        "seed": cell.seed,
        "world": cell.world,
        "axis": axis,
        "settings": json.dumps(cell.settings, sort_keys=True),
    }
    columns: dict[str, Any] = {name: pa.array([value] * len(logged)) for name, value in same.items()}
    columns["seconds"] = pa.array(np.maximum(seconds - began, 0.0))
    columns |= {name: pa.array([row[name] for row in logged], pa.int64()) for name in ("rank", "clock")}
    columns |= {name: pa.array(_at(seconds, rows, figure, began)) for name, figure in _SUMS.items()}
    columns["metric"] = pa.array([row["name"] for row in logged], pa.string())
    columns["value"] = pa.array([row["value"] for row in logged], pa.float64())
    return pa.table(columns)


def write_points(table: pyarrow.Table, environment: Mapping[str, Any], path: Path) -> None:
    """As Parquet, the environment in its metadata under `environment`."""
    import pyarrow.parquet as pq

    pq.write_table(table.replace_schema_metadata({"environment": json.dumps(environment)}), path)


@contextmanager
def wholly_read(path: Path) -> Iterator[None]:
    """Around the reading of a file of points. Raises: ConfigError naming it, in one line, when it is damaged."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        said = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: expected a Parquet file of a sweep, got one that fails with: {said}") from None


def _at(seconds: np.ndarray[Any, Any], rows: list[dict[str, Any]], figure: str, began: float) -> np.ndarray[Any, Any]:
    """The sum of a figure over all ranks at these times, over all lives of each; nan where nobody has told it."""
    told = [row for row in rows if row["name"] == figure]
    if not told:
        return np.full(len(seconds), np.nan)
    total = np.zeros(len(seconds))
    for rank in {row["rank"] for row in told}:
        own = [row for row in told if row["rank"] == rank]
        values = np.array([0.0, *(row["value"] for row in own)])
        lost = np.where(np.diff(values) < 0, values[:-1], 0.0)  # a restarted worker counts from 0
        values[1:] += np.cumsum(lost)
        first = began if began < own[0]["seconds"] else 0.0  # a long first clock is told of before its end
        total += np.interp(seconds, [first, *(row["seconds"] for row in own)], values)
    return total
