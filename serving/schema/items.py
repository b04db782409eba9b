"""The bodies of changing items online."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.schema.bodies import Content

MAX_ITEMS = 256
MAX_METADATA = 8000
"""Characters of an item's metadata, names and values: every replica holds it in memory."""

_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
_Value = (
    Annotated[str, Field(max_length=4000)] | bool | int
    | Annotated[float, Field(allow_inf_nan=False)] | None
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Item(Content):
    """One item: its id and exactly one of embedding, embedding_b64, vector, text and image."""

    item_id: _Name = Field(description="An item of yours that has this id is replaced.")
    label: _Name | None = Field(
        None, description="Its class, where known; only later calibrations look at it."
    )
    metadata: Annotated[dict[_Name, _Value], Field(max_length=64)] | None = Field(
        None, description=f"Returned with a match; at most {MAX_METADATA} characters in all."
    )

    @field_validator("metadata")
    @classmethod
    def _not_too_long(cls, metadata: dict[str, object] | None) -> dict[str, object] | None:
        length = sum(len(name) + len(str(value)) for name, value in (metadata or {}).items())
        if length > MAX_METADATA:
            raise ValueError(f"{length} characters; expected at most {MAX_METADATA}")
        return metadata


class ItemsRequest(_Strict):
    """Body of ``PUT /v1/items``."""

    items: list[Item] = Field(min_length=1, max_length=MAX_ITEMS)


class ItemsAnswer(_Strict):
    """Answer of ``PUT /v1/items``, sent once they are durable; every later query sees them."""

    accepted: int = Field(description="Items that this request put.")
    change: int = Field(description="Number of the last of these among your changes.")
    request_id: str


class DeletedAnswer(_Strict):
    """Answer of ``DELETE /v1/items/{item_id}``; no later query on any replica gives the item."""

    change: int = Field(description="Number of the deletion among your changes.")
    request_id: str
