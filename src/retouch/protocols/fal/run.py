"""fal's synchronous call: the same job as in the queue, with the caller waiting for its result.

A caller that hangs up has changed their mind: the job is cancelled.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import EditCancelled
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import streaming
from retouch.protocols.fal.accept import accept_request, cancel_quietly
from retouch.protocols.fal.errors import answer_to
from retouch.protocols.fal.exchange import error_response
from retouch.protocols.fal.results import result_response


async def handle(context: AppDependencies, request: Request) -> Response:
    """Every method and path under `run`; a path that ends in `/stream` answers with events."""
    path: str = request.path_params["path"]
    if path.rstrip("/").endswith(streaming.SUFFIX):
        return await streaming.stream(context, request, path.rstrip("/").removesuffix(streaming.SUFFIX))
    accepted = await accept_request(context, request, path)
    job = await finished_unless_gone(context, request, accepted.job.id)
    if job is None:
        await cancel_quietly(context, accepted)
        return error_response(answer_to(EditCancelled("The caller hung up.")))
    return await result_response(context, request, job)


async def finished_unless_gone(context: AppDependencies, request: Request, job_id: str) -> Job | None:
    """The job when it has ended, or None as soon as the caller has hung up. The body must have been read."""
    finished = asyncio.ensure_future(context.watch.wait(job_id))
    gone = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait((finished, gone), return_when=asyncio.FIRST_COMPLETED)
        return finished.result() if finished.done() else None
    finally:
        finished.cancel()
        gone.cancel()


async def hung_up(request: Request) -> None:
    """Returns when the connection is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
