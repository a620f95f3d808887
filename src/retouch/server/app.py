"""Puts the HTTP process together: the faces, stored files, the health routes, the layers around them, and its lifespan.

`create_app` is given everything it wires; `cli/serve.py` builds those dependencies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.errors import InvalidKey, InvalidRequest, NotFound, RetouchError, Unavailable, UnknownFile
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.file_response import file_response
from retouch.protocols.http import ID_HEADER, FaceMount, RequestLog, credential_of
from retouch.protocols.registry import FACES, VENDOR_HOSTS
from retouch.server.forwarded import ForwardedHeaders
from retouch.server.local_only import LocalOnlyGuard, name_in
from retouch.server.metrics import Metrics
from retouch.server.playground import playground_routes
from retouch.server.upstreams import upstream_key_routes, upstream_webhook_routes
from retouch.server.webhooks import Webhooks
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.upstreams.gateway import Gateway

logger = structlog.get_logger(__name__)

SWEEP_EVERY_S = 1.0

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_app(
    dependencies: AppDependencies,
    webhooks: Webhooks | None = None,
    forwarded_allow_ips: Sequence[str] = (),
    gateway: Gateway | None = None,
    upstream_keys: UpstreamKeys | None = None,
) -> ASGIApp:
    """The whole application; its lifespan runs the watch, the sweeping, the webhook sender and the gateway, if any.

    forwarded_allow_ips: peers whose X-Forwarded headers are believed. Raises InvalidSetting when one is no address.
    """
    app = FastAPI(
        title="Retouch",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(dependencies, webhooks, gateway),
        redirect_slashes=False,
    )
    app.add_exception_handler(RetouchError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    add_health_routes(app, dependencies)
    add_file_route(app, dependencies.blobs)
    app.include_router(playground_routes(dependencies.blobs))
    if gateway is not None:
        app.include_router(upstream_webhook_routes(gateway))
    if upstream_keys is not None:
        app.include_router(upstream_key_routes(upstream_keys, dependencies.authenticator))
    for face in FACES:
        for mount in face.mounts:
            app.mount(mount.path, FaceMount(mount.create(dependencies), mount.request_id_headers))
    return _with_layers(app, dependencies, forwarded_allow_ips)


def _with_layers(app: ASGIApp, dependencies: AppDependencies, forwarded_allow_ips: Sequence[str]) -> ASGIApp:
    """What every request passes before it reaches a route; the last layer added is the first one entered."""
    for face in FACES:
        if face.by_host is not None:
            app = face.by_host(app)
    app = CORSMiddleware(
        app,
        allow_origins=["*"],
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=exposed_headers(),
        max_age=86_400,
    )
    public_name = [name_in(dependencies.public_url)] if dependencies.public_url else []
    app = LocalOnlyGuard(app, dependencies.authenticator.unauthenticated, public_name, VENDOR_HOSTS)
    quiet_paths = [face.quiet_paths for face in FACES if face.quiet_paths is not None]
    return ForwardedHeaders(RequestLog(app, quiet_paths), forwarded_allow_ips)


def exposed_headers() -> list[str]:
    """Headers of answers that a page's script may read: request ids, what each face names, ranges of files."""
    names = [ID_HEADER, "content-length", "content-range", "etag"]
    for face in FACES:
        names += [*face.exposed_headers, *(name for mount in face.mounts for name in mount.request_id_headers)]
    return list(dict.fromkeys(names))


def _lifespan(
    dependencies: AppDependencies, webhooks: Webhooks | None, gateway: Gateway | None
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await dependencies.watch.start()
        sweeping = asyncio.create_task(_sweep(dependencies.service), name="housekeeping")
        if webhooks is not None:
            webhooks.start(dependencies)
        if gateway is not None:
            gateway.start()
        yield
        if gateway is not None:
            await run_in_threadpool(gateway.stop)
        if webhooks is not None:
            await webhooks.stop()
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        await dependencies.watch.stop()

    return lifespan


async def _sweep(service: Service) -> None:
    """`service.sweep` each second; logs once when that begins or ceases to be possible."""
    away = False
    while True:
        try:
            await run_in_threadpool(service.sweep)
        except Unavailable as error:
            if not away:
                logger.warning("housekeeping has to wait", reason=error.message)
            away = True
        else:
            if away:
                logger.info("housekeeping goes on")
            away = False
        await asyncio.sleep(SWEEP_EVERY_S)


def add_file_route(app: FastAPI, blobs: Blobs) -> None:
    """`GET` and `HEAD /files/{key}`: stored files by signed link, whole or in part."""

    @app.api_route("/files/{key:path}", methods=["GET", "HEAD"])
    async def read_file(request: Request, key: str) -> Response:
        if blobs.key_of_link(str(request.url)) != key:
            raise UnknownFile("There is no such file, or its link has expired.")
        return file_response(await run_in_threadpool(blobs.get, key), request)


def add_health_routes(app: FastAPI, dependencies: AppDependencies) -> None:
    """`/health`, `/ready` and `/metrics`."""
    metrics = Metrics(dependencies.service, dependencies.catalog)

    @app.get("/health")
    async def health() -> Response:
        return _json(200, {"status": "ok", "version": version("retouch")})

    @app.get("/ready")
    async def ready() -> Response:
        reason = await run_in_threadpool(dependencies.service.ready)
        if reason is None:
            return _json(200, {"status": "ready", "models": await run_in_threadpool(dependencies.service.models)})
        return _json(503, {"status": "unavailable", "reason": reason}, {"retry-after": "1"})

    @app.get("/metrics")
    async def read_metrics(request: Request) -> Response:
        try:
            operator = await dependencies.authenticator.may_operate(credential_of(request))
        except Unavailable:
            operator = False  # the page says what is wrong
        return Response(await run_in_threadpool(metrics.text, operator=operator), media_type=metrics.media_type)


def answer_error(_: Request, error: Exception) -> Response:
    """An error outside every face, in the plain shape of this server."""
    assert isinstance(error, RetouchError), "registered for RetouchError only"
    status = 500
    for kind, code in ((NotFound, 404), (InvalidRequest, 400), (InvalidKey, 401), (Unavailable, 503)):
        if isinstance(error, kind):
            status = code
    headers = {"retry-after": "1"} if status == 503 else {}
    return _json(status, {"error": {"code": error.code, "message": error.message}}, headers)


def answer_http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of paths that belong to no face."""
    assert isinstance(error, HTTPException), "registered for HTTPException only"
    if error.status_code == 404:
        code, message = "unknown_url", f"There is nothing at {request.method} {request.url.path[:200]}."
    else:
        code, message = "invalid_request", str(error.detail)
    return _json(error.status_code, {"error": {"code": code, "message": message}}, dict(error.headers or {}))


def _json(status: int, content: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
