"""A PostgreSQL of the tests' own: Debian's programs or those of ``pgserver``, on a socket file.

It writes to the disk like one in service, so that killing it shows what is durable.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

MISSING = "no PostgreSQL here; pip install pgserver, or Debian: apt-get install postgresql"


def programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``, None where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    found = shutil.which("initdb")
    packaged = importlib.util.find_spec("pgserver")
    folders = [Path(found).resolve().parent] if found else debian[-1:]
    if packaged and packaged.origin:
        folders.append(Path(packaged.origin).parent / "pginstall" / "bin")
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """One server; every URL it gives is a schema of its own, empty."""

    def __init__(self, folder: Path) -> None:
        self._programs = folder
        # Short, since the name of a socket may have 107 characters; not below the folders of
        # pytest, which only their owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="limen-pg-"))
        self._given = 0
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if user:
            shutil.chown(self._folder, user)
        self._run = functools.partial(
            subprocess.run, user=user, check=True, capture_output=True, timeout=60,
            cwd=self._folder,
        )
        self._initialise()
        self.start()

    def _initialise(self) -> None:
        """A cluster whose order of names is that of a language, where it is built with those."""
        plain = [self._programs / "initdb", "-D", self._folder / "data", "-A", "trust", "-U",
                 "limen", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        try:
            self._run([*plain, "--locale-provider=icu", "--icu-locale=en"])
        except subprocess.CalledProcessError:
            self._run(plain)

    def start(self) -> None:
        """Start it, after it was killed too, and wait until it answers."""
        # Its output goes to the file: a pipe would stay open with the server.
        self._run([
            self._programs / "pg_ctl", "-D", self._folder / "data", "-w", "-l",
            self._folder / "log", "-o", "-c listen_addresses= -c max_connections=300 -c "
            f"shared_buffers=16MB -c unix_socket_directories={self._folder}", "start",
        ], capture_output=False, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a crash of the machine would: nothing is written out."""
        self._run([self._programs / "pg_ctl", "-D", self._folder / "data", "-m", "immediate",
                   "stop"])

    def stop(self) -> None:
        """End it and remove its files."""
        with suppress(subprocess.CalledProcessError):
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_url(self) -> str:
        """URL of an empty database."""
        import psycopg

        self._given += 1
        name = f"schema_{self._given}"
        with psycopg.connect(host=str(self._folder), user="limen", dbname="postgres") as link:
            link.execute(f"CREATE SCHEMA {name}")
        return (f"postgresql://limen@/postgres?host={self._folder}"
                f"&options=-csearch_path%3D{name}")
