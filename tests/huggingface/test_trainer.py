"""`transformers.Trainer` through ps: W workers against one process with all their batches, every kind of model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: nothing here may ask a network

import pytest
import torch
import transformers
from torch.utils.data import Dataset, SequentialSampler

import ps
from ps.errors import ConfigError
from ps.huggingface import Trainer

transformers.logging.disable_progress_bar()  # its thread would outlive the tests

ROWS, LENGTH = 48, 16
Values = dict[str, torch.Tensor]


class Letters(Dataset[dict[str, torch.Tensor]]):
    """Rows of text; of some the loss counts only the last letters."""

    def __init__(self, text: bytes) -> None:
        self.rows = torch.tensor(list(text[: ROWS * LENGTH])).reshape(ROWS, LENGTH) % 64

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        labels = self.rows[i].clone()
        labels[: i % 12] = -100
        return {"input_ids": self.rows[i], "labels": labels}


@pytest.fixture(scope="module")
def letters(data_dir: Path) -> Letters:
    return Letters((data_dir / "tinyshakespeare" / "input.txt").read_bytes())


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config)


def arguments(folder: Path, **options: Any) -> Any:
    given = dict(
        per_device_train_batch_size=4, num_train_epochs=3, learning_rate=1e-2, adam_epsilon=1e-4, weight_decay=0.1,
        warmup_steps=4, save_strategy="no", logging_steps=6, disable_tqdm=True, report_to="none", use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **given | options)


def together(letters: Letters, folder: Path, workers: int, own: dict[str, Any], **options: Any) -> Any:
    """Of each worker: its values at the end, its losses. own: of TrainingArguments. options: of the cluster."""

    def train(client: ps.Client) -> tuple[Values, list[float]]:
        trainer = Trainer(gpt2(), arguments(folder, **own), train_dataset=letters, client=client)
        trainer.train()
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}, losses_of(trainer)

    with ps.LocalCluster(workers=workers, seed=1, **options) as cluster:
        return cluster.run(train)


class Alone(transformers.Trainer):  # type: ignore[misc]
    """One process that takes the batches of all workers in each step."""

    def __init__(self, workers: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workers = workers

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return InTurn(self.train_dataset, self.workers, self.args.per_device_train_batch_size // self.workers)


class InTurn(SequentialSampler):
    """A batch of each worker, then the next of each; the order is that of torch's DistributedSampler."""

    def __init__(self, rows: Any, workers: int, batch: int) -> None:
        super().__init__(rows)
        self.workers, self.batch, self.epoch = workers, batch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(42 + self.epoch))
        yield from order.reshape(-1, self.batch, self.workers).transpose(1, 2).flatten().tolist()


def alone(letters: Letters, folder: Path, workers: int, own: dict[str, Any]) -> tuple[Values, list[float]]:
    """Its values at the end, its losses."""
    trainer = Alone(workers, gpt2(), arguments(folder, **own), train_dataset=letters)
    trainer.train()
    return trainer.model.state_dict(), losses_of(trainer)


def losses_of(trainer: transformers.Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def distance(one: Values, other: Values) -> float:
    """In the 2-norm over all parameters, relative."""
    off = sum(float((one[name] - other[name]).square().sum()) for name in other)
    return float((off / sum(float(value.square().sum()) for value in other.values())) ** 0.5)


def test_two_workers_under_bsp_equal_one_process(letters: Letters, tmp_path: Path) -> None:
    """AdamW, warm-up and decay of its rate, two groups, tied embeddings, a loss that is a mean over unequally many
    tokens. Without clipping: each worker clips its own gradient, one process that of all."""
    (first, _), (second, _) = together(letters, tmp_path, 2, {"max_grad_norm": 0.0})
    expected, _ = alone(letters, tmp_path, 2, {"max_grad_norm": 0.0, "per_device_train_batch_size": 8})
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert distance(gpt2().state_dict(), expected) > 0.1
    assert distance(first, expected) < 1e-6


def test_one_worker_clips_and_accumulates_as_ever(letters: Letters, tmp_path: Path) -> None:
    own = {"max_grad_norm": 0.1, "gradient_accumulation_steps": 5, "per_device_train_batch_size": 2}  # 24 = 4 x 5 + 4
    ((values, losses),) = together(letters, tmp_path, 1, own)
    expected, losses_expected = alone(letters, tmp_path, 1, own)
    assert distance(values, expected) < 1e-6
    assert losses == pytest.approx(losses_expected, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"consistency": "ssp:staleness=3", "compression": "onebit"},
        {"consistency": "async"},
        {"consistency": "local:every=4", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    ],
    ids=lambda options: options["consistency"],
)
def test_every_kind_of_model_learns(options: dict[str, Any], letters: Letters, tmp_path: Path) -> None:
    for _, losses in together(letters, tmp_path, 2, {"num_train_epochs": 6}, **options):
        assert losses[-1] < 0.85 * losses[0]


def test_what_the_trainer_logs_reaches_the_run_and_rank_0_alone_saves(letters: Letters, tmp_path: Path) -> None:
    saves = dict(save_strategy="steps", save_steps=6, eval_strategy="steps", eval_steps=6)

    def train(client: ps.Client) -> None:
        own = arguments(tmp_path / str(client.rank), max_steps=12, **saves)
        Trainer(gpt2(), own, train_dataset=letters, eval_dataset=letters, client=client).train()

    with ps.LocalCluster(workers=2, seed=1) as cluster:
        cluster.run(train)
        logged = [worker["logged"] for worker in cluster.status()["workers"]]
    assert [sorted(path.name for path in tmp_path.glob(f"{rank}/*")) for rank in (0, 1)] == [
        ["checkpoint-12", "checkpoint-6"],
        [],
    ]
    assert all({"loss", "grad_norm", "learning_rate", "epoch", "eval_loss"} <= one.keys() for one in logged)
    assert logged[0]["eval_loss"] == logged[1]["eval_loss"]  # of all rows, by the same values
    assert logged[0]["loss"] != logged[1]["loss"]  # each of its own part


def test_a_job_that_was_stopped_ends_the_training(letters: Letters, tmp_path: Path) -> None:
    class Stops(transformers.TrainerCallback):  # type: ignore[misc]
        def __init__(self, client: ps.Client) -> None:
            self.client = client

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3 and self.client.rank == 0:
                self.client.stop("enough")

    def train(client: ps.Client) -> int:
        callbacks = [Stops(client)]
        trainer = Trainer(gpt2(), arguments(tmp_path), train_dataset=letters, client=client, callbacks=callbacks)
        trainer.train()
        return int(trainer.state.global_step)

    with ps.LocalCluster(workers=1, seed=1) as cluster:
        assert 4 <= cluster.run(train)[0] < 10


@pytest.mark.parametrize(
    ("own", "devices", "why"),
    [
        ({"optim": "adafactor"}, 0, "expected one of torch.optim.SGD, Adam, .* got Adafactor"),
        ({"train_sampling_strategy": "sequential"}, 0, "train_sampling_strategy: expected random, got sequential"),
        ({}, 2, "expected one process with at most one device, .* got 1 processes with 2 devices each"),
    ],
)
def test_what_does_not_go_is_said(
    own: dict[str, Any], devices: int, why: str, letters: Letters, tmp_path: Path
) -> None:
    given = arguments(tmp_path, **own)
    given._n_gpu = devices

    def train(client: ps.Client) -> None:
        with pytest.raises(ConfigError, match=why):
            Trainer(gpt2(), given, train_dataset=letters, client=client).train()

    with ps.LocalCluster(seed=1) as cluster:
        cluster.run(train)
