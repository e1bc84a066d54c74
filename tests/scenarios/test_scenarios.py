"""Transcripts to read: each file is one story of one shard, event by event, with what it does under each event.

A story starts with `shard MODEL workers=N slices=N`; then one event per line, a word of `Drive` with its arguments
(`push 0 clock=1 number=2 slices=0,1`; what is left out is what an honest worker would say; `now=` sets the time).
Indented lines are the shard's actions. After a wanted change: `PS_UPDATE=1 pytest tests/scenarios`, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.drive import Drive

STORIES = sorted(Path(__file__).parent.glob("*.txt"))
INDENT = " " * 4


def value_of(text: str) -> Any:
    """`2`, `0.5`, `yes`, or `0,1` as a list."""
    if text in ("yes", "no"):
        return text == "yes"
    numbers = [float(part) if "." in part else int(part) for part in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def arguments(words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of an event."""
    named = [word.split("=", 1) for word in words if "=" in word]
    return [value_of(word) for word in words if "=" not in word], {key: value_of(text) for key, text in named}


def told(story: str) -> str:
    """The story with the actions that the shard takes now."""
    drive: Drive | None = None
    lines: list[str] = []
    for line in story.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if not line or line.startswith("#"):
            continue
        word, *rest = line.split()
        if word == "shard":
            model, *sizes = rest
            _, options = arguments(sizes)
            drive = Drive(model, **options)
            continue
        assert drive is not None, "a story starts with its shard"
        given, named = arguments(rest)
        drive.now = named.pop("now", drive.now)
        actions = getattr(drive, word)(*given, **named)
        lines += [INDENT + action for action in actions or ["(nothing)"]]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_written(path: Path) -> None:
    now = told(path.read_text())
    if os.environ.get("PS_UPDATE") == "1":
        path.write_text(now)
    assert now.splitlines() == path.read_text().splitlines(), "wanted? PS_UPDATE=1 rewrites it; read the diff"


def test_there_are_stories() -> None:
    assert len(STORIES) >= 6
