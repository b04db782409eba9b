"""The bodies of moving the alias that a server follows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PromoteRequest(_Strict):
    """Body of ``POST /v1/admin/promote``."""

    release: Annotated[str, Field(
        min_length=1, max_length=200, description="Id of a release of the store, or its beginning."
    )]


class RollbackRequest(_Strict):
    """Body of ``POST /v1/admin/rollback``: nothing to say."""


class MovedAnswer(_Strict):
    """Answer of both, once every replica answers from the release or the time is up."""

    alias: str
    release: str = Field(description="What the alias means now: its first 12 digits.")
    replicas: int = Field(description="Replicas that are alive.")
    swapped: int = Field(description="Of these, replicas that answer from the release.")
    request_id: str
