"""What the server is compared with: uvicorn, Starlette and the retriever, nothing else.

No keys, quotas, checks, records, metrics, cursors, and one process: the least that can answer.

    python -m benchmarks.http.bare RELEASE PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.http.release import CUSTOMER
from pipeline.releases.release import open_release
from serving.answers.answer import Match
from serving.answers.retriever import Retriever


def application(retriever: Retriever) -> Starlette:
    """``POST /v1/query`` with embeddings, answered in the event loop itself."""

    async def query(request: Request) -> Response:
        content = orjson.loads(await request.body())
        rows = np.asarray([one["embedding"] for one in content["queries"]], np.float32)
        results = [
            {
                "matches": [_found(match) for match in answer.matches],
                "match_count": answer.match_count,
                "complete": answer.complete,
                "match_recall": answer.match_recall,
                "nearest_rejected": _found(answer.nearest_rejected),
            }
            for answer in retriever.answer(CUSTOMER, rows)
        ]
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    return Starlette(routes=[Route("/v1/query", query, methods=["POST"])])


def _found(match: Match | None) -> dict[str, object] | None:
    if match is None:
        return None
    return {"item_id": match.item_id, "distance": float(match.distance)}


def main() -> None:
    """Serve until killed."""
    folder, port = sys.argv[1:]
    retriever = Retriever(open_release(Path(folder)))
    retriever.passes_self_query()
    uvicorn.run(application(retriever), port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
