"""`import ps` stays light, and what is installed is what stands here. Its time is a benchmark, not a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from ps.kernels import dispatch

CHECKOUT = Path(__file__).resolve().parents[2]

HEAVY = {  # what a script that only trains, or a process that is started a thousand times, must not pay for
    "torch", "jax", "grpc", "zmq", "pydantic", "asyncio", "matplotlib", "rich", "sklearn", "multiprocessing",
}  # fmt: skip
LIGHT = {  # all that `import ps` may bring beyond what numpy brings; a new name here is a decision
    "ps", "ml_dtypes", "msgpack", "cython_runtime",
    "abc", "array", "atexit", "bisect", "collections", "concurrent", "contextlib", "copy", "dataclasses", "enum",
    "functools", "hashlib", "heapq", "importlib", "inspect", "itertools", "json", "logging", "math", "operator", "os",
    "pathlib", "queue", "random", "re", "string", "struct", "textwrap", "threading", "time", "traceback", "types",
    "typing", "uuid", "weakref", "zlib",
    "errno", "fnmatch", "ipaddress", "ntpath", "urllib",  # come with pathlib
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter, started in the checkout, has loaded after `code`."""
    script = f"{code}\nimport sys\nloaded = sorted(sys.modules)\nimport json\nprint(json.dumps(loaded))"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def brought() -> set[str]:
    """Top-level names that `import ps` loads beyond numpy, without the C halves of the standard library (`_queue`)."""
    names = {name.partition(".")[0] for name in modules_after("import ps") - modules_after("import numpy")}
    return {name for name in names if not name.startswith("_")}


def test_import_brings_nothing_heavy(brought: set[str]) -> None:
    assert not brought & HEAVY


def test_import_brings_only_what_is_listed(brought: set[str]) -> None:
    assert brought <= LIGHT


def test_a_framework_is_one_attribute_away() -> None:
    assert "torch" in modules_after("import ps; ps.torch.DistributedOptimizer")


def wheel_of_the_checkout(folder: Path, env: dict[str, str]) -> zipfile.ZipFile:
    """Built without isolation, so without a network, in `folder`; not optimised, which takes twice as long."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    build = [*pip, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(CHECKOUT)]
    env = env | {"SKBUILD_CMAKE_BUILD_TYPE": "Debug"}
    done = subprocess.run(build, capture_output=True, text=True, timeout=100, env=env)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def native_modules(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith("ps/kernels/_native") and name.endswith(".so")]


def test_wheel_holds_the_whole_package_and_imports(tmp_path: Path) -> None:
    with wheel_of_the_checkout(tmp_path, dict(os.environ)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    shipped = {name for name in names if name.startswith("ps/")}
    ours = [path for path in CHECKOUT.glob("ps/**/*") if path.suffix in (".py", ".pyi", ".typed", ".html", ".md")]
    assert "ps/py.typed" in shipped
    assert shipped >= {path.relative_to(CHECKOUT).as_posix() for path in ours}
    if dispatch._native is not None:  # so there is a compiler here
        assert len(native_modules(names)) == 1
    # -S: the development install would put this checkout first.
    path = [str(tmp_path / "site"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    script = f"import sys; sys.path[:0] = {path!r}; import ps; print(*ps.__path__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site" / "ps")


def test_wheel_builds_without_a_compiler_and_then_has_no_native_module(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cmake", "make", "ninja"):
        if found := shutil.which(tool, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])):
            (tools / tool).symlink_to(found)
    env = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CMAKE_ARGS")}
    with wheel_of_the_checkout(tmp_path, env | {"PATH": str(tools)}) as archive:
        names = archive.namelist()
    assert "ps/kernels/updates.py" in names and native_modules(names) == []
