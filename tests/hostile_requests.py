"""Requests made to mislead, to break or to hold a server: every one from one seed.

Each starts from a request that is right and is bent in one or a few ways: bytes, JSON, numbers,
text, images, cursors, paths, headers.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.schema import bodies as schema
from serving.web.refusals import REFUSALS
from tests.asgi_world import Told
from tests.serving_release import World

PATHS = (
    ("POST", b"/v1/query"), ("PUT", b"/v1/items"), ("DELETE", b"/v1/items/some"),
    ("GET", b"/v1/reviews"), ("POST", b"/v1/verdicts"), ("GET", b"/v1/release"),
    ("GET", b"/v1/release/report"), ("GET", b"/v1/consistency"), ("GET", b"/metrics"),
    ("POST", b"/v1/admin/promote"), ("POST", b"/v1/admin/rollback"), ("GET", b"/livez"),
    ("GET", b"/readyz"), ("GET", b"/openapi.json"), ("GET", b"/docs"), ("GET", b"/"),
    ("GET", b"/v1/customers/a/consistency"),
)
VALUES = (
    None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, 10**400, "",
    "0", " ", "\0", "\ud800", "\u202e", "a" * 300, "a" * 100_000, "../../etc/passwd", "' OR 1=1 --",
    "{{7*7}}", "%s%n", [], {}, [[]], [None], {"": None}, {"__proto__": {}}, [1.0] * 5000,
    ["x"] * 1000,
)
RAW = (
    b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"{", b"}", b'{"', b"[" * 100_000,
    b'{"queries":' * 5000, b"\xff\xfe", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"\0" * 100,
    b'{"queries": [{"embedding": [NaN]}]}', b'{"queries": [{"embedding": [Infinity]}]}',
    b'{"queries": [{"embedding": [1e400]}]}',
    b'{"queries": [{"embedding": [' + b"9" * 5000 + b"]}]}",
    b'{"queries": [{"text": "\xed\xa0\x80"}]}', b'{"queries": [{"text": "\\ud800"}]}',
    b'{"queries": [], "queries": [{"text": "a"}]}', b"<a/>", b"a=b&c=d", b"%PDF-1.4",
)
TEXTS = (
    b"", b" ", b"Bearer", b"Bearer ", b"bearer x", b"Basic YTpi", b"Bearer lim_", b"Bearer lim__",
    b"Bearer \xff\xfe", b"Bearer " + b"a" * 20_000, b"Bearer lim_00000000_" + b"A" * 43, b"\0",
    b"Bearer a b c", b"'", b"1" * 400, b"-1", b"1e9", b"0x10", b"\xd9\xa3", b"NaN", b"../..",
)
BITS_OF_PATHS = (
    b"", b"/", b"//", b"..", b"%2e%2e", b"%2f", b"%00", b"%ff", b"%", b"%zz", b"\xff", b"a" * 5000,
    b";", b"?", b"#", b"*", b"{item_id}", b"{customer}", b"\0", b" ", b"%0d%0aSet-Cookie:%20a=b",
)
QUERIES = (
    b"", b"budget=1", b"budget=", b"budget=-1", b"budget=1&budget=2", b"budget=%00", b"budget=%ff",
    b"budget=1e3", b"budget=" + b"9" * 5000, b"customer=b", b"&&&", b"=", b"%", b"a" * 10_000,
    b"budget=\xd9\xa3", b"budget=1;budget=2", b"budget[]=1",
)
METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "CONNECT", "X",
)


@dataclass(frozen=True)
class Hostile:
    """One request as it goes over the wire."""

    method: str
    path: bytes
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Judge:
    """Whether an answer to one customer is sound, and tells nothing that it must not be told."""

    def __init__(self, world: World, customer: str, tokens: Iterable[str]) -> None:
        """``tokens``: the keys of whoever, of which no answer may hold the secret part."""
        own = set(world.rows_of(customer).tolist())
        self.foreign = [
            json.dumps(name).encode() for row, name in enumerate(world.items.item_id)
            if row not in own
        ]
        secrets = [token.split("_", 2)[2].encode() for token in tokens]
        self.never = [*secrets, b"Traceback", b".py", b"/tmp", b"sqlite", b"SELECT ", b"sha256"]
        self.statuses: Counter[int] = Counter()

    def judge(self, request: Hostile, told: Told) -> None:
        self.statuses[told.status] += 1
        shown = (request.method, request.path[:200], request.headers, request.body[:300], told)
        assert told.status < 500 or told.status == 503, shown
        assert told.status in (200, 202, 307) or told.status >= 400, shown
        for text in self.never if b"openapi" not in request.path else ():
            assert text not in told.body or text in request.path + request.body, (text, shown)
        assert not any(name in told.body for name in self.foreign), shown
        assert len(told.body) < 2**20
        if told.status >= 400 and request.method != "HEAD":
            content = json.loads(told.body)
            schema.ErrorAnswer.model_validate(content)
            assert REFUSALS[content["error"]["code"]].status == told.status, shown
            assert "\n" not in content["error"]["message"], shown
        if told.status in (429, 503):
            assert told.headers["retry-after"].isdigit(), shown


def hostile_requests(
    seed: int, count: int, *, key: str, row: Sequence[float], cursor: str, image: bytes
) -> Iterator[Hostile]:
    """``count`` of them; ``key`` is right, ``row`` a unit vector, ``cursor`` and ``image`` too."""
    rng = np.random.default_rng(seed)
    bent = (_json, _json, _json, _bytes, _raw, _content, _cursor, _path, _headers, _method)
    right = (b"authorization", f"Bearer {key}".encode())
    for _ in range(count):
        method, path = PATHS[rng.integers(4) if rng.random() < 0.6 else rng.integers(len(PATHS))]
        request = Hostile(method, path, headers=(right,),
                          body=json.dumps(_right(path, row, image)).encode())
        for _ in range(1 + rng.integers(3)):
            request = bent[rng.integers(len(bent))](rng, request, row, cursor, image)
        yield request


def _right(path, row, image):
    if path == b"/v1/items":
        return {"items": [{"item_id": "mine", "embedding": list(row), "metadata": {"a": 1}}]}
    if path == b"/v1/verdicts":
        return {"verdicts": [{"query_id": "q", "item_id": "i", "is_match": True, "draw_id": "d"}]}
    if path.startswith(b"/v1/admin"):
        return {"release": "0" * 12}
    return {"queries": [{"id": "q", "embedding": list(row)},
                        {"image": base64.b64encode(image).decode()}], "limit": 3}


def _json(rng, request, row, cursor, image):
    """A value somewhere in the body becomes another, goes away or gets a neighbour."""
    try:
        content = json.loads(request.body)
    except (ValueError, RecursionError):
        return request
    places = list(_places(content))
    if not places:
        return replace(request, body=json.dumps(_value(rng)).encode())
    parent, name = places[rng.integers(len(places))]
    choice = rng.integers(4)
    if choice == 0 and isinstance(parent, dict):
        parent[str(_value(rng))[:50]] = _value(rng)
    elif choice == 1:
        del parent[name]
    else:
        parent[name] = _value(rng)
    return replace(request, body=json.dumps(content).encode("utf-8", "surrogatepass"))


def _places(content):
    if isinstance(content, dict | list):
        for name in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, name
            yield from _places(content[name])


def _value(rng):
    return VALUES[rng.integers(len(VALUES))]


def _bytes(rng, request, row, cursor, image):
    """Some bytes of the body change, go, or come twice."""
    body = bytearray(request.body)
    for _ in range(1 + rng.integers(4)):
        if body:
            at = int(rng.integers(len(body)))
            kind = rng.integers(4)
            if kind == 0:
                body[at] = int(rng.integers(256))
            elif kind == 1:
                del body[at:]
            elif kind == 2:
                body[at:at] = body[: int(rng.integers(50))]
            else:
                del body[at : at + int(rng.integers(10))]
    return replace(request, body=bytes(body))


def _raw(rng, request, row, cursor, image):
    return replace(request, body=RAW[rng.integers(len(RAW))])


def _content(rng, request, row, cursor, image):
    """The content of the first query or item is of another kind, and wrong."""
    wrong = np.asarray(row, "<f4")
    kind = rng.integers(8)
    if kind == 0:
        content = {"embedding": (wrong * [0, 2, -1, 1e38][rng.integers(4)]).tolist()}
    elif kind == 1:
        wrong = wrong.copy()
        wrong[rng.integers(wrong.size)] = [np.nan, np.inf, 0, 3e38][rng.integers(4)]
        content = {"embedding_b64": base64.b64encode(wrong.tobytes()).decode()}
    elif kind == 2:
        content = {"embedding_b64": base64.b64encode(rng.bytes(int(rng.integers(200)))).decode()}
    elif kind == 3:
        content = {"image": base64.b64encode(image[: rng.integers(len(image))]).decode()}
    elif kind == 4:
        content = {"image": base64.b64encode(_bomb(rng)).decode()}
    elif kind == 5:
        content = {"image": "data:image/png;base64," + base64.b64encode(image).decode()}
    elif kind == 6:
        content = {"text": str(_value(rng))}
    else:
        content = {"vector": list(row), "embedding": list(row)}
    name = "items" if request.path == b"/v1/items" else "queries"
    entry = {"item_id": "mine", **content} if name == "items" else content
    return replace(request, body=json.dumps({name: [entry]}).encode("utf-8", "surrogatepass"))


def _bomb(rng):
    """A PNG that says it is large beyond measure, or a header and nothing else."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))

    side = [1, 0, 2**16, 2**31 - 1, 30_000][rng.integers(5)]
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _cursor(rng, request, row, cursor, image):
    """A cursor that was bent, of one query."""
    kind = rng.integers(4)
    if kind == 0:
        at = int(rng.integers(len(cursor)))
        bent = cursor[:at] + "Az09-_=*é"[rng.integers(9)] + cursor[at + 1 :]
    elif kind == 1:
        bent = str(_value(rng))
    else:
        content = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        content[rng.integers(len(content))] = _value(rng)
        text = json.dumps(content).encode("utf-8", "surrogatepass")
        bent = base64.urlsafe_b64encode(text).decode().rstrip("=")
    body = {"queries": [{"embedding": list(row)}], "limit": 1, "cursor": bent}
    return replace(request, method="POST", path=b"/v1/query",
                   body=json.dumps(body).encode("utf-8", "surrogatepass"))


def _path(rng, request, row, cursor, image):
    bit = BITS_OF_PATHS[rng.integers(len(BITS_OF_PATHS))]
    at = int(rng.integers(len(request.path) + 1))
    query = QUERIES[rng.integers(len(QUERIES))]
    path = [request.path + b"/" + bit, request.path[:at] + bit + request.path[at:], request.path,
            b"/v1/customers/" + bit + b"/consistency", b"/v1/items/" + bit][rng.integers(5)]
    return replace(request, path=path, query=query)


def _headers(rng, request, row, cursor, image):
    """Another key, id, time or length; or all headers twice."""
    name = (b"authorization", b"x-request-id", b"x-limen-timeout-ms", b"content-length",
            b"idempotency-key", b"content-type", b"accept", b"host")[rng.integers(8)]
    given = (name, TEXTS[rng.integers(len(TEXTS))])
    if rng.random() < 0.2:
        return replace(request, headers=(given, *request.headers, *request.headers))
    return replace(request, headers=(given, *(h for h in request.headers if h[0] != name)))


def _method(rng, request, row, cursor, image):
    return replace(request, method=METHODS[rng.integers(len(METHODS))])
