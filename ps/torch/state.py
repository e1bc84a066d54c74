"""What a worker's checkpoint holds of PyTorch: plain types and arrays, as MessagePack carries, and back.

None, bool, int, float, str, bytes, lists, dicts with text as keys, and NumPy arrays. What is none of these stands in a
dict with one key that says what it was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from ps.errors import ConfigError
from ps.torch.tensors import from_array, to_array

TENSOR, TUPLE, DICT, COUNTER = "ps:tensor", "ps:tuple", "ps:dict", "ps:counter"
Plain = Any


class Stateful(Protocol):
    """A scheduler, a sampler, an average of weights, ..."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def plain(value: Any, where: str) -> Plain:
    """A copy that shares no memory. where: names it in errors. Raises: ConfigError for what has no plain form."""
    match value:
        case None | bool() | str() | bytes():
            return value
        case int() | float():
            return int(value) if isinstance(value, int) else float(value)  # of subclasses, too
        case torch.Tensor():
            return {TENSOR: to_array(value.detach().to("cpu", copy=True).contiguous())}
        case np.ndarray() if value.dtype != object:
            return value.copy()
        case np.generic():
            return value.item()
        case list():
            return [plain(one, f"{where}[{place}]") for place, one in enumerate(value)]
        case tuple():
            return {TUPLE: plain(list(value), where)}
        case dict() if type(value) is not Counter and all(type(key) is str for key in value):
            return {key: plain(one, f"{where}.{key}") for key, one in value.items()}
        case dict():
            kind = COUNTER if type(value) is Counter else DICT
            return {kind: [[plain(key, where), plain(one, f"{where}[{key!r}]")] for key, one in value.items()]}
    raise ConfigError(
        f"state: {where}: expected numbers, text, tensors, arrays, or lists, tuples and dicts of these, got a "
        f"{type(value).__name__}"
    )


def restored(value: Plain) -> Any:
    """What `plain` was given, in memory of its own."""
    match value:
        case {"ps:tensor": array}:
            return from_array(np.array(array))
        case {"ps:tuple": items}:
            return tuple(restored(items))
        case {"ps:dict": items}:
            return dict(restored(items))
        case {"ps:counter": items}:
            return Counter(dict(restored(items)))
        case dict():
            return {key: restored(one) for key, one in value.items()}
        case list():
            return [restored(one) for one in value]
        case np.ndarray():
            return value.copy()
    return value


# ---- an optimizer, by the names of the parameters -------------------------------------------------------------------


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Plain:
    """Options of its groups, and what it has of each parameter. names: of parameters, by id."""
    groups = [
        plain({option: value for option, value in group.items() if option != "params"}, f"groups[{place}]")
        for place, group in enumerate(optimizer.param_groups)
    ]
    parameters = {
        names[id(p)]: {"shape": list(p.shape), "state": plain(dict(optimizer.state[p]), f"parameters.{names[id(p)]}")}
        for group in optimizer.param_groups
        for p in group["params"]
        if optimizer.state.get(p)
    }
    return {"groups": groups, "parameters": parameters}


def load_optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str], state: Plain) -> None:
    """Raises: ConfigError naming what does not fit."""
    own, given = optimizer.state_dict()["param_groups"], state["groups"]
    if len(own) != len(given):
        raise ConfigError(f"groups: expected {len(own)}, as this optimizer has, got {len(given)}")
    for place, group in enumerate(given):
        if missing := sorted(optimizer.defaults.keys() - group.keys()):
            raise ConfigError(f"groups[{place}]: expected {missing[0]!r} in it, got {', '.join(sorted(group))}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = {names[id(p)]: place for place, p in enumerate(parameters)}
    for name, one in state["parameters"].items():
        if name not in places:
            raise ConfigError(f"parameters: expected those of this optimizer, got {name!r}")
        if list(one["shape"]) != (shape := list(parameters[places[name]].shape)):
            raise ConfigError(f"parameters.{name}: expected shape {tuple(shape)}, got {tuple(one['shape'])}")
    optimizer.load_state_dict(
        {
            "state": {places[name]: restored(one["state"]) for name, one in state["parameters"].items()},
            "param_groups": [{**mine, **restored(other)} for mine, other in zip(own, given, strict=True)],
        }
    )


# ---- anything with state_dict ---------------------------------------------------------------------------------------


def object_state(owner: Stateful, name: str) -> Plain:
    return plain(dict(owner.state_dict()), name)


def load_object_state(owner: Stateful, state: Plain) -> None:
    """Raises: ConfigError naming a key that is missing, or a tensor of another shape."""
    given = restored(state)
    for key, now in owner.state_dict().items():
        if key not in given:
            raise ConfigError(f"{key}: expected it, as {type(owner).__name__} has it, got none")
        shapes = [tuple(one.shape) for one in (now, given[key]) if isinstance(one, torch.Tensor)]
        if len(set(shapes)) > 1:
            raise ConfigError(f"{key}: expected shape {shapes[0]}, got {shapes[1]}")
    owner.load_state_dict(given)


# ---- random numbers -------------------------------------------------------------------------------------------------


def random_state(devices: Iterable[torch.device]) -> Plain:
    """Of torch (dropout), and of Python and NumPy, from which loaders and augmentations draw. devices: of the model."""
    cuda = {str(one): torch.cuda.get_rng_state(one) for one in set(devices) if one.type == "cuda"}
    numpy = np.random.get_state(legacy=False)
    return plain({"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate(), "numpy": numpy}, "random")


def load_random_state(state: Plain) -> None:
    given = restored(state)
    torch.set_rng_state(given["torch"])
    for device, one in given["cuda"].items():
        torch.cuda.set_rng_state(one, device)
    random.setstate(given["python"])
    np.random.set_state(given["numpy"])
