"""Puts the HTTP process together: the faces, the files, the signs of life. Nothing is decided here.

`create_app` is given everything it wires; `cli/serve.py` builds those dependencies.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from retouch.errors import InvalidKey, InvalidRequest, NotFound, RetouchError, Unavailable
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.hosts import ByHost
from retouch.protocols.fal.reseller import create_face as create_reseller_face
from retouch.protocols.fal.reseller import create_usage_face
from retouch.protocols.fal.routes import create_face as create_fal_face
from retouch.protocols.openai.routes import create_face as create_openai_face
from retouch.server.files import file_routes
from retouch.server.housekeeping import Housekeeping
from retouch.server.metrics import Metrics
from retouch.server.request_log import RequestLog
from retouch.server.strangers import StrangersOutside
from retouch.server.webhooks import Webhooks

FACES: tuple[tuple[str, Callable[[AppDependencies], FastAPI]], ...] = (
    ("/openai/v1", create_openai_face),
    ("/v1", create_openai_face),
    ("/fal", create_fal_face),
    ("/fal-ai", create_reseller_face),
    ("/api/usage", create_usage_face),
)
"""Where each face is mounted. A new protocol is one line here."""


def create_app(dependencies: AppDependencies, webhooks: Webhooks | None = None) -> ASGIApp:
    """The whole application; its lifespan runs the watch, the sweeping and the webhook sender, if there is one."""
    app = FastAPI(
        title="Retouch",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(dependencies, webhooks),
        redirect_slashes=False,
    )
    app.add_exception_handler(RetouchError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    add_signs_of_life(app, dependencies)
    app.include_router(file_routes(dependencies.blobs))
    for path, create_face in FACES:
        app.mount(path, create_face(dependencies))
    return RequestLog(
        StrangersOutside(ByHost(app), dependencies.authenticator.unauthenticated, dependencies.public_url)
    )


def _lifespan(
    dependencies: AppDependencies, webhooks: Webhooks | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeping = Housekeeping(dependencies.service)
        await dependencies.watch.start()
        housekeeping.start()
        if webhooks is not None:
            webhooks.start(dependencies)
        yield
        if webhooks is not None:
            await webhooks.stop()
        await housekeeping.stop()
        await dependencies.watch.stop()

    return lifespan


def add_signs_of_life(app: FastAPI, dependencies: AppDependencies) -> None:
    """`/health`, `/ready`, `/metrics` and the page at `/`."""
    metrics = Metrics(dependencies.service)

    @app.get("/health")
    async def health() -> Response:
        return _json(200, {"status": "ok", "version": version("retouch")})

    @app.get("/ready")
    async def ready() -> Response:
        reason = await run_in_threadpool(dependencies.service.ready)
        if reason is None:
            return _json(200, {"status": "ready"})
        return _json(503, {"status": "unavailable", "reason": reason}, {"retry-after": "1"})

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(await run_in_threadpool(metrics.text), media_type=metrics.media_type)

    @app.get("/")
    async def front_page(request: Request) -> Response:
        return HTMLResponse(_front_page(dependencies.public_url or str(request.base_url).rstrip("/")))


def answer_error(_: Request, error: Exception) -> Response:
    """An error outside every face, in the plain shape of this server."""
    assert isinstance(error, RetouchError), "registered for RetouchError only"
    status = 500
    for kind, code in ((NotFound, 404), (InvalidRequest, 400), (InvalidKey, 401), (Unavailable, 503)):
        if isinstance(error, kind):
            status = code
    headers = {"retry-after": "1", "access-control-allow-origin": "*"} if status == 503 else {}
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


def _front_page(address: str) -> str:
    shown = html.escape(address)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Retouch</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }}</style>
<h1>Retouch</h1>
<p>This is an image-editing server. It speaks the protocols of OpenAI and fal at this address:</p>
<ul>
<li>OpenAI: <code>{shown}/v1</code></li>
<li>fal: <code>{shown}/fal/run</code> and <code>{shown}/fal/queue</code></li>
</ul>
<p><a href="/v1/models">Models</a> · <a href="/ready">Is it ready?</a> · <a href="/metrics">Metrics</a></p>
</html>
"""
