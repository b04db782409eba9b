"""Devices of torch, for products of many pairs in float32 (TF32 off)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceError(RuntimeError):
    """A device that is not there; the message is one line."""


def device_named(name: str) -> torch.device:
    """The device, or a ``DeviceError`` where torch knows no such device or finds none."""
    try:
        place = torch.device(name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeviceError(f"device {name!r} cannot be used ({reason}); try 'cpu'") from None
    return place


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32: in TF32 or bfloat16 their error would be far larger."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
