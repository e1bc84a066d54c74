"""The run's knobs: refused by name when wrong, the same after a trip to the workers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.compression.choice import Codecs
from ps.config import RunConfig
from ps.consistency.ssp import StaleSynchronous
from ps.errors import ConfigError
from ps.keyspace import Options
from ps.optim.sgd import Sgd

positive = st.floats(min_value=1e-9, allow_nan=False)  # infinity too

configs = st.builds(
    RunConfig,
    servers=st.integers(1, 4096),
    workers=st.integers(1, 1 << 20),
    consistency=st.sampled_from(["bsp", "ssp:staleness=3", "quorum:n=2"]),
    optimizer=st.sampled_from(["sgd:lr=0.1", "staleness:kind=sqrt+adam:lr=1e-3"]),
    clip_norm=st.none() | positive,
    clip_value=st.none() | positive,
    compression=st.sampled_from(["none", "none:error_feedback=true", "onebit:group=64"]),
    on_worker_loss=st.sampled_from(["wait", "drop"]),
    epoch_share=st.floats(min_value=1e-6, max_value=1),
    seed=st.none() | st.integers(0, 2**63 - 1),
    timeout_s=positive,
    resend_s=positive,
    lease_s=positive,
    restart_s=positive,
    inflight_clocks=st.integers(1, 100),
)


@given(configs)
def test_a_config_is_the_same_after_its_trip_as_json(config: RunConfig) -> None:
    sent = config.model_dump_json()
    assert RunConfig.model_validate_json(sent) == config
    assert json.loads(sent)["timeout_s"] in (config.timeout_s, "Infinity")


def test_an_infinite_lease_survives_the_trip() -> None:
    back = RunConfig.model_validate_json(RunConfig().model_dump_json())
    assert back.lease_s == math.inf and back == RunConfig()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError):
        RunConfig().workers = 5  # type: ignore[misc]


def test_it_builds_what_it_names() -> None:
    config = RunConfig.check({"consistency": "ssp:staleness=3", "optimizer": "sgd:lr=0.5", "on_worker_loss": "wait"})
    assert config.model() == StaleSynchronous(staleness=3)
    assert config.rule() == Sgd(lr=0.5)
    assert config.rates().factor(7) == 1.0
    assert config.keep_versions and not RunConfig().keep_versions


@pytest.mark.parametrize(
    ("options", "push", "pull"),
    [
        ({}, "none", "none"),
        ({"compression": "onebit"}, "onebit", "onebit"),
        ({"compression": "onebit", "pull_compression": "int8"}, "onebit", "int8"),
        ({"compression": "dgc"}, "dgc", "none"),
        ({"compression": "int8", "optimizer": "dcasgd:lam=1+sgd:lr=1"}, "int8", "none"),
        ({"optimizer": "onebit_adam:lr=1,warmup=7"}, "onebit:warmup=7", "onebit:warmup=7"),
        ({"optimizer": "onebit_adam:lr=1,warmup=7", "compression": "none"}, "none", "none"),
    ],
)
def test_the_codecs_of_both_directions(options: dict[str, Any], push: str, pull: str) -> None:
    assert RunConfig.check(options).codecs() == Codecs(push, pull)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"worker": 2}, "worker: expected one of clip_norm, clip_value, compression,"),
        ({"workers": 0}, "workers: expected greater than or equal to 1, got 0"),
        ({"workers": 2.5}, "workers: expected a valid integer, got a number with a fractional part, got 2.5"),
        ({"servers": "many"}, "servers: expected a valid integer, unable to parse string as an integer, got 'many'"),
        ({"inflight_clocks": 0}, "inflight_clocks: expected greater than or equal to 1, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected greater than 0, got 0"),
        ({"lease_s": float("nan")}, "lease_s: expected greater than 0, got nan"),
        ({"epoch_share": 1.5}, "epoch_share: expected less than or equal to 1, got 1.5"),
        ({"clip_norm": -1}, "clip_norm: expected greater than 0, got -1"),
        ({"on_worker_loss": "retry"}, "on_worker_loss: expected 'wait' or 'drop', got 'retry'"),
        ({"seed": "x"}, "seed: expected a valid integer"),
        (
            {"workers": 0, "servers": 0},
            "servers: expected greater than or equal to 1, got 0; workers: expected greater",
        ),
        ({"consistency": "sssp"}, "consistency: expected one of async, async_local, bsp,"),
        (
            {"consistency": "easgd:alpha=0.2"},
            "optimizer: expected add, as easgd:alpha=0.2 sends moves, got sgd:lr=0.1",
        ),
        ({"consistency": "ssp"}, "consistency: ssp: staleness: expected a value, got none"),
        ({"consistency": "quorum:n=0"}, "consistency: quorum: n: expected greater than or equal to 1, got '0'"),
        ({"consistency": "ps.keyspace:Options"}, "consistency: expected a subclass of ps.consistency.Consistency"),
        ({"optimizer": "sgd"}, "optimizer: sgd: lr: expected a value, got none"),
        ({"optimizer": "sdg:lr=1"}, "optimizer: expected one of adagrad, adam,"),
        ({"optimizer": "staleness:kind=sqrt"}, "expected an optimizer in the last place, got 'staleness'"),
        ({"optimizer": "sgd:lr=0.1+adam:lr=0.1"}, "got the optimizer 'sgd' before it"),
        ({"optimizer": "dcasgd:lam=1+add"}, "expected an optimizer of gradients to wrap"),
        ({"compression": "onebits"}, "compression: expected one of bf16, dgc, fp16, int8, none, onebit,"),
        ({"push_compression": "topk:ratio=2"}, "compression: topk: ratio: expected less than or equal to 1, got '2'"),
        (
            {"compression": "dgc", "optimizer": "momentum:lr=1,decay=0.9"},
            "compression: dgc is wrong with optimizer momen",
        ),
        (
            {"compression": "dgc", "consistency": "local:every=2,local_lr=0.1"},
            "dgc is wrong where workers push the outco",
        ),
        (
            {"optimizer": "onebit_adam:lr=1", "consistency": "async"},
            "onebit_adam counts commits as clocks: use it under",
        ),
        ({"compression": "none", "pull_compression": "auto"}, "pull_compression: expected a codec, got 'auto'"),
        ({"pull_compression": "dgc"}, "pull_compression: dgc cannot encode values: it adds momentum"),
        ({"pull_compression": "int8", "optimizer": "dcasgd:lam=1+sgd:lr=1"}, "pull_compression: expected none: this"),
        ({"schedule": "cosinus"}, "schedule: expected one of constant, cosine, inverse_sqrt, step or package"),
        ({"schedule": "cosine"}, "schedule: cosine: clocks: expected a value, got none"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        RunConfig.check(options)


def test_an_unknown_field_in_the_json_of_another_release_is_refused() -> None:
    sent = json.loads(RunConfig().model_dump_json()) | {"new_knob": 1}
    with pytest.raises(pydantic.ValidationError, match="new_knob"):
        RunConfig.model_validate_json(json.dumps(sent))


def test_an_abstract_consistency_model_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="expected a class that defines commit, gate"):
        RunConfig.check({"consistency": "ps.consistency.base:Consistency"})


def test_the_run_says_what_holds_for_parameters_by_name() -> None:
    rules = [
        {"match": "*", "push_compression": "int8", "lr_scale": 0.5},
        {"match": "*.bias", "push_compression": "none", "weight_decay": 0.0},
    ]
    config = RunConfig.check({"parameters": rules, "compression": "onebit"})
    given = Options(lr_scale=3.0, weight_decay=0.1)
    assert config.options_of("l1.weight", given) == Options(0.5, 0.1, "int8")
    assert config.options_of("l1.bias", given) == Options(0.5, 0.0, "none")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"push_compression": "int8"}, "parameters.0.match: expected a value, got none"),
        ({"match": "*", "rate": 1}, "parameters.0.rate: extra inputs are not permitted"),
        ({"match": "*", "push_compression": "onebyte"}, "compression: expected one of bf16,"),
        ({"match": "*", "pull_compression": "dgc"}, "parameters: pull_compression: dgc cannot encode values"),
    ],
)
def test_a_wrong_rule_for_parameters_is_refused(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        RunConfig.check({"parameters": [rule]})
