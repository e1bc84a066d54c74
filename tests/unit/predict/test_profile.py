"""Profiles: costs are found again that steps were made with, and files say what is wrong with them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.keyspace import Parameter
from ps.metrics import Metrics, Snapshot, Span
from ps.predict.measure import Sample, Step, fitted, measure, server_seconds, shares_of, steps_of
from ps.predict.profile import Check, Measured, read_profile, write_profile
from ps.predict.recommend import slowest_s
from ps.sim.network import Network
from tests.unit.predict.profiles import profile

MADE = Network(
    encode_s_per_byte=3e-9,
    decode_s_per_byte=2e-9,
    apply_s_per_byte=5e-9,
    worker_message_s=3e-4,
    server_message_s=2e-4,
)
SHARE = 0.25  # of the bytes travels


def sample(shape: tuple[int, ...], compute_s: float) -> Sample:
    """What a run by MADE says of itself: times by the simulator, processor time by hand."""
    plain = Sample([Parameter("w", shape, "float32")], [], [], SHARE, SHARE)
    encode_s = MADE.encode_s_per_byte * SHARE * plain.nbytes
    step_s = plain.predicted_s(MADE, compute_s)
    server_s = MADE.server_message_s + MADE.apply_s_per_byte * plain.nbytes  # one message with push, tick and pull
    return replace(plain, steps=[Step(step_s, compute_s, encode_s, 0, 0)] * 5, server_s=[server_s] * 3)


def measured(script: Path, run: Sample, monkeypatch: pytest.MonkeyPatch, **options: str) -> Measured:
    """The profile of a script whose run was this one."""
    script.write_text("")
    monkeypatch.setattr("ps.predict.measure.observe", lambda *_: run)
    return measure(str(script), (), options, bare=sample((1,), 0.0), with_check=False)


def test_costs_are_found_again() -> None:
    found = fitted(sample((1,), 0.0), sample((1000, 400), 0.05)).on(Network())
    # Of nothing, too, the bytes cost something: four of them.
    assert found.worker_message_s == pytest.approx(MADE.worker_message_s, rel=1e-3)
    assert found.server_message_s == pytest.approx(MADE.server_message_s, rel=1e-3)
    assert found.encode_s_per_byte == pytest.approx(MADE.encode_s_per_byte, rel=1e-6)
    assert found.apply_s_per_byte == pytest.approx(MADE.apply_s_per_byte, rel=1e-3)
    assert found.decode_s_per_byte == pytest.approx(MADE.decode_s_per_byte, rel=1e-3)


def test_one_slow_step_of_many_is_as_rare_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 steps of 10 ms and one of 200 ms."""
    run, compute_S = sample((1000, 400), 0.01), [0.01] * 200 + [0.2] + [0.01] * 200
    one = run.steps[0]
    steps = [one._replace(seconds=s + one.encode_s + one.rest_s, compute_s=s) for s in compute_S]
    found = measured(tmp_path / "train.py", replace(run, steps=steps), monkeypatch)
    assert found.mean_compute_s == pytest.approx((400 * 0.01 + 0.2) / 401)
    slow = 1 - (400 / 401) ** 8  # of 8 workers one or more
    assert slowest_s(found, 8) == pytest.approx(0.01 + 0.19 * slow)
    made, dice = found.steps(RunConfig()), Random(1)
    assert fmean(made.compute_s(0, dice) for _ in range(20_000)) == pytest.approx(found.mean_compute_s, rel=0.03)


def test_plug_ins_beside_the_script_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "measured_plug.py").write_text("from ps.optim.sgd import Sgd as Mine\n")
    measured(tmp_path / "train.py", sample((1000, 400), 0.01), monkeypatch, optimizer="measured_plug:Mine:lr=0.1")


def test_steps_that_only_pull_or_push_are_named() -> None:
    def step(pushed: int, pulled: int) -> Step:
        return Step(1.0, 0.5, 0.1, pushed, pulled)

    assert shares_of("train.py", [step(20, 50), step(30, 50)], 100) == (0.25, 0.5)
    for missing, one in (("push", step(0, 8)), ("pull", step(8, 0)), ("push", step(0, 0))):
        with pytest.raises(ConfigError, match=f"^train.py: expected steps .*, got none that {missing}$"):
            shares_of("train.py", [one], 8)


def test_a_step_is_compute_encoding_and_the_rest() -> None:
    """Waits and pushes may lie in one another; a step whose first spans are gone is none. What the first pull brings is
    not of the second step."""
    spans = [
        Span(0.0, 1.0, "step", ()),
        Span(1.0, 2.0, "step", ()),
        Span(0.9, 1.0, "blocked", ()),
        Span(0.9, 1.1, "pull", (("bytes", "4000"),)),
        Span(1.0, 1.2, "blocked", ()),
        Span(1.5, 1.9, "push", ()),
        Span(1.55, 1.6, "encode", (("bytes", "100"), ("slice", "0"))),
        Span(1.6, 1.65, "encode", (("bytes", "25"), ("slice", "1"))),
        Span(1.7, 1.95, "blocked", ()),
        Span(1.7, 1.9, "pull", (("bytes", "60"),)),
        Span(1.7, 1.95, "pull", (("bytes", "70"),)),
    ]
    [found] = steps_of(spans)
    assert found == pytest.approx((1.0, 1.0 - 0.2 - 0.45, 0.1, 125, 130))


def test_processor_time_is_of_a_clock() -> None:
    """Of two slices that are stepped, after the first words of a server: those count what it took to start."""

    def told(applies: int, cpu_s: float) -> Snapshot:
        metrics = Metrics()
        metrics.count("applies", applies)
        metrics.gauge("cpu", cpu_s)
        metrics.gauge("slices", 2)
        return metrics.snapshot()

    seen = [told(0, 0.4), told(2, 1.0), told(22, 1.5), told(22, 1.6), told(42, 2.0)]
    assert list(server_seconds(seen)) == pytest.approx([0.05, 0.04])


def test_a_run_has_the_optimizer_that_its_script_brings() -> None:
    """Not where workers step by themselves; one that the run names must be the same."""
    made = profile(optimizer="adam:lr=0.001")
    assert made.completed(RunConfig()).optimizer == "adam:lr=0.001"
    assert made.completed(RunConfig(consistency="local:every=4")).optimizer is None
    with pytest.raises(ConfigError, match=r"optimizer: expected adam:lr=0\.001 as the script brings it"):
        made.completed(RunConfig(optimizer="sgd:lr=0.1"))
    assert profile().completed(RunConfig()).optimizer is None


def test_a_file_gives_the_profile_back(tmp_path: Path) -> None:
    made = profile(costs={"apply_s_per_byte": 1e-9}, check=Check(measured_s=2.0, predicted_s=1.5))
    write_profile(made, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == made
    assert made.nbytes == 1_000_000
    assert made.check is not None
    assert made.check.error == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected JSON made by psctl profile, got none"),
        ("[]", "expected a profile made by psctl profile, got JSON that is no object"),
        ("{}", "version: expected 3, got None; make it again"),
        ('{"version": 1}', "version: expected 3, got 1; make it again"),
        ('{"version": 3, "script": "a"}', "codec: "),
        ("\xff", "expected JSON made by psctl profile, got none"),
        (None, "expected a profile made by psctl profile, got No such file"),
    ],
)
def test_a_file_that_is_none_gets_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "p.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        read_profile(path)
    assert str(error.value).startswith(f"{path}: {words}")
    assert "\n" not in str(error.value)


def test_parameters_that_no_run_has_are_refused(tmp_path: Path) -> None:
    plain = profile().model_dump()
    plain["parameters"][0]["dtype"] = "float33"
    (tmp_path / "p.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"p.json: parameter 'w0': expected dtype float16, .* got float33"):
        read_profile(tmp_path / "p.json")


@pytest.mark.parametrize(("field", "value"), [("push_share", 0.0), ("compute_s", []), ("compute_s", [-1.0]), ("x", 1)])
def test_impossible_values_are_refused(tmp_path: Path, field: str, value: object) -> None:
    plain = profile().model_dump() | {field: value}
    (tmp_path / "p.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=f"p.json: {field}"):
        read_profile(tmp_path / "p.json")
    assert isinstance(profile(), Measured)
