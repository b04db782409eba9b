"""What the reading operations answer: the release, its readiness, the customers' consistency."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.schema.bodies import ThresholdUsed


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Strict):
    """How the threshold was chosen."""

    rule: str
    range: list[float] = Field(
        min_length=2, max_length=2, description="Lowest and highest threshold it was chosen among."
    )
    guarantee: str


class ReleaseAnswer(_Strict):
    """Answer of ``GET /v1/release``."""

    release: str
    dimension: int = Field(description="Coordinates of an embedding.")
    kind: Literal["image", "vector", "text"] = Field(description="What the release embeds.")
    threshold: ThresholdUsed
    calibration: Calibration
    request_id: str


class LiveAnswer(_Strict):
    """Answer of ``GET /livez``."""

    status: Literal["alive"]


class ReadyAnswer(_Strict):
    """Answer of ``GET /readyz``."""

    status: Literal["ready"]
    release: str


class Estimate(_Strict):
    """A number with its confidence bounds; null where unknown."""

    value: float | None
    lower: float | None
    upper: float | None


class CustomerDrift(_Strict):
    """One customer's numbers today against the day of calibration."""

    customer: str
    calibrated: bool = Field(description="Whether compared with its own calibration.")
    reviewed: int = Field(description="Reviewed queries behind these numbers.")
    far: float | None = Field(description="Share of negative pairs accepted.")
    frr: float | None = Field(description="Share of true matches rejected.")
    precision: float | None = Field(description="Share of accepted pairs that are true matches.")
    inconsistency: Estimate
    inconsistency_drift: Estimate
    curve_shift: Estimate
    utility_change: Estimate


class Recorded(_Strict):
    """How much is recorded of one customer."""

    customer: str
    queries: float = Field(description="Served queries, estimated from those recorded.")
    recorded: int
    drawn_verdicts: int
    volunteered_verdicts: int


class FleetOpis(_Strict):
    """OPIS over all customers with enough evidence."""

    raw: float
    corrected: Estimate
    customers: int


class ConsistencyAnswer(_Strict):
    """Answer of ``GET /v1/consistency``."""

    release: str
    threshold: float
    opis: FleetOpis | None = Field(description="Null below two customers with evidence.")
    customers: list[CustomerDrift]
    recorded: list[Recorded]


class OwnConsistencyAnswer(_Strict):
    """Answer of ``GET /v1/customers/{customer}/consistency``."""

    release: str
    threshold: float
    customer: str
    drift: CustomerDrift | None = Field(description="Null while too little is reviewed.")
    recorded: Recorded | None
