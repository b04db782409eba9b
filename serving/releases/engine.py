"""One release in one replica, opened and warm: all that an answer is made of.

A request takes one engine and keeps it to the end, so that no answer mixes two releases. Nothing
but ``Engines`` and the requests under way holds an engine: the last of them frees it, with the
files that it has mapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.item_log.changes import LogBehindError
from pipeline.item_log.log import ItemLog
from pipeline.live.population import draw_plan
from pipeline.live.records import Records
from pipeline.releases.release import Release
from serving.answers.answering import Answering
from serving.answers.live_items import LiveItems
from serving.answers.pace import BUSY, Pace
from serving.answers.recall_watch import RecallWatch
from serving.answers.recorder import Recorder
from serving.answers.retriever import Retriever
from serving.counters import Counters
from serving.settings import Settings


class EngineError(RuntimeError):
    """A release that opens and does not answer; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True, weakref_slot=True, eq=False)
class Engine:
    """A release and what answers from it; safe to use from several threads."""

    release: Release
    retriever: Retriever
    answering: Answering
    live: LiveItems
    kind: str
    """What the release embeds: ``image``, ``vector`` or ``text``."""


def open_engine(
    release: Release, settings: Settings, records: Records, counters: Counters,
    watch: RecallWatch | None = None,
) -> Engine:
    """The engine of a verified ``release``, warm: no request pays for a first time.

    ``watch`` searches a sample of what it answers again; one for all engines of a replica.

    Raises ``GalleryError`` or ``SearchIndexError`` where its files do not fit together,
    ``EncoderError`` or ``TokeniserError`` where its model cannot be used, ``EngineError`` where
    it does not find an item of its own.
    """
    retriever = Retriever(release)
    baseline = release.counts()["baseline"]
    recorder = Recorder(
        records, draw_plan(baseline, release.threshold),
        release=release.id12, grid=baseline.grid, rate=settings.record_rate,
        visible=retriever.visible_distances, item_id=retriever.item_id,
        rng=np.random.default_rng(),  # fresh entropy: replicas must not share a seed
        pace=Pace(BUSY),
    )
    for segment, rows in list(retriever.gallery.segments().items())[-1:]:
        recorder.warm_up(segment or "", retriever.gallery.vectors[rows.start])
    retriever.warm_up()  # a model that cannot be read is refused here
    live = LiveItems(ItemLog(records.database), retriever, counters, settings.online_items)
    try:
        live.warm()
    except LogBehindError as error:
        raise EngineError(f"release {release.id12}: {error}") from None
    answering = Answering(retriever, recorder, live, counters, watch)
    if not answering.is_ready():
        raise EngineError(f"release {release.id12}: does not find its own item; seal it again")
    return Engine(release=release, retriever=retriever, answering=answering, live=live,
                  kind=retriever.kind)
