"""The key of a cluster: one file on every host. Who has it belongs to the cluster.

It holds an EC private key and its own certificate. The control plane shows and demands that certificate (mutual TLS);
the pairs of the data plane (CURVE) are derived from the private key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass, field

from ps.errors import ConfigError

NAME = "ps"  # whom the certificate is made out to
FILE_BYTES_MAX = 64 << 10
VARIABLE = "PS_KEY"
MODE = 0o600
REMEDY = "make one with psctl key FILE and copy it to every host"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)


class OtherKey(ConfigError):
    """The two ends of a connection have different keys, or one of them has none."""


@dataclass(frozen=True)
class CurvePair:
    """Keys of one side of the data plane, as libzmq spells them (Z85)."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Key:
    """What was read from a key file.

    Every server has the pair `servers`, everybody who dials one has `dialers`: whoever could be given a pair of its
    own has the file, from which all are made.
    """

    path: str  # absolute: for the processes that this one starts
    private_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    servers: CurvePair
    dialers: CurvePair

    @property
    def certificate(self) -> bytes:
        """As it travels (DER)."""
        return base64.b64decode(b"".join(self.certificate_pem.split(b"-----")[2].split()))


def make_key(path: str) -> None:
    """Writes a new key to a new file that only its owner may read. Raises: ConfigError naming the file."""
    content = _new_pem()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        raise ConfigError(
            f"{path}: expected a name that is free, got a file that exists; choose another name: a key is not "
            "overwritten, as whoever has a copy of it could not join any more"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: expected a place for a new file, got {error.strerror}; choose another") from None
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, MODE)  # whatever the umask
            file.write(content)
    except BaseException as error:
        os.unlink(path)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"{path}: expected room for a file of {len(content)} bytes, got {error.strerror}") from None


def read_key(path: str, what: str = "--key") -> Key:
    """The key in a file. what: the flag or variable that names it.

    Raises: ConfigError naming the file when there is none, when others may read it, or when it holds something else.
    """
    content = _read(path, what)
    private_pem, certificate_pem, secret = _parse(content, f"{what}: {path}")
    pairs = (_curve_pair(secret, b"ps data plane, servers"), _curve_pair(secret, b"ps data plane, dialers"))
    return Key(os.path.abspath(path), private_pem, certificate_pem, *pairs)


def key_in(path: str | None, what: str = "--key") -> Key | None:
    """As `read_key`, where no file is no key."""
    return None if path is None else read_key(path, what)


def key_of_environment(path: str | None = None) -> Key | None:
    """The key in this file, else in that of PS_KEY; None without either. Raises: as `read_key`."""
    if path is not None:
        return read_key(path, "key")
    return key_in(os.environ.get(VARIABLE) or None, f"environment variable {VARIABLE}")


def _read(path: str, what: str) -> bytes:
    try:
        # O_NONBLOCK: a pipe without a writer is refused below, not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ConfigError(f"{what}: {path}: expected a key file, got something that is no file; {REMEDY}")
            if (mode := stat.S_IMODE(state.st_mode)) & 0o077:
                raise ConfigError(
                    f"{what}: {path}: expected a file that only its owner may read, got mode {mode:04o}; "
                    f"chmod {MODE:o} {path}, and make a new key if somebody may have read it"
                )
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: expected a key file, got {error.strerror or error}; {REMEDY}") from None


def _parse(content: bytes, what: str) -> tuple[bytes, bytes, bytes]:
    """Private key and certificate as PEM, and the private number. Raises: ConfigError."""
    from cryptography import x509  # late: who has no key does not pay for it
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    blocks = {block[1]: block[0] for block in _BLOCK.finditer(content)}
    private_pem, certificate_pem = blocks.get(b"PRIVATE KEY", b""), blocks.get(b"CERTIFICATE", b"")
    expected = "expected a private key and its certificate, as psctl key makes them"
    if not private_pem or not certificate_pem:
        found = b", ".join(blocks).decode() or "no PEM"
        raise ConfigError(f"{what}: {expected}, got {len(content)} bytes with {found}; {REMEDY}")
    try:
        private = load_pem_private_key(private_pem, None)
        certified = x509.load_pem_x509_certificate(certificate_pem).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # its text could quote the file
        raise ConfigError(f"{what}: {expected}, got damaged PEM ({type(error).__name__}); {REMEDY}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigError(f"{what}: {expected}, got a private key of another kind; {REMEDY}")
    if private.public_key() != certified:
        raise ConfigError(f"{what}: {expected}, got the certificate of another key; {REMEDY}")
    return private_pem, certificate_pem, private.private_numbers().private_value.to_bytes(32, "big")


def _new_pem() -> bytes:
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        # A key is thrown away by making another one, not by a date; and clocks of hosts may be wrong.
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    private_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private_pem + certificate.public_bytes(Encoding.PEM)


def _curve_pair(secret: bytes, purpose: bytes) -> CurvePair:
    from zmq import curve_public
    from zmq.utils import z85

    encoded = z85.encode(hkdf_sha256(secret, purpose))
    return CurvePair(curve_public(encoded), encoded)


def hkdf_sha256(secret: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose. Source: RFC 5869, without salt, one block of output."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")
