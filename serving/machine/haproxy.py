"""HAProxy under our terms, whatever configuration Ray writes for it; standard library only.

Ray starts the program that ``RAY_SERVE_HAPROXY_BINARY_PATH`` names with ``-f CONFIGURATION``. This
file is that program: it mends the configuration, then becomes HAProxy, under the same process id.

- Where no replica answers, HAProxy refuses in JSON like ours, with 503 and ``Retry-After``: Ray
  has it say a plain 500, and 404 until it has heard of the first replica. (What is no HTTP at all
  gets HAProxy's built-in 400: that one cannot be changed.)
- What only this machine should see is bound to loopback: statistics and metrics.
- A head that does not come in ``HEAD_SECONDS`` ends its connection: there are only so many.
- A request's id that Limen would not take is left out: Ray repeats any, and breaks on some.
- A key that was refused ``OFTEN`` times within a second (401 or 429) is refused here until it
  slows down, at a hundredth of what it costs a replica: whoever floods takes no time from others.
- The same for gRPC, where every refusal counts: its status stands in trailers, which HAProxy cannot
  read, but a refusal has no message. Whoever heeds ``retry-after`` does not come near ``OFTEN``.
- The deadline of a gRPC call is told under a name that Ray lets through, ``GRPC_TIMEOUT``.

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

HEAD_SECONDS = 5
"""To the end of a request's head: by default a byte a minute would hold a connection for ever."""

GRPC_TIMEOUT = "x-limen-grpc-timeout"
"""Metadata with what the client sent as ``grpc-timeout``, which gRPC keeps to itself."""

_UNAVAILABLE, _FLOODING = "unavailable.http", "flooding.http"
_TABLE = "limen_refused"
_ONCE = "{{ req.fhdr_cnt(x-request-id) eq 1 }}"  # the braces are doubled for ``format``
_NAMED = f"{_ONCE} {{{{ req.fhdr(x-request-id) -m reg ^[!-~]{{{{1,128}}}}$ }}}}"
_REPEATED = f"""    timeout http-request {HEAD_SECONDS}s
    http-request del-header x-request-id unless {_NAMED}
    http-request track-sc0 req.hdr(authorization),sha1 table {_TABLE}
    http-request return status 429 errorfile {{}} if {{{{ sc_gpc0_rate(0,{_TABLE}) ge {OFTEN} }}}}
    http-response sc-inc-gpc0(0) if {{{{ status 401 429 }}}}
"""
_SLOW_DOWN = f"refused {OFTEN} times within a second; wait before you try again"
_NOBODY = "no replica answers at the moment; try again"
_TIMED = "{ req.hdr(grpc-timeout) -m found }"
_STATED = "{ res.hdr(grpc-status) -m found }"  # by HAProxy itself: it gives these no type
_GRPC_RETURN = ("    http-request return status 200 hdr grpc-status {} hdr grpc-message \"{}\" "
                "hdr limen-code {} hdr retry-after 1")
_GRPC_REPEATED = f"""    timeout http-request {HEAD_SECONDS}s
    http-request set-header {GRPC_TIMEOUT} %[req.hdr(grpc-timeout)] if {_TIMED}
    http-request track-sc0 req.hdr(authorization),sha1 table {_TABLE}
{_GRPC_RETURN.format(8, _SLOW_DOWN, "rate_limited")} if {{ sc_gpc0_rate(0,{_TABLE}) ge {OFTEN} }}
    http-response wait-for-body time 10s at-least 6
    http-response sc-inc-gpc0(0) if {{ res.body_len le 5 }}
    http-after-response set-header content-type application/grpc if {_STATED}
"""
_REMEMBERED = f"""backend {_TABLE}
    stick-table type binary len 20 size 100k expire 10s store gpc0_rate(1s)
"""


def refusal() -> bytes:
    """The whole HTTP answer where no replica answers."""
    return _answer("503 Service Unavailable", "unavailable", _NOBODY)


def flooding() -> bytes:
    """The whole HTTP answer to a key that was refused again and again."""
    return _answer("429 Too Many Requests", "rate_limited", _SLOW_DOWN)


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
        (r"^    http-request return .* hdr grpc-message \"Application metadata not set.*$",
         _GRPC_RETURN.format(14, _NOBODY, "unavailable")),
    ):
        text = text.format(place.replace("\\", r"\\"))
        configuration = re.sub(pattern, text, configuration, flags=re.MULTILINE)
    if _TABLE in configuration:
        return configuration
    rules = _REPEATED.format(str(folder / _FLOODING).replace("\\", r"\\"))
    for frontend, own in (("http_frontend", rules), ("grpc_frontend", _GRPC_REPEATED)):
        configuration = re.sub(rf"^(frontend {frontend}\n(?:    #.*\n)*    bind .*\n)",
                               rf"\1{own}", configuration, flags=re.MULTILINE)
    return configuration.rstrip("\n") + "\n" + _REMEMBERED


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
