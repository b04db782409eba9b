"""Ray Serve around the API: replicas that answer, one monitor that knows the gauges.

Nothing is decided here. ``Server`` turns a Starlette request into a ``Head`` and a ``Response``
back; ``MonitorServer`` holds the one ``Monitor``. The flags that Ray reads at import are set by
``serving/launch.py`` before this module is imported.

One machine: ``limen serve production``
Cluster:     a RayService with ``import_path: serving.app:build`` and ``Settings`` as ``args``
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as StarletteResponse

from pipeline.strict import parse
from serving.admission import Head, request_id
from serving.assembly import Settings, front_of, gauges_of, pinned
from serving.parsing import too_large
from serving.responses import REQUEST_ID, RefusedError, Response
from serving.schema import MAX_BODY_BYTES

APPLICATION = "limen"
_ONGOING = 128  # above the places of a Front: its refusals say why, Ray's do not
_LOGGING = {"log_level": "ERROR", "enable_access_log": False}


class MonitorLink:
    """The monitor's replica, seen from a server's."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """``handle``: of the ``MonitorServer`` deployment."""
        self._handle = handle

    async def metrics(self) -> bytes:
        """The gauges in Prometheus's text format."""
        text: bytes = await self._handle.metrics.remote()
        return text

    async def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all."""
        body: bytes = await self._handle.consistency.remote(customer)
        return body


@serve.deployment(
    max_ongoing_requests=_ONGOING, logging_config=_LOGGING,
    graceful_shutdown_wait_loop_s=0.2, graceful_shutdown_timeout_s=5.0,
)
class MonitorServer:
    """The one monitor."""

    def __init__(self, settings: Settings) -> None:
        """Open the release's baseline and the records."""
        self._gauges = gauges_of(settings)

    def metrics(self) -> bytes:
        """The gauges in Prometheus's text format."""
        return self._gauges.metrics()

    def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all."""
        return self._gauges.consistency(customer)


@serve.deployment(
    max_ongoing_requests=_ONGOING, logging_config=_LOGGING,
    graceful_shutdown_wait_loop_s=0.2, graceful_shutdown_timeout_s=5.0,
)
class Server:
    """One replica of the API."""

    def __init__(self, settings: Settings, monitor: DeploymentHandle[Any]) -> None:
        """Open the release, verified, and everything that answers from it."""
        self._front = front_of(settings, MonitorLink(monitor))

    async def __call__(self, request: Request) -> StarletteResponse:
        """Answer one request."""

        async def body() -> bytes:
            return await _body_of(request)

        return _to_starlette(await self._front.handle(_head_of(request), body))


def build(args: Mapping[str, object]) -> serve.Application:
    """The application, for ``serve.run`` and for a RayService; ``args`` are ``Settings``."""
    settings = pinned(parse(Settings, dict(args), "serving.app:build"))
    monitor = MonitorServer.options(ray_actor_options={"num_cpus": 0}).bind(settings)
    server: serve.Application = Server.options(num_replicas=settings.replicas).bind(
        settings, monitor
    )
    return server


def start(settings: Settings, host: str, port: int) -> None:
    """Start Ray here, or join the cluster of ``RAY_ADDRESS``, and serve; returns when ready."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local", num_cpus=settings.replicas + 1, include_dashboard=False,
            log_to_driver=False, logging_level=logging.ERROR, object_store_memory=200 * 2**20,
            _node_ip_address="127.0.0.1",
        )
    serve.start(
        proxy_location="HeadOnly", http_options={"host": host, "port": port},
        logging_config=_LOGGING,
    )
    serve.run(build(settings.to_args()), name=APPLICATION, route_prefix="/")


def stop() -> None:
    """End the application, letting answers finish, and the Ray that ``start`` started.

    A cluster that was joined keeps its Serve: other applications may run there.
    """
    if ray.is_initialized():
        serve.delete(APPLICATION)
        ray.shutdown()


def _head_of(request: Request) -> Head:
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return Head(
        method=request.method,
        path=path.partition(b"?")[0].decode("latin-1"),
        query=request.scope["query_string"].decode("latin-1"),
        authorization=request.headers.get("authorization", ""),
        request_id=request_id(request.headers.get("x-request-id")),
    )


async def _body_of(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise too_large()
            parts.append(part)
    except ClientDisconnect:
        raise RefusedError(400, "client_disconnected", "the client left before its body") from None
    return b"".join(parts)


def _to_starlette(response: Response) -> StarletteResponse:
    # Ray adds the request id by itself, and would have it twice.
    headers = {name: value for name, value in response.headers.items() if name != REQUEST_ID}
    headers["Content-Type"] = response.content_type
    return StarletteResponse(response.body, response.status, headers)
