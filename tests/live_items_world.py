"""A gallery with ties that several replicas serve, and the items it has by brute force."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from pipeline.config import IndexConfig
from pipeline.item_log.changes import Content, NewItem
from pipeline.item_log.log import ItemLog
from pipeline.live.database import Database
from pipeline.search.index import build_index
from serving.answers.live_items import LiveItems
from serving.answers.retriever import Retriever
from serving.counters import Counters
from tests.search_world import as_release, brute_distances, make_gallery

MODEL = "m" * 64
CUSTOMERS = ("acme", "zeta", "tiny", "nobody")


def make_release(folder, kind="flat"):
    gallery = make_gallery(shared=60, large=180, small=12)
    gallery.write(folder)
    build_index(gallery, IndexConfig(kind=kind, match_recall=0.5), folder)
    return release_of(folder, gallery)


def release_of(folder, gallery, model=MODEL):
    release = as_release(folder, gallery)
    release.manifest = SimpleNamespace(measured_with=SimpleNamespace(model=model))
    return release


def replica(release, folder):
    """(retriever, live items) as one process of its own would have them."""
    retriever = Retriever(release)
    log = ItemLog(Database(f"sqlite:///{folder / 'records.db'}"))
    return retriever, LiveItems(log, retriever, Counters())


def put_item(item_id, vector, **fields):
    data = np.asarray(vector, "<f4").tobytes()
    return NewItem(item_id=item_id, content=Content(kind="embedding", data=data, encoder=MODEL),
                   **fields)


class Oracle:
    """Items as a dictionary: {(customer, item_id): (vector, number of the change or 0)}."""

    def __init__(self, gallery):
        self.items = {
            (customer, item_id): (vector, 0) for customer, item_id, vector in
            zip(gallery.customer, gallery.item_id, gallery.vectors, strict=True)
        }
        self.shared = {item_id for customer, item_id in self.items if customer is None}
        self.numbers = dict.fromkeys(CUSTOMERS, 0)

    def put(self, customer, vectors):
        for item_id, vector in vectors.items():
            self.numbers[customer] += 1
            self.items[customer, item_id] = vector, self.numbers[customer]

    def delete(self, customer, item_id):
        if self.items.pop((customer, item_id), None) is None:
            return False
        self.numbers[customer] += 1
        return True

    def order(self, customer, query, up_to=None):
        """[(distance, item_id)] of all that the customer sees, in the order of an answer."""
        seen = [
            (item_id, vector) for (owner, item_id), (vector, number) in self.items.items()
            if owner in (None, customer) and (up_to is None or number <= up_to)
        ]
        if not seen:
            return []
        distances = brute_distances(query, np.stack([vector for _, vector in seen]))
        return sorted((float(d), i) for d, (i, _) in zip(distances, seen, strict=True))


def pairs(matches):
    return [(float(match.distance), match.item_id) for match in matches]


def check(answer, order, threshold, limit, after=None):
    """The answer is what the ordered items say."""
    matches = [entry for entry in order if entry[0] <= float(threshold)]
    shown = [entry for entry in matches if after is None or entry > after]
    assert pairs(answer.matches) == shown[:limit]
    assert answer.match_count == len(matches)
    assert (answer.complete, answer.match_recall) == (True, 1.0)
    rejected = order[len(matches)] if len(matches) < len(order) else None
    near = answer.nearest_rejected
    assert (near and (float(near.distance), near.item_id)) == rejected
    assert (answer.next_after is None) == (len(shown) <= limit)
