"""Seconds of the processor and memory of this process, its children and named servers (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def one_core() -> None:
    """Keep this process, and what it starts, on one core: one thread for every engine."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def seconds(processes: Iterable[int]) -> float:
    """Of the processor, taken so far by this process, its ended children and the processes."""
    total = 0.0
    for process in processes:
        if process == os.getpid():
            times = os.times()
            total += time.process_time() + times.children_user + times.children_system
        elif fields := _stat(process):
            total += sum(int(field) for field in fields[11:15]) / TICKS  # its own, its children's
    return total


def memory(servers: Iterable[int]) -> dict[str, int]:
    """Bytes resident: ``own`` (anonymous and shared memory) and ``mapped`` (from files)."""
    own = mapped = 0
    for process in family(servers):
        for line in (Path("/proc") / str(process) / "smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Pss_Anon", "Pss_Shmem"):
                own += int(rest.split()[0]) * 1024
            elif name == "Pss_File":
                mapped += int(rest.split()[0]) * 1024
    return {"own": own, "mapped": mapped}


def family(servers: Iterable[int]) -> list[int]:
    """This process and the servers, and all that descend from them, each once."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: dict[int, None] = {}
    waiting = [os.getpid(), *servers]
    while waiting:
        process = waiting.pop()
        if process not in found:
            found[process] = None
            waiting += children.get(process, [])
    return list(found)


def _stat(process: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on; none of a process that has ended."""
    try:
        text = (Path("/proc") / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
