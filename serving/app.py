"""Ray Serve around the API: replicas that answer, one monitor that knows the gauges.

Nothing is decided here. ``Server`` turns a Starlette request into a ``Head`` and a ``Response``
back; ``MonitorServer`` holds the one ``Monitor``. The flags that Ray reads at import are set by
``serving/machine/launch.py`` before this module is imported.

One machine: ``limen serve production``
Cluster:     a RayService with ``import_path: serving.app:build`` and ``Settings`` as ``args``
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as StarletteResponse

from pipeline.live.decisions import RecordsUnavailableError
from pipeline.strict import parse
from serving.access.admission import Head, announced_length, request_id
from serving.assembly import gauges_of, replica_of
from serving.machine.launch import not_started
from serving.responses import REQUEST_ID, RefusedError, Response
from serving.rpc.limen_pb2 import HealthAnswer, HealthRequest, QueryAnswer, VerdictAnswer
from serving.rpc.methods import SERVICER_FUNCTIONS, Rpc
from serving.schema.bodies import MAX_BODY_BYTES
from serving.settings import Settings, pinned
from serving.watching.replicas import Report, Standing
from serving.web.parsing import too_large

APPLICATION = "limen"
_ONGOING = 128  # above the places of a Front: its refusals say why, Ray's do not
_AWAY = (RayError, RayServeException)
_LOGGING = {"log_level": "ERROR", "enable_access_log": False}


class MonitorLink:
    """The monitor's replica, seen from a server's."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """``handle``: of the ``MonitorServer`` deployment."""
        self._handle = handle

    async def metrics(self) -> bytes:
        """The gauges in Prometheus's text format; ``ConnectionError`` where it is away."""
        with _reached():
            text: bytes = await self._handle.metrics.remote()
        return text

    async def consistency(self, customer: str | None) -> bytes:
        """Drift as JSON, of one customer or (None) of all; raises as ``metrics`` does."""
        with _reached():
            body: bytes = await self._handle.consistency.remote(customer)
        return body

    async def report(self, report: Report) -> None:
        """Tell it what a replica is and counted; ``ConnectionError`` where it is away."""
        with _reached():
            await self._handle.report.remote(report)

    async def replicas(self) -> tuple[Standing, ...]:
        """The replicas that reported of late; ``ConnectionError`` where it is away."""
        with _reached():
            standings: tuple[Standing, ...] = await self._handle.replicas.remote()
        return standings


@contextmanager
def _reached() -> Iterator[None]:
    """``ConnectionError`` where the monitor is away; records that are, it says itself."""
    try:
        yield
    except RecordsUnavailableError:
        raise
    except _AWAY as error:
        raise ConnectionError(str(error)) from None


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

    def report(self, report: Report) -> None:
        """What a replica is and counted."""
        self._gauges.replicas.report(report)

    def replicas(self) -> tuple[Standing, ...]:
        """The replicas that reported of late."""
        return self._gauges.replicas.live()


@serve.deployment(
    max_ongoing_requests=_ONGOING, logging_config=_LOGGING,
    graceful_shutdown_wait_loop_s=0.2, graceful_shutdown_timeout_s=5.0,
)
class Server:
    """One replica of the API."""

    def __init__(self, settings: Settings, monitor: DeploymentHandle[Any]) -> None:
        """Open the release, verified, and everything that answers from it."""
        link = MonitorLink(monitor)
        replica = replica_of(settings, link)
        self._front = replica.front
        self._rpc = Rpc(replica.front)
        # Ray makes a replica on the event loop that its requests are answered on.
        self._reporting = asyncio.get_running_loop().create_task(replica.report_always(link))

    def __del__(self) -> None:
        """Ray calls this where a replica ends in order."""
        self._front.close()

    async def __call__(self, request: Request) -> StarletteResponse:
        """Answer one request."""

        async def body() -> bytes:
            return await _body_of(request)

        return _to_starlette(await self._front.handle(_head_of(request), body))

    async def _query(self, message: bytes, grpc_context: RayServegRPCContext) -> QueryAnswer:
        return await self._rpc.query(message, grpc_context)

    async def _verdict(self, message: bytes, grpc_context: RayServegRPCContext) -> VerdictAnswer:
        return await self._rpc.verdict(message, grpc_context)

    async def _check(
        self, message: HealthRequest, grpc_context: RayServegRPCContext
    ) -> HealthAnswer:
        return await self._rpc.check(message, grpc_context)

    # Ray finds the method of a gRPC call by its name in the service.
    Query, Verdict, Check = _query, _verdict, _check


def build(args: Mapping[str, object]) -> serve.Application:
    """The application, for ``serve.run`` and for a RayService; ``args`` are ``Settings``."""
    settings = pinned(parse(Settings, dict(args), "serving.app:build"))
    monitor = MonitorServer.options(ray_actor_options={"num_cpus": 0}).bind(settings)
    server: serve.Application = Server.options(num_replicas=settings.replicas).bind(
        settings, monitor
    )
    return server


def start(settings: Settings, host: str, port: int, grpc_port: int = 0) -> None:
    """Start Ray here, or join the cluster of ``RAY_ADDRESS``, and serve; returns when ready.

    HTTP on ``port``, gRPC on ``grpc_port``; 0: no gRPC. ``LaunchError`` where Ray does not start.
    """
    application = build(settings.to_args())  # what is wrong here is not Ray's
    try:
        _start(application, settings.replicas, host, port, grpc_port)
    except Exception as error:  # Ray raises plain ones too
        raise not_started(str(error) or type(error).__name__) from error


def _start(
    application: serve.Application, replicas: int, host: str, port: int, grpc_port: int
) -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local", num_cpus=replicas + 1, include_dashboard=False,
            log_to_driver=False, logging_level=logging.ERROR, object_store_memory=200 * 2**20,
            _node_ip_address="127.0.0.1",
        )
    serve.start(
        proxy_location="HeadOnly", http_options={"host": host, "port": port},
        # Reflection would be answered to anybody, past every limit; the file says the same.
        grpc_options={"port": grpc_port, "grpc_servicer_functions": list(SERVICER_FUNCTIONS),
                      "enable_reflection": False} if grpc_port else None,
        logging_config=_LOGGING,
    )
    serve.run(application, name=APPLICATION, route_prefix="/")


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
        timeout_ms=request.headers.get("x-limen-timeout-ms", ""),
        content_length=announced_length(request.headers.get("content-length")),
        idempotency_key=request.headers.get("idempotency-key", ""),
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
