"""HAProxy under our terms, whatever configuration Ray writes for it; standard library only.

Ray starts the program that ``RAY_SERVE_HAPROXY_BINARY_PATH`` names with ``-f CONFIGURATION``. This
file is that program: it mends the configuration, then becomes HAProxy, under the same process id.

- Where no replica answers, HAProxy refuses in JSON like ours, with 503 and ``Retry-After``: Ray
  has it say a plain 500, and 404 until it has heard of the first replica. (What is no HTTP at all
  gets HAProxy's built-in 400: that one cannot be changed.)
- What only this machine should see is bound to loopback: statistics and metrics.
- A key that was refused ``OFTEN`` times within a second (401 or 429) is refused here until it
  slows down, at a hundredth of what it costs a replica: whoever floods takes no time from others.

    python -I -S serving/machine/haproxy.py HAPROXY -db -f CONFIGURATION ...    (started by Ray)
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"

OFTEN = 50
"""Refusals of one key in a second that are still a replica's to give, count and tell."""

_UNAVAILABLE, _FLOODING = "unavailable.http", "flooding.http"
_TABLE = "limen_refused"
_REPEATED = f"""    http-request track-sc0 req.hdr(authorization),sha1 table {_TABLE}
    http-request return status 429 errorfile {{}} if {{{{ sc_gpc0_rate(0,{_TABLE}) ge {OFTEN} }}}}
    http-response sc-inc-gpc0(0) if {{{{ status 401 429 }}}}
"""
_REMEMBERED = f"""backend {_TABLE}
    stick-table type binary len 20 size 100k expire 10s store gpc0_rate(1s)
"""


def refusal() -> bytes:
    """The whole HTTP answer where no replica answers."""
    return _answer("503 Service Unavailable", "unavailable",
                   "no replica answers at the moment; try again")


def flooding() -> bytes:
    """The whole HTTP answer to a key that was refused again and again."""
    return _answer("429 Too Many Requests", "rate_limited",
                   f"refused {OFTEN} times within a second; wait before you try again")


def _answer(status: str, code: str, message: str) -> bytes:
    body = json.dumps({
        "error": {"code": code, "message": message, "details": {}},
        "request_id": "",  # one answer for all requests: nobody here knows which
    }).encode()
    head = (f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Retry-After: 1\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


def mended(configuration: str, folder: Path) -> str:
    """``configuration`` on our terms; ``folder`` holds the refusals.

    Mending what was mended changes nothing, and lines of other versions of Ray stay as they are.
    """
    place = str(folder / _UNAVAILABLE)
    for pattern, text in (
        # Whatever the failure behind it, another try is the remedy.
        (r"^(\s*errorfile 50[234]) .*$", r"\1 {}"),
        (r"^(backend default_backend\n)    http-request return .*$",
         r"\1    http-request return status 503 errorfile {}"),
        (r"^(\s*bind) \*?:(\d+)$", r"\1 127.0.0.1:\2"),
    ):
        text = text.format(place.replace("\\", r"\\"))
        configuration = re.sub(pattern, text, configuration, flags=re.MULTILINE)
    if _TABLE in configuration:
        return configuration
    rules = _REPEATED.format(str(folder / _FLOODING).replace("\\", r"\\"))
    return re.sub(r"^(frontend http_frontend\n    bind .*\n)", rf"\1{rules}", configuration,
                  flags=re.MULTILINE).rstrip("\n") + "\n" + _REMEMBERED


def write_program(folder: Path, haproxy: str) -> Path:
    """A program in ``folder`` that is ``haproxy`` under our terms."""
    words = [sys.executable, "-I", "-S", __file__, haproxy]
    program = folder / "haproxy"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    return program


def main() -> None:
    """Mend the configuration after ``-f`` and become HAProxy."""
    haproxy, *arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    for name, answer in ((_UNAVAILABLE, refusal()), (_FLOODING, flooding())):
        (path.parent / name).write_bytes(answer)
    path.write_text(mended(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    os.execv(haproxy, [haproxy, *arguments])


if __name__ == "__main__":
    main()
