"""The parts of a server put together, in whatever process they run.

A replica opens its own verified copy of the release: what another process verified may be
elsewhere by now. A server that was given an alias follows it: every replica, a restarted one too,
serves what the alias means. One that was given an id or a folder serves that for good.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.calibration.choice import curve_thresholds
from pipeline.evaluation.findings import recorded_choice
from pipeline.live.records import Records, open_records
from pipeline.releases.release import Release
from pipeline.releases.store import Store
from serving.access.keys import KeyRing
from serving.access.quota import Quotas
from serving.access.refusal_trail import RefusalTrail
from serving.answers.recall_watch import RecallWatch
from serving.counters import Counters
from serving.releases.engine import open_engine
from serving.releases.engines import Engines
from serving.releases.following import Follower
from serving.releases.memory import available_bytes, opening_turn, require_room
from serving.releases.shadow import Shadow
from serving.reporting import Replica
from serving.settings import Settings, alias_of, open_named, store_of, trail_of
from serving.watching.drift import Reference
from serving.watching.gauges import Gauges, Watched
from serving.watching.monitor import Monitor
from serving.watching.replicas import MonitorLink, Replicas, Standing
from serving.web.administration import Administration
from serving.web.api import Api
from serving.web.front import Bounds, Front

_LOCAL_SECONDS, _REMOTE_SECONDS = 0.1, 5.0  # between looks at an alias, where nothing is said


def front_of(settings: Settings, monitor: MonitorLink, bounds: Bounds | None = None) -> Front:
    """One replica's API with everything behind it, warm: no request pays for a first time."""
    return replica_of(settings, monitor, bounds).front


def replica_of(
    settings: Settings, monitor: MonitorLink, bounds: Bounds | None = None
) -> Replica:
    """One replica that follows the alias, with what it tells the monitor."""
    counters = Counters()
    records = open_records(settings.records)
    # Fresh entropy: replicas must not draw the same queries.
    watch = RecallWatch(counters, every=settings.recheck_every, rng=np.random.default_rng())
    engines = Engines(open_engine(open_named(settings), settings, records, counters, watch))
    follower = _follower(settings, engines, records, counters, watch)
    keys = KeyRing(Path(settings.keys))
    trail = trail_of(settings)
    trail.write("serving", release=engines.current().release.id12)
    api = Api(engines, records, keys, trail, counters=counters,
              shadow=_shadow_of(settings, records, counters))
    front = Front(
        api, monitor, bounds or Bounds(), quotas=Quotas(keys.limit_of, settings.replicas),
        refusals=RefusalTrail(trail, counters), counters=counters,
        administration=Administration(store_of(settings), alias_of(settings), monitor, trail),
    )
    name = uuid.uuid4().hex

    def standing() -> Standing:
        return Standing(replica=name, release=engines.current().release.id,
                        refusal=follower.refusal)

    return Replica(front=front, standing=standing, counters=counters)


def _follower(
    settings: Settings, engines: Engines, records: Records, counters: Counters,
    watch: RecallWatch | None = None,
) -> Follower:
    """Keeps ``engines`` at the release that the alias means; at rest where there is no alias."""

    def take_up(name: str) -> None:
        with opening_turn():  # each sees what those before it took
            release = open_named(dataclasses.replace(settings, release=name))
            require_room(release, available_bytes())
            engines.replace(open_engine(release, settings, records, counters, watch))

    return follow(settings, take_up, engines.current().release.id, counters)


def _shadow_of(settings: Settings, records: Records, counters: Counters) -> Shadow | None:
    """What compares the release with ``settings.shadow``, and follows that where it is an alias."""
    if settings.shadow is None:
        return None
    other = dataclasses.replace(settings, release=settings.shadow)
    with opening_turn():
        release = open_named(other)
        require_room(release, available_bytes())
        shadows = Engines(open_engine(release, other, records, counters))
    _follower(other, shadows, records, Counters())  # its swaps are not the server's
    return Shadow(shadows, counters, share=settings.shadow_share)


def follow(
    settings: Settings, take_up: Callable[[str], None], served: str, counters: Counters
) -> Follower:
    """A follower of the alias, at work where ``settings`` name one."""
    store, alias = Store(settings.store), alias_of(settings)
    follower = Follower(
        lambda: store.aliases()[settings.release], take_up, served=served, counters=counters
    )
    if alias is not None:
        remote = "://" in settings.store and not settings.store.startswith("file://")
        follower.start(settings.follow_seconds or (_REMOTE_SECONDS if remote else _LOCAL_SECONDS))
    return follower


def gauges_of(settings: Settings) -> Gauges:
    """The gauges of the release from the records, as the one monitor shows them."""
    records = open_records(settings.records)
    release = open_named(settings)
    gauges = Gauges(_watched(release, settings, records), Replicas())

    def take_up(name: str) -> None:
        moved = open_named(dataclasses.replace(settings, release=name))
        gauges.watch(_watched(moved, settings, records))

    follow(settings, take_up, release.id, Counters())  # counted by the replicas
    return gauges


def _watched(release: Release, settings: Settings, records: Records) -> Watched:
    monitor = Monitor(records, reference_of(release), window=settings.window)
    return Watched(
        snapshot=monitor.snapshot, match_recall=_match_recall(release),
        info={"rule": release.manifest.facts.rule},
    )


def reference_of(release: Release) -> Reference:
    """What drift is measured against: the release's own counts over its calibration range."""
    choice, spacing = recorded_choice(release)
    return Reference(
        release=release.id12, baseline=release.counts()["baseline"],
        thresholds=curve_thresholds(choice, spacing), threshold=release.threshold,
    )


def _match_recall(release: Release) -> float:
    """The least that any segment of the index was measured to find; 1.0 where all are exact."""
    facts = json.loads((release.folder / "index" / "index.json").read_text(encoding="utf-8"))
    return min((float(segment["match_recall"]) for segment in facts["segments"]), default=1.0)
