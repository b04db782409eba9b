"""Signatures of releases: who sealed it, beside the manifest's what is in it.

``manifest.sig`` holds the Ed25519 signature (RFC 8032, 64 bytes) of the bytes of
``manifest.json``, which name the hash of every other file. It is no part of the release's id: a
release can be signed again, and with another key. Keys are PEM files that OpenSSL reads and
writes too::

    openssl pkeyutl -verify -pubin -inkey key.pem.pub -rawin -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISREG

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pipeline.durable import write_durably
from pipeline.releases.manifest import SIGNATURE, ReleaseError

SIGNATURE_BYTES = 64
SIGNING_KEY = "LIMEN_SIGNING_KEY"
"""Environment variable that names the private key with which sealing signs."""

PublicKeys = Sequence[Ed25519PublicKey]
_MAX_KEY_BYTES = 2**16
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_MAKE_ONE = "make one with `limen releases keygen PATH`"


class KeyFileError(ValueError):
    """A file that holds no usable key; the message says which, and what was expected."""


def make_key(path: Path) -> Path:
    """Write a new private key to ``path``, for its owner alone, and return its public half.

    The public key lies beside it, in ``<path>.pub``. ``KeyFileError`` where either is there.
    """
    key = Ed25519PrivateKey.generate()
    public = path.with_name(f"{path.name}.pub")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    known = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for place in (path, public):
        if os.path.lexists(place):
            raise KeyFileError(f"{place}: exists; expected a new file, keys are not replaced")
    for place, data, mode in ((path, private, 0o600), (public, known, 0o644)):
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise KeyFileError(f"{place}: cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return public


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file without a passphrase; ``KeyFileError`` for anything else."""
    data = _bytes_of(path)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise KeyFileError(f"{path}: has a passphrase; expected a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: no Ed25519 private key in PEM; {_MAKE_ONE}")
    return key


def configured_key() -> Ed25519PrivateKey | None:
    """The key that ``LIMEN_SIGNING_KEY`` names; None where it is unset or empty.

    ``KeyFileError`` where it names no usable key: what should be signed is not sealed unsigned.
    """
    path = os.environ.get(SIGNING_KEY)
    return read_private_key(Path(path)) if path else None


def read_public_keys(paths: Iterable[Path]) -> tuple[Ed25519PublicKey, ...]:
    """Every key in the PEM files ``paths``, of which each may hold several.

    A signature by any of them counts, so that a new key is trusted before the old one goes.
    ``KeyFileError`` for a file without a key, and for a key of another kind.
    """
    keys = []
    for path in paths:
        blocks = _PUBLIC.findall(_bytes_of(path))
        if not blocks:
            raise KeyFileError(f"{path}: no public key in PEM; {_MAKE_ONE}, it ends in .pub")
        for place, block in enumerate(blocks, start=1):
            try:
                key = load_pem_public_key(block)
            except (ValueError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise KeyFileError(f"{path}: key {place} is no Ed25519 public key in PEM")
            keys.append(key)
    return tuple(keys)


def put_signature(folder: Path, signature: bytes) -> None:
    """Put ``signature`` into the release at ``folder``; an earlier one is replaced.

    In one step, collected beside the folder: whoever opens the release meanwhile, or after this
    was killed, finds no file that does not belong there.
    """
    partial = folder.resolve().with_name(f".{folder.resolve().name}.sig.partial")
    write_durably(folder / SIGNATURE, signature, partial=partial)


def read_signature(folder: Path) -> bytes | None:
    """The signature in a release's folder, whoever made it; None where there is none.

    ``ReleaseError`` for what cannot be one: a link, or not 64 bytes.
    """
    path = folder / SIGNATURE
    try:
        status = path.lstat()
        if not S_ISREG(status.st_mode):
            raise ReleaseError(f"{path}: not a plain file; a release holds no links and no devices")
        require_size(status.st_size, str(path))
        return path.read_bytes()
    except FileNotFoundError:
        return None


def require_size(size: int, where: str) -> None:
    """``ReleaseError`` naming ``where`` unless ``size`` is that of a signature."""
    if size != SIGNATURE_BYTES:
        raise ReleaseError(
            f"{where}: {size} bytes, a signature has {SIGNATURE_BYTES}: sign it again with "
            "`limen releases sign`"
        )


def require_signature(folder: Path, manifest: bytes, keys: PublicKeys) -> None:
    """``ReleaseError`` unless one of ``keys`` signed ``manifest``, the bytes of its file."""
    path = folder / SIGNATURE
    signature = read_signature(folder)
    if signature is None:
        raise ReleaseError(
            f"{path}: missing; only releases signed by a trusted key are opened here: "
            "sign it with `limen releases sign`"
        )
    if not any(_verifies(key, signature, manifest) for key in keys):
        raise ReleaseError(
            f"{path}: not made by a trusted key for this manifest; sign it with "
            "`limen releases sign`, or trust the key that signed it with --public-key"
        )


def _verifies(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; expected a key") from None
    if len(data) > _MAX_KEY_BYTES:
        raise KeyFileError(f"{path}: more than {_MAX_KEY_BYTES} bytes; expected a key in PEM")
    return data
