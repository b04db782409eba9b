"""What can go wrong between a program and the server, one class for each thing to do about it."""

from __future__ import annotations

import json
from collections.abc import Mapping


class LimenError(RuntimeError):
    """Anything that kept an answer from coming; the message is one line."""


class UnreachableError(LimenError):
    """No connection, or one that broke: nobody knows whether the server did it."""


class DeadlineError(LimenError):
    """The time given for the call is up."""


class UnexpectedAnswerError(LimenError):
    """What came back is no answer of this interface: another server, or one much newer."""


class AnswerError(LimenError):
    """The server said no."""

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, object],
        request_id: str | None, retry_after: float | None,
    ) -> None:
        """As the body and the headers of the answer say."""
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        self.code = code
        """What a program may branch on; ``/docs`` lists them."""
        self.message = message
        self.details = dict(details)
        """``index`` is the place of the query, verdict or item that is meant."""
        self.request_id = request_id
        """For a question to whoever runs the server."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None where it does not say."""


class InvalidRequestError(AnswerError):
    """400, 405, 413, 422: the same request will be refused again."""


class UnauthenticatedError(AnswerError):
    """401: no key, or one that is not known or has expired."""


class ForbiddenError(AnswerError):
    """403: the key lacks a scope."""


class NotFoundError(AnswerError):
    """404: no such thing, as far as this key sees."""


class ConflictError(AnswerError):
    """409: it contradicts what is there."""


class ReleaseChangedError(ConflictError):
    """409: the matches were of an earlier release; ask again from the first page."""


class TooManyRequestsError(AnswerError):
    """429: this customer has too much under way."""


class UnavailableError(AnswerError):
    """503: too busy, or something that the server needs does not answer."""


class ServerFaultError(AnswerError):
    """500, 504 and what else a server or a proxy may say."""


_BY_STATUS: Mapping[int, type[AnswerError]] = {
    400: InvalidRequestError, 405: InvalidRequestError, 413: InvalidRequestError,
    422: InvalidRequestError, 401: UnauthenticatedError, 403: ForbiddenError,
    404: NotFoundError, 409: ConflictError, 429: TooManyRequestsError, 503: UnavailableError,
}


def answer_error(status: int, headers: Mapping[str, str], body: bytes) -> AnswerError:
    """The error that a response with such a ``status`` means, whoever wrote its body."""
    try:
        content = json.loads(body)
        error, request_id = content["error"], content.get("request_id")
        code, message, details = error["code"], error["message"], error["details"]
    except (ValueError, TypeError, KeyError, AttributeError):  # a proxy's page
        code, details, request_id = "unknown", {}, headers.get("x-request-id")
        message = body[:200].decode(errors="replace").strip().partition("\n")[0] or "no body"
    kind = _BY_STATUS.get(status, ServerFaultError)
    if code == "release_changed":
        kind = ReleaseChangedError
    return kind(status, code, message, details, request_id, _seconds(headers.get("retry-after")))


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is no form of this interface."""
    return float(header) if header and header.strip().isdigit() else None
