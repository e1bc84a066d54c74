"""What the end of a worker's process means."""

from __future__ import annotations

import pytest

from ps.launch.ends import End, Failure, Outcome, blamed, ended, failed, judge
from ps.launch.supervisor import Exit

FAILED, STOPPED = ("worker 1 failed", True), ("--stop-after 600s is reached", False)


def exit_with(code: int, *tail: str, asked: bool = False) -> Exit:
    return Exit("worker 0", code, asked, 0.0, list(tail))


@pytest.mark.parametrize(
    ("code", "state", "outcome", "settled", "end"),
    [
        (0, "done", None, False, End.FINE),
        (0, "done", STOPPED, False, End.FINE),
        (3, "done", None, False, End.BROKEN),
        (3, "done", FAILED, False, End.FINE),  # told by the outcome
        (0, "running", None, False, End.UNCLEAR),
        (0, "running", None, True, End.LOST),
        (3, "running", None, False, End.UNCLEAR),
        (3, "running", None, True, End.LOST),
        (-9, "running", None, False, End.LOST),
        (-9, "expected", None, False, End.LOST),
        (3, "lost", None, False, End.LOST),  # the controller has seen its stream end
        (0, "expected", None, False, End.BROKEN),
        (3, "expected", None, False, End.BROKEN),
        (0, "running", STOPPED, False, End.FINE),
        (3, "running", STOPPED, False, End.BROKEN),
        (-9, "lost", STOPPED, False, End.LOST),  # the others were through before this exit was seen
    ],
)
def test_judge(code: int, state: str, outcome: Outcome | None, settled: bool, end: End) -> None:
    assert judge(exit_with(code), state, outcome, settled)[0] is end
    assert judge(exit_with(code, asked=True), state, outcome, settled)[0] is End.FINE


def test_a_script_that_hears_of_the_stop_by_its_error_is_fine() -> None:
    told = exit_with(1, "Traceback (most recent call last):", "ps.errors.StoppedError: the job has stopped: ...", "")
    assert judge(told, "running", STOPPED, False)[0] is End.FINE
    assert judge(told, "done", STOPPED, False)[0] is End.FINE
    assert judge(exit_with(1, "ValueError"), "done", STOPPED, False)[0] is End.BROKEN


def test_blamed() -> None:
    assert blamed("worker 12 failed at clock 3:\n...") == 12
    assert blamed("server 1 was lost (worker 2 says so)") is None


def test_last_words_of_a_failure() -> None:
    trace = ["Traceback (most recent call last):", "ValueError: 2"]
    assert Failure("why", exit_with(1, "hello", *trace)).last_words() == [
        "[worker 0] exit code 1; its last lines:", *trace,
    ]  # fmt: skip
    assert Failure("why:\nTraceback", exit_with(1, "hello")).last_words()[1:] == ["Traceback"]
    assert Failure("why", exit_with(-9)).last_words() == ["[worker 0] killed by SIGKILL; it printed nothing"]
    assert Failure("why").last_words() == [] and Failure("why").code == 1
    assert Failure("why", exit_with(0)).code == 1 and Failure("why", exit_with(-15)).code == 143


def test_a_server_ends_in_order_by_itself_or_when_asked() -> None:
    assert ended(exit_with(0)) and ended(exit_with(-15, asked=True))
    assert not ended(exit_with(-15)) and not ended(exit_with(-9, asked=True)) and not ended(exit_with(1))


def test_an_evaluator_fails_by_a_mistake_of_its_own() -> None:
    assert failed(exit_with(1, "KeyError: 1")) and failed(exit_with(1, asked=True)) and failed(exit_with(-11))
    assert not failed(exit_with(0)) and not failed(exit_with(-15, asked=True)) and not failed(exit_with(-9, asked=True))
    assert not failed(exit_with(1, "ps.errors.StoppedError: the job has stopped"))
