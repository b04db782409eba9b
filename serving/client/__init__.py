"""A client of the HTTP interface, for programs: typed answers, retries, one deadline.

::

    from serving.client import Client, Query

    with Client("http://127.0.0.1:8000", key="lim_..") as limen:
        answer = limen.query([Query(text="a small red lamp")])
        for match in limen.matches(Query(image=Path("lamp.png"))):  # all of them, page by page
            print(match.distance, match.item_id)

``AsyncClient`` has the same methods to await. It needs httpx and NumPy and nothing of a server's.
"""

from serving.client.asynchronous import AsyncClient
from serving.client.errors import (
    AnswerError,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InvalidRequestError,
    LimenError,
    NotFoundError,
    ReleaseChangedError,
    ServerFaultError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from serving.client.synchronous import Client
from serving.client.types import (
    Answer,
    Consistency,
    Item,
    ItemsKept,
    Match,
    Moved,
    OwnConsistency,
    Query,
    ReleaseFacts,
    Result,
    Review,
    Verdict,
    VerdictsKept,
)

__all__ = [
    "Answer", "AnswerError", "AsyncClient", "Client", "ConflictError", "Consistency",
    "DeadlineError", "ForbiddenError", "InvalidRequestError", "Item", "ItemsKept", "LimenError",
    "Match", "Moved", "NotFoundError", "OwnConsistency", "Query", "ReleaseChangedError",
    "ReleaseFacts", "Result", "Review", "ServerFaultError", "TooManyRequestsError",
    "UnauthenticatedError", "UnavailableError", "UnexpectedAnswerError", "UnreachableError",
    "Verdict", "VerdictsKept",
]
