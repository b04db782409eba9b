"""HAProxy under our terms, whatever configuration Ray writes for it; standard library only.

Ray starts the program that ``RAY_SERVE_HAPROXY_BINARY_PATH`` names with ``-f CONFIGURATION``. This
file is that program: it mends the configuration, then becomes HAProxy, under the same process id.

- Where no replica answers, HAProxy refuses in JSON like ours, with 503 and ``Retry-After``: Ray
  has it say a plain 500, and 404 until it has heard of the first replica.
- What uvicorn takes for no HTTP, such as a method that it does not know, is refused in JSON too,
  and so is a path that does not begin with a slash.
  (What HAProxy takes for none gets its built-in 400: that one cannot be changed.)
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

_UNAVAILABLE, _FLOODING, _MALFORMED = "unavailable.http", "flooding.http", "malformed.http"
_TABLE = "limen_refused"
_FOLDER = "@FOLDER@"  # stands for where the refusals lie
_ONCE = "{ req.fhdr_cnt(x-request-id) eq 1 }"
_NAMED = f"{_ONCE} {{ req.fhdr(x-request-id) -m reg ^[!-~]{{1,128}}$ }}"
_AGAIN = f"{{ sc_gpc0_rate(0,{_TABLE}) ge {OFTEN} }}"
_PLAIN = "{ res.hdr(content-type) -m beg text/plain }"
_REPEATED = f"""    timeout http-request {HEAD_SECONDS}s
    http-request return status 400 errorfile {_FOLDER}/{_MALFORMED} unless {{ path_beg / }}
    http-request del-header x-request-id unless {_NAMED}
    http-request track-sc0 req.hdr(authorization),sha1 table {_TABLE}
    http-request return status 429 errorfile {_FOLDER}/{_FLOODING} if {_AGAIN}
    http-response sc-inc-gpc0(0) if {{ status 401 429 }}
    http-response return status 400 errorfile {_FOLDER}/{_MALFORMED} if {{ status 400 }} {_PLAIN}
"""
_SLOW_DOWN = f"refused {OFTEN} times within a second; wait before you try again"
_NOBODY = "no replica answers at the moment; try again"
_SOON = "Retry-After: 1\r\n"
_TIMED = "{ req.hdr(grpc-timeout) -m found }"
_STATED = "{ res.hdr(grpc-status) -m found }"  # by HAProxy itself: it gives these no type
_GRPC_RETURN = ("    http-request return status 200 hdr grpc-status {} hdr grpc-message \"{}\" "
                "hdr limen-code {} hdr retry-after 1")
_GRPC_REPEATED = f"""    timeout http-request {HEAD_SECONDS}s
    http-request set-header {GRPC_TIMEOUT} %[req.hdr(grpc-timeout)] if {_TIMED}
    http-request track-sc0 req.hdr(authorization),sha1 table {_TABLE}
{_GRPC_RETURN.format(8, _SLOW_DOWN, "rate_limited")} if {_AGAIN}
    http-response wait-for-body time 10s at-least 6
    http-response sc-inc-gpc0(0) if {{ res.body_len le 5 }}
    http-after-response set-header content-type application/grpc if {_STATED}
"""
_REMEMBERED = f"""backend {_TABLE}
    stick-table type binary len 20 size 100k expire 10s store gpc0_rate(1s)
"""


def refusal() -> bytes:
    """The whole HTTP answer where no replica answers."""
    return _answer("503 Service Unavailable", "unavailable", _NOBODY, _SOON)


def flooding() -> bytes:
    """The whole HTTP answer to a key that was refused again and again."""
    return _answer("429 Too Many Requests", "rate_limited", _SLOW_DOWN, _SOON)


def malformed() -> bytes:
    """The whole HTTP answer to what a replica's web server takes for no request."""
    return _answer("400 Bad Request", "invalid_request", "this is no valid HTTP request")


def _answer(status: str, code: str, message: str, headers: str = "") -> bytes:
    body = json.dumps({
        "error": {"code": code, "message": message, "details": {}},
        "request_id": "",  # one answer for all requests: nobody here knows which
    }).encode()
    head = (f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


def mended(configuration: str, folder: Path) -> str:
    """``configuration`` on our terms; ``folder`` holds the refusals.

    Mending what was mended changes nothing, and lines of other versions of Ray stay as they are.
    """
    unavailable = str(folder / _UNAVAILABLE)
    for pattern, text in (
        # Whatever the failure behind it, another try is the remedy.
        (r"^(\s*errorfile 50[234]) .*$", r"\1 {}"),
        (r"^(backend default_backend\n)    http-request return .*$",
         r"\1    http-request return status 503 errorfile {}"),
        (r"^(\s*bind) \*?:(\d+)$", r"\1 127.0.0.1:\2"),
        (r"^    http-request return .* hdr grpc-message \"Application metadata not set.*$",
         _GRPC_RETURN.format(14, _NOBODY, "unavailable")),
    ):
        text = text.format(unavailable.replace("\\", r"\\"))
        configuration = re.sub(pattern, text, configuration, flags=re.MULTILINE)
    if _TABLE in configuration:
        return configuration
    rules = _REPEATED.replace(_FOLDER, str(folder))
    for frontend, own in (("http_frontend", rules), ("grpc_frontend", _GRPC_REPEATED)):
        place = re.compile(rf"^frontend {frontend}\n(?:    #.*\n)*    bind .*\n", re.MULTILINE)
        if head := place.search(configuration):
            configuration = configuration[: head.end()] + own + configuration[head.end() :]
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
    for name, answer in (
        (_UNAVAILABLE, refusal()), (_FLOODING, flooding()), (_MALFORMED, malformed()),
    ):
        (path.parent / name).write_bytes(answer)
    path.write_text(mended(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    os.execv(haproxy, [haproxy, *arguments])


if __name__ == "__main__":
    main()
