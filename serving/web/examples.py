"""Bodies as the OpenAPI document shows them; each is checked against its model by a test."""

from __future__ import annotations

RELEASE = "3f9c1a20b7d4"
REQUEST = "5f0b8ad1c2e94d7c9a1f6e3b2d4c8a70"
QUERY = "9b1d6f0e4c7a4b52a3e8d1f20c6b7e94"
ITEM = "1f385-noto"

_THRESHOLD = {"value": 0.41, "source": "calibrated", "rule": "distance <= threshold"}

QUERIES = {
    "image": {"queries": [{"id": "q1", "image": "<base64 of an image file>"}], "limit": 10,
              "with": ["metadata"]},
    "text": {"queries": [{"text": "a small red lamp"}]},
    "vector": {"queries": [{"vector": [0.5, -1.25, 3.0]}], "exact": True},
    "embedding": {"queries": [{"embedding": [0.6, -0.8]}, {"embedding_b64": "mpkZP83MTL8="}]},
}
"""By the kind of the release; the last for any."""

QUERY_ANSWER = {
    "release": RELEASE,
    "threshold": _THRESHOLD,
    "results": [{
        "id": "q1", "query_id": QUERY,
        "matches": [{"item_id": ITEM, "distance": 0.38, "metadata": {"name": "fishing pole"}}],
        "match_count": 137, "complete": True, "match_recall": 0.9993,
        "next_cursor": "WzEsIjNmOWMxYSJd",
        "nearest_rejected": {"item_id": "1f3a3-noto", "distance": 0.43},
        "recorded": True,
    }],
    "request_id": REQUEST,
}

REVIEWS_ANSWER = {
    "reviews": [{"draw_id": "d81c0a", "query_id": QUERY, "item_id": ITEM, "distance": 0.38}],
    "release": RELEASE, "request_id": REQUEST,
}

VERDICTS = {"a review": {"verdicts": [
    {"query_id": QUERY, "item_id": ITEM, "is_match": True, "draw_id": "d81c0a"},
]}}

VERDICTS_ANSWER = {"accepted": 1, "repeated": 0, "request_id": REQUEST}

RELEASE_ANSWER = {
    "release": RELEASE, "dimension": 128, "kind": "image", "threshold": _THRESHOLD,
    "calibration": {"rule": "far_target 0.001", "range": [0.3, 0.6],
                    "guarantee": "FAR, averaged over the customers, is at most 0.001."},
    "request_id": REQUEST,
}


def _estimate(value: float, half: float) -> dict[str, float]:
    return {"value": value, "lower": round(value - half, 6), "upper": round(value + half, 6)}


_DRIFT = {
    "customer": "acme", "calibrated": True, "reviewed": 120, "far": 0.0008, "frr": 0.11,
    "precision": 0.93, "inconsistency": _estimate(0.004, 0.003),
    "inconsistency_drift": _estimate(0.001, 0.004), "curve_shift": _estimate(0.002, 0.003),
    "utility_change": _estimate(-0.01, 0.03),
}

_RECORDED = {"customer": "acme", "queries": 5120.0, "recorded": 512, "drawn_verdicts": 340,
             "volunteered_verdicts": 12}

CONSISTENCY_ANSWER = {
    "release": RELEASE, "threshold": 0.41,
    "opis": {"raw": 0.0061, "corrected": _estimate(0.0042, 0.0011), "customers": 9},
    "customers": [_DRIFT], "recorded": [_RECORDED],
}

OWN_CONSISTENCY_ANSWER = {
    "release": RELEASE, "threshold": 0.41, "customer": "acme", "drift": _DRIFT,
    "recorded": _RECORDED,
}

PROMOTE = {"an id": {"release": RELEASE}}

ROLLBACK: dict[str, object] = {"the one before": {}}

MOVED_ANSWER = {
    "alias": "production", "release": RELEASE, "replicas": 2, "swapped": 2, "request_id": REQUEST,
}

METRICS = """# HELP limen_threshold Served threshold.
# TYPE limen_threshold gauge
limen_threshold{release="3f9c1a20b7d4"} 0.41
"""

ITEMS = {
    "images": {"items": [
        {"item_id": "lamp-7", "image": "<base64 of an image file>", "label": "lamp",
         "metadata": {"name": "Small red lamp", "price": 19.5}},
        {"item_id": "lamp-8", "image": "<base64 of an image file>"},
    ]},
    "embedding": {"items": [{"item_id": "lamp-7", "embedding_b64": "mpkZP83MTL8="}]},
}

ITEMS_ANSWER = {"accepted": 2, "change": 17, "request_id": REQUEST}

DELETED_ANSWER = {"change": 18, "request_id": REQUEST}
