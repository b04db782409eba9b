"""Real traffic: images that the model never saw as queries, their true labels as the reviewer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.demo.client import Client
from pipeline.data.items import Items

_BATCH = 16
_BUDGET = 500


@dataclass(frozen=True, slots=True)
class Traffic:
    """The customers of the table, their queries, and what is true of every pair."""

    items: Items
    clients: dict[str, Client]
    """A client for each customer, with its own key."""
    asked: dict[str, int] = field(default_factory=dict)
    """Row of the item behind each query id."""

    def usual(self, customer: str) -> NDArray[np.int64]:
        """Rows of the customer's queries in the styles that the release was calibrated on."""
        served = np.isin(self.items.split.astype(np.str_), ["calibrate", "report"])
        return np.flatnonzero(served & self._of(customer))

    def held_out(self, customer: str) -> NDArray[np.int64]:
        """Rows of the same classes, drawn in the style that was held out."""
        classes = set(self.items.label[self.usual(customer)])
        known = np.asarray([label in classes for label in self.items.label], np.bool_)
        return np.flatnonzero((self.items.split == "held_out") & known & self._of(customer))

    def ask(self, customer: str, rows: NDArray[np.int64]) -> list[tuple[int, dict[str, Any]]]:
        """Send each row's image as a query of ``customer``; (row, result) pairs."""
        answers = []
        for start in range(0, rows.size, _BATCH):
            block = rows[start : start + _BATCH]
            queries = [{"image": base64.b64encode(self.items.content[i]).decode()} for i in block]
            body = {"queries": queries, "limit": 5, "with": ["metadata"]}
            results = self.clients[customer].post("/v1/query", body)["results"]
            answers += list(zip(block.tolist(), results, strict=True))
        self.asked.update({result["query_id"]: row for row, result in answers})
        return answers

    def review(self, customer: str) -> int:
        """Answer every pair that ``/v1/reviews`` draws with its true label; their number."""
        client, done = self.clients[customer], 0
        truth = self._labels(customer)
        while pairs := client.get(f"/v1/reviews?budget={_BUDGET}")["reviews"]:
            verdicts = [
                {
                    **{name: pair[name] for name in ("query_id", "item_id", "draw_id")},
                    "is_match": truth[pair["item_id"]]
                    == self.items.label[self.asked[pair["query_id"]]],
                }
                for pair in pairs
            ]
            client.post("/v1/verdicts", {"verdicts": verdicts})
            done += len(verdicts)
        return done

    def name(self, row: int) -> str:
        """What the item at ``row`` shows, for people."""
        return str(self.items.metadata["name"][row].as_py())

    def _of(self, customer: str) -> NDArray[np.bool_]:
        return np.asarray((self.items.customer == customer) & (self.items.role == "query"))

    def _labels(self, customer: str) -> dict[str, str]:
        mine = self.items.customer == customer
        return dict(zip(self.items.item_id[mine], self.items.label[mine], strict=True))
