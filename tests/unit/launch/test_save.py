"""Values in a safetensors file, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ps.launch.save import write_safetensors


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    values: dict[str, np.ndarray[Any, Any]] = {
        "layer/w": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "half": np.ones(3, np.float16),
        "brain": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "double": np.array(3.5),  # no dimension
        "none": np.zeros((0, 4), np.float32),
    }
    write_safetensors(values, tmp_path / "model.safetensors")
    back = load_file(tmp_path / "model.safetensors")
    assert set(back) == set(values)
    for name, value in values.items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "np"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="setting an array element"):
        write_safetensors({"w": [[1], [2, 3]]}, target)  # type: ignore[dict-item]
    with pytest.raises(OSError, match="no/such"):
        write_safetensors({"w": np.ones(3)}, tmp_path / "no/such")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"] and target.read_bytes() == b"old"
