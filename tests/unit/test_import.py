"""`import ps` stays light, and what is installed is what stands here. Its time is a benchmark, not a test."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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


def test_wheel_holds_the_whole_package_and_imports(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    build = [*pip, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("ps/")}
        archive.extractall(tmp_path / "site")
    ours = [path for path in CHECKOUT.glob("ps/**/*") if path.suffix in (".py", ".pyi", ".typed")]
    assert "ps/py.typed" in shipped
    assert shipped >= {path.relative_to(CHECKOUT).as_posix() for path in ours}
    # -S: the development install would put this checkout first.
    path = [str(tmp_path / "site"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    script = f"import sys; sys.path[:0] = {path!r}; import ps; print(*ps.__path__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site" / "ps")
