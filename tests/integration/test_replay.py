"""Recordings and their replay, in one process: the same bytes, other options beside twins, files that are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ps
from ps.cli.main import main
from ps.config import RunConfig
from ps.errors import ConfigError, Error
from ps.metrics import series
from ps.record.entries import End, file_of, packed, prefix_of
from ps.record.reader import Recording, recordings
from ps.record.replay import Changes, Outcome, Replay, final_values, total
from ps.server.ledger import Commit, Finished, Joined, LrChanged, Record
from ps.sim.loop import Simulator
from ps.types import Array
from tests.sim.helpers import end_scripts, restart

MODELS = ["bsp", "ssp:staleness=1", "async", "quorum:n=2", "local:every=2,local_lr=0.1", "downpour:local_lr=0.1"]
SHAPES = {"w": (40, 60), "x": (50, 30), "b": (7,), "d": (30, 20)}
CLOCKS = 8
MOMENTUM = "momentum:lr=0.1,decay=0.9"
Train = Callable[[ps.Client], Any]


def gradients(rank: int, clock: int) -> dict[str, Array]:
    """They know nothing of the values: what an open-loop replay takes for granted."""
    rng = np.random.default_rng([rank, clock])
    return {name: rng.standard_normal(shape).astype(start()[name].dtype) for name, shape in SHAPES.items()}


def start() -> dict[str, Array]:
    """One of them in float64."""
    return {name: np.ones(shape, np.float64 if name == "d" else np.float32) for name, shape in SHAPES.items()}


def train(client: ps.Client) -> None:
    client.register({**start(), "counts": np.arange(5)})
    while client.clock < CLOCKS:
        client.pull()
        client.spend(0.01 * (1 + client.rank))
        client.push(gradients(client.rank, client.clock), weight=1.0 + client.rank)
        client.tick()


def record(folder: Path, train: Train = train, **options: Any) -> str:
    """Runs and records; the cluster's checksum."""
    given = {"servers": 2, "workers": 3, "optimizer": MOMENTUM, "seed": 1, **options}
    with ps.LocalCluster(**given, record=folder) as cluster:
        cluster.run(train)
        return cluster.checksum()


def replayed(folder: Path, **changes: Any) -> tuple[list[Outcome], str]:
    """The outcomes, and the checksum of all servers."""
    replays = [Replay(one, Changes(**changes)) for one in recordings(folder)]
    outcomes = [one.run() for one in replays]
    return outcomes, f"{total(replays):08x}"


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "tape"


# ---- the same bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "onebit"])
@pytest.mark.parametrize("consistency", MODELS)
def test_a_replay_ends_in_the_bytes_of_the_run(tape: Path, consistency: str, compression: str) -> None:
    checksum = record(tape, consistency=consistency, compression=compression, schedule="step:every=3,decay=0.5")
    outcomes, again = replayed(tape)
    assert again == checksum
    assert [one.is_equal for one in outcomes] == [True, True]
    assert all(one.commits >= CLOCKS // 2 and one.seconds > 0.0 for one in outcomes)


@pytest.mark.parametrize("optimizer", ["staleness:kind=sqrt+dcasgd:lam=0.04+momentum:lr=0.1,decay=0.5", "adam:lr=0.01"])
def test_what_an_optimizer_remembers_is_replayed(tape: Path, optimizer: str) -> None:
    checksum = record(tape, consistency="async", optimizer=optimizer)
    assert replayed(tape)[1] == checksum


def test_threads_record_too(tape: Path) -> None:
    """In real time the order of pushes is another in each run: only what was written down can lead to these bytes."""
    assert record(tape, consistency="async", seed=None) == replayed(tape)[1]


def test_factors_and_parameters_that_come_later_are_replayed(tape: Path) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.ones((40, 60), np.float32)})
        rng = np.random.default_rng(client.rank)
        for clock in range(CLOCKS):
            if clock == 3:
                client.register({"late": np.ones((40, 50), np.float32)})
            pushed = rng.standard_normal((2, 40)), rng.standard_normal((2, 60))
            client.pull()
            client.push({"w": ps.Factors(*(part.astype(np.float32) for part in pushed))})
            client.tick()

    assert record(tape, train, consistency="async") == replayed(tape)[1]


def test_the_optimizer_and_the_rates_that_a_script_brings_are_replayed(tape: Path) -> None:
    def train(client: ps.Client) -> None:
        client.register(start(), optimizer=MOMENTUM)
        for clock in range(CLOCKS):
            client.pull()
            client.push(gradients(client.rank, clock))
            if clock == 3 and client.rank == 0:
                client.set_lr(0.02)
            client.tick()

    assert record(tape, train, optimizer=None) == replayed(tape)[1]


def test_staleness_and_commits_are_those_of_the_run(tape: Path) -> None:
    with ps.LocalCluster(servers=2, workers=3, consistency="async", seed=1, record=tape) as cluster:
        cluster.run(train)
        staleness = [dict(cluster.metrics())[f"server:{shard}"].histograms for shard in range(2)]
    for outcome, of_server in zip(replayed(tape)[0], staleness, strict=True):
        assert tuple(sorted(outcome.staleness.items())) == of_server[series("staleness")].buckets
        assert outcome.commits == of_server[series("staleness")].n


# ---- other options ---------------------------------------------------------------------------------------------------


def simulated(
    tape: Path, train: Train, plan: Callable[[Simulator], object] = lambda _: None, **options: Any
) -> list[list[Record]]:
    """Records a simulation; the log of every shard, as the simulator saw it. plan: called before it starts."""
    config = RunConfig.check({"servers": 1, "workers": 3, "optimizer": MOMENTUM, **options})
    log: list[list[Record]] = [[] for _ in range(config.servers)]
    tape.mkdir()
    sim = Simulator(config, seed=1, watch=lambda shard, record: log[shard].append(record), record=tape)
    try:
        for rank in range(config.workers):
            sim.run_worker(rank, train)
        plan(sim)
        sim.run()
    finally:
        end_scripts(sim)
        sim.close()
    return log


def one_slice(client: ps.Client) -> None:
    client.register({"w": start()["w"]})
    for clock in range(CLOCKS):
        client.pull()
        client.spend(0.01 * (1 + client.rank))
        client.push({"w": gradients(client.rank, clock)["w"]})
        if clock == 5 and client.rank == 0:
            client.set_lr(0.2)
        client.tick()


def by_numpy(log: list[Record], lr: float, set_lr: float) -> Array:
    """Momentum by hand: the pushes in the order of their commits, at these rates of three workers, halved each 3 clocks
    until the script sets the rate."""
    w_N, v_N = start()["w"], np.zeros(SHAPES["w"], np.float32)
    finished, rates = [0, 0, 0], {0: lr, 3: lr / 2, 6: lr / 4}
    for record in log:
        if isinstance(record, LrChanged):
            rates = {clock: rate for clock, rate in rates.items() if clock < record.at_clock}
            rates[record.at_clock] = set_lr
        if isinstance(record, Finished):
            finished[record.worker] = record.clock
        if isinstance(record, Commit):
            (push,) = record.contributions
            least = max(clock for clock in rates if clock <= min(finished))
            v_N = np.float32(0.9) * v_N + gradients(push.worker, push.clock)["w"]
            w_N = w_N - np.float32(rates[least] / 3) * v_N
    return w_N


@pytest.mark.parametrize(("lr", "set_lr"), [(None, 0.2), (0.05, 0.1)])
def test_another_rate_equals_an_independent_replay_of_the_pushes(tape: Path, lr: float | None, set_lr: float) -> None:
    (log,) = simulated(tape, one_slice, consistency="async", schedule="step:every=3,decay=0.5")
    commits = [record for record in log if isinstance(record, Commit)]
    assert len(commits) == 3 * CLOCKS and any(record.staleness for record in commits)
    (recording,) = recordings(tape)
    replay = Replay(recording, Changes(lr=lr))
    replay.run()
    ours = final_values([replay])["w"]
    np.testing.assert_allclose(ours, by_numpy(log, lr or 0.1, set_lr), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"compression": "onebit"}, {"compression": "onebit"}),
        ({"compression": "qsgd"}, {"compression": "qsgd"}),
        ({"compression": "topk:ratio=0.1,warmup=2"}, {"compression": "topk:ratio=0.1,warmup=2"}),
        ({"optimizer": "adam:lr=0.01"}, {"optimizer": "adam:lr=0.01"}),
        ({"lr": 0.03, "schedule": "cosine:clocks=8"}, {"optimizer": MOMENTUM.replace("0.1", "0.03", 1)}),
        ({"schedule": "cosine:clocks=8"}, {}),
    ],
)
@pytest.mark.parametrize("consistency", ["bsp", "ssp:staleness=1"])
def test_other_options_end_as_a_run_with_them_would(
    tape: Path, tmp_path: Path, consistency: str, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    """Its twin has the same gradients, which look at no values, in the same order."""

    def train(client: ps.Client) -> None:
        client.register(start())
        for clock in range(CLOCKS):
            client.pull()
            client.push(gradients(client.rank, clock), weight=1.0 + client.rank)
            client.tick()

    schedule = {"schedule": changes["schedule"]} if "schedule" in changes else {}
    recorded = record(tape, train, consistency=consistency)
    twin = record(tmp_path / "twin", train, consistency=consistency, **options, **schedule)
    outcomes, again = replayed(tape, **changes)
    assert again == twin != recorded
    assert not any(one.is_equal for one in outcomes)


def test_what_a_dead_worker_s_frames_had_left_out_is_left_out(tape: Path, tmp_path: Path) -> None:
    """It dies while it computes; the next one computes the same clock again, with nothing left over from before."""

    def plan(sim: Simulator) -> None:
        restart(sim, 1, train, at=0.07)

    options = dict(on_worker_loss="wait", servers=2)
    logs = simulated(tape, train, plan, **options)
    assert any(isinstance(record, Joined) and record.incarnation == 2 for record in logs[0])
    simulated(tmp_path / "twin", train, plan, **options, compression="onebit")
    assert replayed(tape, compression="onebit")[1] == replayed(tmp_path / "twin")[1]


def test_a_schedule_counts_the_clocks_of_rounds(tape: Path, tmp_path: Path) -> None:
    """What a round has moved is measured from values, so a twin's is equal but for rounding."""
    schedule = "step:every=3,decay=0.5"
    record(tape, consistency="local:every=2,local_lr=0.1")
    again = [Replay(one, Changes(schedule=schedule)) for one in recordings(tape)]
    for one in again:
        one.run()
    record(tmp_path / "twin", consistency="local:every=2,local_lr=0.1", schedule=schedule)
    twins = [Replay(one) for one in recordings(tmp_path / "twin")]
    assert all(one.run().is_equal for one in twins)
    expected = final_values(twins)
    for name, value in final_values(again).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_a_lossy_recording_takes_other_rates_and_no_other_codec(tape: Path) -> None:
    checksum = record(tape, consistency="async", compression="onebit")
    assert replayed(tape, compression="onebit")[1] == checksum
    assert replayed(tape, lr=0.01)[1] != checksum
    with pytest.raises(ConfigError, match="--compression: expected onebit, as in the recording, got topk; only "):
        replayed(tape, compression="topk")
    with pytest.raises(ConfigError, match="--compression: expected onebit, as in the recording, got none; only "):
        replayed(tape, compression="none")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": 0.0}, "--lr: expected a number > 0, got 0.0"),
        ({"lr": 0.1, "optimizer": "add"}, "--lr: expected an optimizer that has a rate, got Add"),
        ({"optimizer": "momentun:lr=1"}, "--optimizer: expected one of "),
        ({"optimizer": "dcasgd+sgd:lr=0.1"}, "--optimizer: expected one that does not compare with what each worker"),
        ({"schedule": "cosine"}, "--schedule: "),
        ({"compression": "onebits"}, "--compression: expected one of "),
        ({"compression": "auto"}, "--compression: expected codecs that are named, got auto"),
    ],
)
def test_wrong_changes_are_refused(tape: Path, changes: dict[str, Any], text: str) -> None:
    record(tape)
    with pytest.raises(ConfigError) as caught:
        replayed(tape, **changes)
    assert str(caught.value).startswith(text)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_recording_that_is_cut_off_anywhere_is_replayed_up_to_there(tape: Path) -> None:
    record(tape, one_slice, servers=1, consistency="async")
    path = file_of(tape, 0)
    whole, ends = path.read_bytes(), list[int]()
    begin = whole.index(b"\n") + 1
    list(Recording(path).entries(ends.append))
    for place in (begin, begin + 1, ends[0], ends[9] - 1, ends[9], ends[9] + 5, ends[-2], ends[-1] - 1):
        path.write_bytes(whole[:place])
        outcome = Replay(Recording(path)).run()
        assert outcome.recorded is None
        assert outcome.records == sum(end <= place for end in ends), place
    path.write_bytes(whole[: begin - 1])
    with pytest.raises(ConfigError, match="expected a whole first line, got one that is cut off or damaged"):
        Recording(path)


def test_a_flipped_byte_is_always_found(tape: Path) -> None:
    record(tape, servers=1, workers=1)
    path = file_of(tape, 0)
    whole = bytearray(path.read_bytes())
    for place in [*range(0, 2000, 7), *range(2000, len(whole), 997), len(whole) - 1]:
        whole[place] ^= 0x10
        path.write_bytes(whole)
        with pytest.raises(Error, match=r"server-0\.record: (entry \d+, before byte \d+, is damaged|expected a )"):
            Replay(Recording(path)).run()
        whole[place] ^= 0x10


def test_a_killed_server_leaves_a_recording_of_what_it_had(tape: Path) -> None:
    config = RunConfig.check({"servers": 2, "workers": 2, "optimizer": MOMENTUM, "consistency": "async"})
    tape.mkdir()
    sim = Simulator(config, seed=1, record=tape)
    held: list[bytes] = []

    def kill() -> None:
        held.extend(sim.servers[1].values.contents())
        sim.kill_server(1)

    sim.at(0.06, kill)
    try:
        for rank in range(2):
            sim.run_worker(rank, train)
        sim.run()
    finally:
        end_scripts(sim)
        sim.close()
    replays = [Replay(one) for one in recordings(tape)]
    first, second = [one.run() for one in replays]
    assert first.is_equal
    assert second.recorded is None and second.commits > 0
    assert replays[1].values.contents() == held


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda tape: file_of(tape, 1).unlink(),
            "server-1.record: expected the recording of a server, got No ",
        ),
        (lambda tape: file_of(tape, 1).write_bytes(b"x" * 999), "server-1.record: expected a recording of psctl run"),
        (
            lambda tape: file_of(tape, 0).write_bytes(file_of(tape, 1).read_bytes()),
            "server-0.record: expected server 0 of the run of server-0.record, got another one's",
        ),
    ],
)
def test_files_that_are_missing_or_others_are_named(tape: Path, spoil: Callable[[Path], Any], text: str) -> None:
    record(tape)
    spoil(tape)
    with pytest.raises(ConfigError, match=text):
        recordings(tape)


def test_another_version_is_refused(tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps.record.entries.VERSION", 2)
    record(tape)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"server-0\.record: expected a recording of version 1, got version 2; "):
        recordings(tape)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"^record: expected a folder that does not exist yet, got .*; nothing is"):
        record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match=r"^record: expected a folder that can be made, got .*: No such file"):
        record(tmp_path / "no" / "tape")


# ---- the command -----------------------------------------------------------------------------------------------------


def psctl(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *argv])
    return int(str(ended.value.code))


def test_the_command_compares_and_saves(tape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ps.LocalCluster(servers=2, workers=3, consistency="async", optimizer=MOMENTUM, seed=1, record=tape) as cluster:
        cluster.run(train)
        values, checksum = cluster.pull(), cluster.checksum()
    capsys.readouterr()
    assert psctl(str(tape), "--save", str(tmp_path / "end.safetensors")) == 0
    *servers, staleness, last = capsys.readouterr().out.splitlines()
    for shard, line in enumerate(servers):
        assert line.startswith(f"server {shard}: ") and line.endswith(": equal")
    assert len(servers) == 2
    assert staleness.startswith("staleness in commits: 0: ") and last == f"all servers: checksum {checksum}"
    saved = load_file(tmp_path / "end.safetensors")
    assert saved.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(saved[name], value, strict=True)
    assert psctl(str(tape), "--lr", "0.01") == 0
    assert "not equal, as other options make it" in capsys.readouterr().out


def test_the_command_tells_a_difference_from_an_early_end(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tape, servers=1)
    path, ends = file_of(tape, 0), list[int]()
    list(Recording(path).entries(ends.append))
    header, _ = packed(End(7), 1.0, ())
    cut = path.read_bytes()[: ends[-2]]
    path.write_bytes(cut + prefix_of(header, ()) + header)
    capsys.readouterr()
    assert psctl(str(tape)) == 1
    assert "checksum recorded 00000007, replayed " in capsys.readouterr().out
    path.write_bytes(cut)
    assert psctl(str(tape)) == 0
    assert f"ends at record {len(ends) - 1}; the rest is missing" in capsys.readouterr().out
    path.write_bytes(cut[:-1] + b"?")
    assert psctl(str(tape)) == 1
    assert capsys.readouterr().err.startswith(f"psctl replay: {path}: entry {len(ends) - 1}, before byte ")


def test_wrong_flags_are_one_line(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tape)
    capsys.readouterr()
    for argv, text in (
        ((str(tape / "no"),), "expected the folder of a recording, made by psctl run --record, got none"),
        ((str(tape), "--lr", "fast"), "Invalid value for '--lr': "),
        ((str(tape), "--save", str(tape)), "--save: expected a file to write, got the folder"),
        ((str(tape), "--optimizer", "sgd"), "--optimizer: "),
    ):
        assert psctl(*argv) == 2
        err = capsys.readouterr().err
        assert text in err and err.count("\n") == 1, err
