"""Just enough of an HTTP client to play a customer: JSON over loopback, standard library only."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

_GAUGE = re.compile(r"^(limen_\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class DemoError(RuntimeError):
    """The server did not do what the demonstration needs; the message is one line."""


@dataclass(frozen=True, slots=True)
class Client:
    """One key at one server."""

    url: str
    key: str

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON, return the JSON of the answer."""
        return self._json(path, json.dumps(body).encode())

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at ``path``."""
        return self._json(path, None)

    def gauges(self) -> dict[tuple[str, str], float]:
        """(name, customer) to value, for every series at ``/metrics`` that has a customer.

        Series that differ in other labels alone are summed.
        """
        found: dict[tuple[str, str], float] = defaultdict(float)
        for name, labels, value in _GAUGE.findall(self.metrics()):
            customer = dict(_LABEL.findall(labels)).get("customer")
            if customer is not None:
                found[name, customer] += float(value)
        return found

    def metrics(self) -> str:
        """The text of ``/metrics``."""
        return self._send("/metrics", None).decode()

    def _json(self, path: str, body: bytes | None) -> dict[str, Any]:
        answer = json.loads(self._send(path, body))
        assert isinstance(answer, dict)
        return answer

    def _send(self, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise DemoError(f"{path}: status {error.code}: {text}") from None
        except OSError as error:
            raise DemoError(f"{path}: no answer from {self.url}: {error}") from None
