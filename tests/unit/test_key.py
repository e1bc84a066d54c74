"""The key file: what is written, what is read, and what is refused in one line that says what to do."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import pytest

from ps.errors import ConfigError
from ps.key import hkdf_sha256, key_of_environment, make_key, read_key


@pytest.fixture
def file(tmp_path: Path) -> str:
    make_key(path := str(tmp_path / "key"))
    return path


def test_a_key_is_for_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        make_key(path := str(tmp_path / "key"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    read_key(path)


def test_a_key_is_never_overwritten(file: str) -> None:
    content = Path(file).read_bytes()
    with pytest.raises(ConfigError, match=f"{file}: expected a name that is free, got a file that exists"):
        make_key(file)
    assert Path(file).read_bytes() == content
    with pytest.raises(ConfigError, match="expected a place for a new file, got No such file or directory"):
        make_key(f"{file}-folder/key")


def test_all_that_read_it_get_the_same_and_two_files_are_two_keys(file: str, tmp_path: Path) -> None:
    make_key(other := str(tmp_path / "other"))
    one, again, two = read_key(file), read_key(file), read_key(other)
    assert one == again
    secrets = [pair.secret for key in (one, two) for pair in (key.servers, key.dialers)]
    assert len(set(secrets)) == 4
    assert one.certificate == ssl.PEM_cert_to_DER_cert(one.certificate_pem.decode()) != two.certificate


def test_a_key_does_not_print_its_secrets(file: str) -> None:
    key = read_key(file)
    shown = repr(key)
    for secret in (key.servers.secret, key.dialers.secret, key.private_pem, key.private_pem.splitlines()[1]):
        assert secret.decode() not in shown


def test_keys_are_derived_as_rfc_5869_says() -> None:
    """Test case 3 of the RFC: no salt, no purpose."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf_sha256(b"\x0b" * 22, b"").hex() == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_what_others_may_touch_is_refused(file: str, mode: int) -> None:
    os.chmod(file, mode)
    with pytest.raises(
        ConfigError, match=f"--key: {file}: expected a file that only .* got mode {mode:04o}; chmod 600 "
    ):
        read_key(file)


def test_what_is_no_key_is_refused(file: str, tmp_path: Path) -> None:
    make_key(other := str(tmp_path / "other"))
    content, foreign = Path(file).read_bytes(), Path(other).read_bytes()
    private, certificate = content.split(b"-----BEGIN CERTIFICATE-----")
    for bad, words in (
        (b"", "got 0 bytes with no PEM"),
        (bytes(1 << 20), "got 65536 bytes with no PEM"),
        (private, "with PRIVATE KEY"),
        (b"-----BEGIN CERTIFICATE-----" + certificate, "with CERTIFICATE"),
        (content.replace(private.splitlines()[1], b"AAAA"), "got damaged PEM"),
        (content.replace(certificate.splitlines()[2], b"!!"), "got damaged PEM"),
        (private + b"-----BEGIN CERTIFICATE-----" + foreign.partition(b"CERTIFICATE-----")[2], "of another key"),
    ):
        Path(file).write_bytes(bad)
        with pytest.raises(ConfigError, match=f"--key: {file}: expected a private key and its certificate.*{words}"):
            read_key(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(pipe := str(tmp_path / "pipe"), 0o600)
    with pytest.raises(ConfigError, match="got something that is no file; make one with psctl key FILE"):
        read_key(pipe)
    with pytest.raises(ConfigError, match="expected a key file, got "):
        read_key(str(tmp_path))
    with pytest.raises(ConfigError, match="got No such file or directory; make one with psctl key FILE"):
        read_key(str(tmp_path / "none"))


def test_the_environment_names_it(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PS_KEY", raising=False)
    assert key_of_environment() is None
    assert key_of_environment(file) == read_key(file)
    monkeypatch.setenv("PS_KEY", "")
    assert key_of_environment() is None
    monkeypatch.setenv("PS_KEY", file)
    assert key_of_environment() == read_key(file)
    monkeypatch.setenv("PS_KEY", f"{file}-not")
    with pytest.raises(ConfigError, match=f"environment variable PS_KEY: {file}-not: expected a key file"):
        key_of_environment()


def test_a_key_of_a_kind_that_nobody_here_knows_is_refused(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    def unknown(*_: object) -> None:
        raise UnsupportedAlgorithm("an elliptic curve of the year 2040")

    monkeypatch.setattr(serialization, "load_pem_private_key", unknown)
    with pytest.raises(ConfigError, match=r"expected a private key and its certificate.*UnsupportedAlgorithm"):
        read_key(file)


def test_a_key_that_was_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_key(str(tmp_path / "key"))
    assert not list(tmp_path.iterdir())
