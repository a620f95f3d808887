"""What the RunPod protocol is to the server: its operations under `/v2`, errors in its shape, its webhook's message."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeAlias

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.errors import RetouchError
from retouch.jobs.job import Job
from retouch.jobs.outbox import RetrySchedule
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import add_error_handlers
from retouch.protocols.face import ClientAddress, Face, Mount, WebhookMessage, export_lines
from retouch.protocols.http import DrainRefusedUploads, json_response
from retouch.protocols.outcome import MethodNotAllowed
from retouch.protocols.runpod import dump, routes
from retouch.protocols.runpod.errors import dump_error
from retouch.protocols.runpod.streaming import Streams

Handler: TypeAlias = Callable[[AppDependencies, Request], Awaitable[Response]]


def create_face(dependencies: AppDependencies) -> ASGIApp:
    """The protocol as an application to be mounted at `/v2`."""
    app = FastAPI(title="Retouch, RunPod protocol", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    read, write, either = ["GET"], ["POST"], ["GET", "POST"]
    operations: tuple[tuple[str, list[str], Handler], ...] = (
        ("run", write, routes.run),
        ("runsync", write, routes.runsync),
        ("status/{job}", either, routes.status),
        ("status-sync/{job}", either, routes.status_sync),
        ("stream/{job}", either, partial(routes.stream, Streams())),
        ("cancel/{job}", write, routes.cancel),
        ("retry/{job}", write, routes.retry),
        ("purge-queue", write, routes.purge_queue),
        ("health", read, routes.health),
        ("requests", read, routes.requests),
        ("metrics", read, routes.metrics),
    )
    for path, methods, handler in operations:
        app.add_route(f"/{{endpoint}}/{path}", partial(handler, dependencies), methods=methods)
    add_error_handlers(app, answer_error)
    return SingleSlashes(DrainRefusedUploads(app))


class SingleSlashes:
    """ASGI: a base address that ends in a slash makes paths such as `//qwen-image-edit/run`; no client needs two."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path = scope["path"].removeprefix(root)
            scope = {**scope, "path": root + (re.sub("/{2,}", "/", path).rstrip("/") or "/")}
        await self._app(scope, receive, send)


def answer_error(_: Request, error: RetouchError) -> Response:
    status, body, headers = dump_error(error.failure)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    return json_response(body, status, headers)


def webhook_message(dependencies: AppDependencies, job: Job, now: datetime) -> WebhookMessage:  # noqa: ARG001
    """The job object with the request's `input` and `webhook`; nothing of `s3Config`."""
    options = job.delivery.options
    body = dump.dump_job(job, routes.output_object(dependencies, job, options[dump.ORIGIN_OPTION]))
    body["input"] = orjson.loads(options[dump.INPUT_OPTION])
    body["webhook"] = job.delivery.webhook_url
    return WebhookMessage(orjson.dumps(body), {"Content-Type": "application/json"})


def client_exports(client: ClientAddress) -> str:
    return export_lines(RUNPOD_ENDPOINT_BASE_URL=f"{client.url}/v2", RUNPOD_API_KEY="any")


FACE = Face(
    name="runpod",
    mounts=(Mount("/v2", create_face),),
    webhook=webhook_message,
    webhook_schedule=RetrySchedule(attempts=3, first_pause_s=10.0, pause_growth=1.0),
    quiet_paths=re.compile(r"/v2/+[^/]+/(status|status-sync|stream)/.+|/v2/+[^/]+/health/?"),
    exposed_headers=("retry-after",),
    client_exports=client_exports,
)
