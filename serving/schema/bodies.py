"""The HTTP bodies as models: what a request may say and what an answer says.

Unknown fields are refused and types are strict, so that a misspelt field is an error and not a
default. Requests are validated by these models; answers are built from them in the OpenAPI
document and compared with them in the tests. ``/docs`` shows them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_BODY_BYTES = 16 * 2**20
MAX_QUERIES = 256
MAX_LIMIT = 1000
MAX_DESCRIBED = 10_000
"""Matches with metadata in one answer, ``limit`` times queries: an answer has to fit in memory."""
MAX_VERDICTS = 1000
MAX_BUDGET = 1000

CONTENTS = ("embedding", "embedding_b64", "vector", "text", "image")

_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Content(_Strict):
    """Exactly one of embedding, embedding_b64, vector, text and image."""

    embedding: list[float] | None = Field(
        None, description="A unit vector of the release's space; its norm may be off by 1e-3."
    )
    embedding_b64: str | None = Field(
        None, description="The same as base64 of little-endian float32."
    )
    vector: list[float] | None = Field(
        None, description="Encoder input, for releases trained on vectors."
    )
    text: str | None = Field(None, description="A text, for releases trained on texts.")
    image: str | None = Field(
        None, description="Base64 of an image file, for releases trained on images."
    )

    @model_validator(mode="after")
    def _one_content(self) -> Content:
        given = [name for name in CONTENTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of {', '.join(CONTENTS)}; got {', '.join(given) or 'none'}"
            )
        return self


class Query(Content):
    """One query: exactly one of embedding, embedding_b64, vector, text and image."""

    id: _Name | None = Field(None, description="Your name for the query; comes back unchanged.")


class QueryRequest(_Strict):
    """Body of ``POST /v1/query``."""

    queries: list[Query] = Field(min_length=1, max_length=MAX_QUERIES)
    limit: int = Field(
        10, ge=1, le=MAX_LIMIT, description="Most matches returned; never the decision."
    )
    cursor: str | None = Field(
        None, description="`next_cursor` of an earlier answer; one query a request."
    )
    with_: list[Literal["metadata"]] = Field(
        default_factory=list, alias="with", description="What to return beside the distance."
    )
    threshold: float | None = Field(
        None, ge=0.0, le=2.0,
        description="Another threshold; needs the scope `threshold:override`.",
    )
    exact: bool = Field(False, description="Force a proof that no match is missing.")

    @model_validator(mode="after")
    def _one_query_a_page(self) -> QueryRequest:
        if self.cursor is not None and len(self.queries) != 1:
            raise ValueError("a request with a cursor has exactly one query")
        return self

    @model_validator(mode="after")
    def _not_too_much_to_describe(self) -> QueryRequest:
        if self.with_ and self.limit * len(self.queries) > MAX_DESCRIBED:
            raise ValueError(f"metadata of at most {MAX_DESCRIBED} matches a request, limit times "
                             "queries; send fewer queries or a smaller limit")
        return self


class Found(_Strict):
    """An item with its distance."""

    item_id: str
    distance: float = Field(description="Cosine distance in [0, 2]; smaller is closer.")
    metadata: dict[str, Any] | None = Field(None, description="Present if asked for.")


class Result(_Strict):
    """The answer to one query."""

    id: str | None
    query_id: str = Field(description="Names this query in verdicts.")
    matches: list[Found] = Field(description="By distance, then item id.")
    match_count: int = Field(description="All matches, whatever the limit.")
    complete: bool = Field(description="False if a cap or a deadline cut the count.")
    match_recall: float = Field(
        description="1.0 where proven, else the calibrated share of true matches that is found."
    )
    next_cursor: str | None
    nearest_rejected: Found | None = Field(description="The closest item past the threshold.")
    recorded: bool = Field(description="Whether the query can be drawn for review.")


class ThresholdUsed(_Strict):
    """The threshold that decided."""

    value: float
    source: Literal["calibrated", "request"]
    rule: Literal["distance <= threshold"] = "distance <= threshold"


class QueryAnswer(_Strict):
    """Answer of ``POST /v1/query``."""

    release: str
    threshold: ThresholdUsed
    results: list[Result]
    request_id: str


class Verdict(_Strict):
    """Whether a pair is truly a match, as a person or a system of record judged it."""

    query_id: _Name
    item_id: _Name
    is_match: bool
    draw_id: _Name | None = Field(
        None, description="From `/v1/reviews`; without one the verdict is stored, not counted."
    )


class VerdictsRequest(_Strict):
    """Body of ``POST /v1/verdicts``."""

    verdicts: list[Verdict] = Field(min_length=1, max_length=MAX_VERDICTS)


class VerdictsAnswer(_Strict):
    """Answer of ``POST /v1/verdicts``, sent once they are durable."""

    accepted: int = Field(description="Verdicts stored by this request.")
    repeated: int = Field(description="Verdicts that were there already, unchanged.")
    request_id: str


class Review(_Strict):
    """A pair drawn with known probability, waiting for a verdict."""

    draw_id: str
    query_id: str
    item_id: str
    distance: float


class ReviewsAnswer(_Strict):
    """Answer of ``GET /v1/reviews``."""

    reviews: list[Review]
    release: str
    request_id: str


class ErrorDetail(_Strict):
    """What went wrong."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(_Strict):
    """Every error."""

    error: ErrorDetail
    request_id: str
