"""`psctl replay`: a recorded run once more, from its files."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ps.cli.common import one_line
from ps.errors import ConfigError
from ps.launch.save import check_target, write_safetensors
from ps.types import Array

if TYPE_CHECKING:
    from rich.progress import Progress

    from ps.record.replay import Outcome

REPLAY_HELP = """Apply a recorded run once more, without workers, and compare checksums of values and optimizer state.

DIR was made by psctl run --record DIR. Exit code 1 when a server ends otherwise than it did. A recording
whose end is missing (its server was killed, the disk was full) has nothing to compare with: that is said, exit code 0.

With other options the gradients stay as they were recorded, in their order, and meet another server side: an open-loop
replay. What it cannot know: on other values the workers would have computed other gradients. A recording made with
compression none can be replayed with any codec, encoded with error feedback per worker; one that has lost something to
a codec only with that.

\b
Examples:
  psctl run --workers 4 --consistency async --record taped train.py
  psctl replay taped
  psctl replay taped --optimizer momentum:lr=0.05,decay=0.9 --compression onebit --save other.safetensors
"""


def option(metavar: str, help: str) -> Any:
    """A flag that is absent by default, as typer reads it."""
    return typer.Option(None, metavar=metavar, help=help, show_default=False)


@one_line("replay")
def replay(
    folder: str = typer.Argument(..., metavar="DIR", help="A recording.", show_default=False),
    optimizer: str = option("SPEC", "Another server optimizer: adam:lr=0.001, ..."),
    lr: float = option("X", "Another learning rate; 1/live and the schedule multiply it as ever."),
    schedule: str = option("SPEC", "Another schedule of the rate over clocks."),
    compression: str = option("SPEC", "Another codec of both directions, of a recording under none."),
    save: str = option("FILE", "Write the values there (safetensors)."),
) -> int:
    """Replays server after server."""
    from ps.record.reader import recordings  # late: arrays and plug-ins, for which a wrong flag need not wait
    from ps.record.replay import Changes, Replay, final_values, total

    if save is not None:
        check_target(save)
    if os.getcwd() not in sys.path:  # plug-ins of one's own, `package.module:Class`
        sys.path.append(os.getcwd())
    changes = Changes(optimizer, lr, schedule, compression)
    replays = [Replay(recording, changes) for recording in recordings(Path(folder))]
    with _progress() as bar:
        tasks = [bar.add_task(one.recording.path.name, total=one.recording.nbytes) for one in replays]
        outcomes = [
            one.run(lambda done, task=task: bar.update(task, completed=done))  # type: ignore[misc]
            for one, task in zip(replays, tasks, strict=True)
        ]
    for outcome in outcomes:
        print(_in_words(outcome, bool(changes)))
    print(_staleness(outcomes))
    print(f"all servers: checksum {total(replays):08x}")
    if save is not None:
        _save(final_values(replays), save)
    return int(not changes and any(one.recorded is not None and not one.is_equal for one in outcomes))


def _progress() -> Progress:
    """Bytes read of each file, where somebody looks."""
    from rich.console import Console  # 40 ms
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _in_words(outcome: Outcome, changed: bool) -> str:
    what = f"{outcome.records} records, {outcome.commits} commits in {outcome.seconds:.1f} s"
    if outcome.recorded is None:
        ends = f"ends at record {outcome.records}; the rest is missing: the server was killed, or its disk was full"
        return f"server {outcome.shard}: {what}; {ends}; checksum replayed {outcome.replayed:08x}"
    verdict = "equal" if outcome.is_equal else "not equal, as other options make it" if changed else "NOT EQUAL"
    checksums = f"checksum recorded {outcome.recorded:08x}, replayed {outcome.replayed:08x}: {verdict}"
    return f"server {outcome.shard}: {what}; {checksums}"


def _staleness(outcomes: list[Outcome]) -> str:
    """`staleness in commits: 0: 71%, 1 to 2: 20%, 3 to 6: 9%`: each range twice as long as the one before."""
    counts: Counter[int] = sum((one.staleness for one in outcomes), Counter())
    ranges: Counter[int] = Counter()  # bits of the staleness + 1
    for staleness, count in counts.items():
        ranges[(staleness + 1).bit_length()] += count
    parts = []
    for bits, count in sorted(ranges.items()):
        first, last = 2 ** (bits - 1) - 1, 2**bits - 2
        parts.append(f"{first}{'' if first == last else f' to {last}'}: {count / counts.total():.0%}")
    return f"staleness in commits: {', '.join(parts) or 'no commits'}"


def _save(values: Mapping[str, Array], target: str) -> None:
    try:
        write_safetensors(values, Path(target))
    except OSError as error:
        raise ConfigError(f"--save: expected a file that can be written, got {target!r}: {error}") from None


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("replay", help=REPLAY_HELP)(replay)
