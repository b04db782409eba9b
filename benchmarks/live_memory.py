"""The most memory that torch holds at once on the CPU during a call, from its own allocator."""

from __future__ import annotations

import os
from collections.abc import Callable


def peak_bytes(call: Callable[[], object]) -> int:
    """Bytes allocated and not yet freed, at their most, above what was there before ``call``.

    Torch's profiler records every allocation and release of its allocator with the time; the
    peak is that of their running sum, so temporaries inside an operator count too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    live = peak = 0
    for _, size in changes:
        live += size
        peak = max(peak, live)
    return peak
