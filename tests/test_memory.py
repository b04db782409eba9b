"""Memory planned before a release is loaded: the figures, and where they come from."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.releases.manifest import FileEntry, Manifest
from pipeline.releases.release import Release, open_release
from serving.releases.memory import RoomError, available_bytes, needed_bytes, require_room
from tests.serving_release import make_world

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory") / "release"
    make_world(folder)
    return folder


def system(root, *, machine=None, groups=()):
    """A machine with so much left, and (path, limit, used, cached) of each control group."""
    (root / "proc/self").mkdir(parents=True)
    if machine is not None:
        (root / "proc/meminfo").write_text(
            f"MemTotal:       99999999 kB\nMemAvailable:   {machine // 1024} kB\n")
    for path, limit, used, cached in groups:
        group = root / "sys/fs/cgroup" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon {used}\ninactive_file {cached}\nactive_file 7\n")
    return root


def test_the_least_of_machine_and_every_group_around_the_process_counts(tmp_path):
    groups = [("pods/one", "max", 5 * MIB, MIB), ("pods", 100 * MIB, 70 * MIB, 10 * MIB)]
    root = system(tmp_path, machine=900 * MIB, groups=groups)
    (root / "proc/self/cgroup").write_text("1:name=systemd:/x\n0::/pods/one\n")
    assert available_bytes(root) == 40 * MIB  # 100 - 70 + 10, of the outer group
    (root / "proc/meminfo").write_text(f"MemAvailable: {30 * 1024} kB\n")
    assert available_bytes(root) == 30 * MIB
    (root / "proc/self/cgroup").write_text("0::/elsewhere\n")
    (root / "proc/meminfo").unlink()
    assert available_bytes(root) is None


def test_a_group_at_the_root_and_a_machine_without_groups_are_read_too(tmp_path):
    root = system(tmp_path / "a", groups=[("", 64 * MIB, 60 * MIB, 0)])
    (root / "proc/self/cgroup").write_text("0::/\n")
    assert available_bytes(root) == 4 * MIB
    assert available_bytes(system(tmp_path / "b", machine=8 * MIB)) == 8 * MIB
    assert available_bytes(tmp_path / "nothing") is None


def test_a_release_is_refused_by_one_byte_and_taken_without_figures(folder):
    release = open_release(folder)
    needed = needed_bytes(release)
    require_room(release, needed)
    require_room(release, None)
    with pytest.raises(RoomError, match=rf"{release.id12} needs {needed / MIB:,.0f} MiB") as said:
        require_room(release, needed - 1)
    assert "\n" not in str(said.value)


def test_more_items_and_a_larger_network_need_more(folder, tmp_path):
    more = make_world(tmp_path / "more", own=900).release
    release = open_release(folder)
    assert needed_bytes(more) - needed_bytes(release) > 1200 * 5 * 100
    index = sum(e.size for n, e in more.manifest.files.items() if n.startswith("index/"))
    assert needed_bytes(more) < 80 * MIB + index


def test_files_of_the_index_that_are_mapped_need_no_memory_and_the_others_do(folder, tmp_path):
    release = open_release(folder)
    needed = needed_bytes(release)
    for name, added in (("00000.codes.npy", 0), ("00000.faiss", 0), ("00000.npz", 9 * MIB)):
        files = {**release.manifest.files, f"index/{name}": FileEntry("0" * 64, 9 * MIB)}
        there = release.manifest.files.get(f"index/{name}", FileEntry("0" * 64, 0)).size
        other = Release(folder, Manifest(release.manifest.facts, files))
        assert needed_bytes(other) == needed + (added and added - there)


OPENED = """
import sys
from pathlib import Path
from pipeline.releases.release import open_release
from serving.releases.memory import needed_bytes
from serving.answers.retriever import Retriever
import pipeline.encoding.encoder, pyarrow.parquet

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

release = open_release(Path(sys.argv[1]))
needed, before = needed_bytes(release), resident()
retriever = Retriever(release)
assert retriever.passes_self_query() and retriever.kind
print(needed, resident() - before)
"""


def test_what_opening_takes_is_no_more_than_what_was_asked_for(folder):
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(folder)], text=True, capture_output=True, check=True,
        cwd=Path(__file__).parent.parent,
    )
    needed, taken = map(int, done.stdout.split())
    assert 0 < taken <= needed
