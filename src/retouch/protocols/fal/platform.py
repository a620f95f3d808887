"""fal's platform API, as far as it is about the requests of a key: list them, and delete what one was given and made.

A key sees and deletes its own requests only. Errors have the shape of the vendor's platform, which is another one than
that of its models. The other services of the platform (keys, billing, workflows) are not here.

Source: fal's pages "List requests by endpoint(s)" and "Delete request payloads" (Platform APIs v1, November 2026).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import ANONYMOUS
from retouch.errors import Failure, InvalidKey, UnknownUrl
from retouch.jobs.history import Listing, Order
from retouch.jobs.job import Job, JobState, utc_now
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import dump
from retouch.protocols.fal.dump import endpoint_of
from retouch.protocols.fal.errors import Answer, BadRequest, answer_to_failure, check_method
from retouch.protocols.fal.parse import endpoint_named
from retouch.protocols.fal.routes import PROTOCOL, files_origin_of
from retouch.protocols.fal.schemas import ENDPOINTS
from retouch.protocols.http import account_of, json_response, set_request_id
from retouch.protocols.outcome import failure_of, job_link

MAX_LIMIT, DEFAULT_LIMIT = 100, 50
MAX_ENDPOINTS = 50

SINCE = timedelta(hours=24)
SINCE_BY_ID = timedelta(days=90)
"""How far back a list goes that names no start; the second when it names a request."""

QUERY = frozenset(("endpoint_id", "limit", "cursor", "start", "end", "status", "request_id", "expand", "sort_by"))
"""Every word of the list's query."""

ORDERS: Mapping[str, Order] = {"ended_at": Order.ENDED, "duration": Order.DURATION}

OUTCOMES: Mapping[str, range] = {"success": range(200, 300), "user_error": range(400, 500), "error": range(500, 600)}
"""The words for how a request ended, and the statuses of its result."""

ERROR_TYPES: Mapping[int, str] = {
    401: "authorization_error",
    403: "authorization_error",
    404: "not_found",
    429: "rate_limited",
}
"""Every other 4xx is a `validation_error`, every 5xx a `server_error`."""

_PAYLOADS = re.compile(r"models/requests/([^/]+)/payloads")


async def handle(dependencies: AppDependencies, request: Request) -> Response:
    """Every path under `/api/v1`."""
    path = request.path_params["path"].strip("/")
    if path == "models/requests/by-endpoint":
        check_method(request.method, request.url.path, "GET")
        return await list_requests(dependencies, request)
    payloads = _PAYLOADS.fullmatch(path)
    if payloads is not None:
        check_method(request.method, request.url.path, "DELETE")
        return await delete_payloads(dependencies, request, payloads[1])
    raise UnknownUrl(f"Path /{path[:200]} not found")


def error_response(request: Request, answer: Answer) -> Response:
    """An error in the shape of the vendor's platform."""
    kind = ERROR_TYPES.get(answer.status, "server_error" if answer.status >= 500 else "validation_error")
    error = {"type": kind, "message": answer.text, "request_id": request.state.request_id}
    return json_response({"error": error}, answer.status, answer.headers)


# --- list


async def list_requests(dependencies: AppDependencies, request: Request) -> Response:
    """`GET /models/requests/by-endpoint`: requests that wait and run are in the list as well, before the others."""
    account = await account_of(dependencies.authenticator, request)
    if account.id == ANONYMOUS.id and not await dependencies.authenticator.unauthenticated():
        # Callers without a key share one account, so each request is shown to those only who know its id.
        raise InvalidKey("A list of requests needs a key: callers without one are not told apart here.")
    query = request.query_params
    listing, expanded = parse_listing(query, utc_now()), wants_payloads(query)
    most = query.get("limit", str(DEFAULT_LIMIT))
    if not most.isdecimal() or len(most) > 9 or not 1 <= int(most) <= MAX_LIMIT:
        raise BadRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}, not '{most[:40]}'.")
    limit, page = int(most), parse_cursor(query.get("cursor"))
    origin = files_origin_of(dependencies, request)

    def read() -> dict[str, Any]:
        found = dependencies.service.history(account, listing, skip=(page - 1) * limit, limit=limit)
        items = [
            dump.dump_listed(job) | (payloads_of(dependencies, job, origin) if expanded else {}) for job in found.jobs
        ]
        return {"items": items, "next_cursor": cursor_of(page + 1) if found.more else None, "has_more": found.more}

    return json_response(await run_in_threadpool(read))


def payloads_of(dependencies: AppDependencies, job: Job, origin: str) -> dict[str, Any]:
    """What a request was given and made, its images as links; null for what is not there, or not any more."""
    if job.payload_deleted:
        return {"json_input": None, "json_output": None}
    inputs = [
        job_link(dependencies, job, image.blob, origin) if image.blob is not None else image.url or ""
        for image in job.request.images
    ]
    failure, output = failure_of(job), None
    if failure is not None:
        output = answer_to_failure(failure, endpoint_of(job)).body
    elif job.output is not None:
        links = [job_link(dependencies, job, image.blob, origin) for image in job.output.images]
        output = dump.dump_result(job, links)
    return {"json_input": dump.dump_input(job, inputs), "json_output": output}


def parse_listing(query: QueryParams, now: datetime) -> Listing:
    """What a query asks for; raises BadRequest and UnknownModel."""
    unknown = sorted(set(query) - QUERY)
    if unknown:
        raise BadRequest(f"There is no parameter '{unknown[0][:60]}' here. There are: {', '.join(sorted(QUERY))}.")
    job_id = query.get("request_id") or None
    start = _moment(query, "start", now - (SINCE if job_id is None else SINCE_BY_ID))
    end = _moment(query, "end", now + timedelta(seconds=1))
    status = _word(query, "status", tuple(OUTCOMES))

    def outcome(state: JobState, code: str | None) -> bool:
        if status is None:
            return True
        failure = Failure("cancelled" if state is JobState.CANCELLED else code or "", "")
        answered = 200 if state is JobState.SUCCEEDED else answer_to_failure(failure).status
        return state.final and answered in OUTCOMES[status]

    order = ORDERS[_word(query, "sort_by", tuple(ORDERS)) or "ended_at"]
    names = _listed(query, "endpoint_id")
    if not 1 <= len(names) <= MAX_ENDPOINTS:
        there = ", ".join(ENDPOINTS)
        raise BadRequest(f"endpoint_id must name 1 to {MAX_ENDPOINTS} endpoints, not {len(names)}; there are: {there}.")
    endpoints = frozenset(endpoint_named(name).id for name in names)
    return Listing(PROTOCOL, endpoints, start, end, job_id, outcome, order)


def wants_payloads(query: QueryParams) -> bool:
    """Whether `expand` names the payloads, the one thing that can be added here; raises BadRequest for another."""
    words = _listed(query, "expand")
    for word in words:
        if word != "payloads":
            raise BadRequest(f"expand must be payloads, not '{word[:40]}'.")
    return bool(words)


def _listed(query: QueryParams, name: str) -> list[str]:
    """The values of a parameter that may be repeated, or be one text with commas."""
    return [part.strip() for text in query.getlist(name) for part in text.split(",") if part.strip()]


def _word(query: QueryParams, name: str, allowed: Sequence[str]) -> str | None:
    word = query.get(name) or None
    if word is not None and word not in allowed:
        raise BadRequest(f"{name} must be one of {', '.join(allowed)}, not '{word[:40]}'.")
    return word


def _moment(query: QueryParams, name: str, default: datetime) -> datetime:
    """A date or a time in ISO 8601; UTC where it names no zone."""
    text = query.get(name)
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a form turns the + of a zone into a blank
    except ValueError:
        raise BadRequest(f"{name} must be a date or time in ISO 8601, not '{text[:40]}'.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def cursor_of(page: int) -> str:
    """The number of a page, from 1, as the vendor writes it."""
    return base64.b64encode(str(page).encode()).decode()


def parse_cursor(text: str | None) -> int:
    """`cursor_of` backwards; the first page without one. Raises BadRequest."""
    if not text:
        return 1
    try:
        number = base64.b64decode(text.replace(" ", "+"), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        number = ""
    if not number.isdecimal() or not 1 <= len(number) <= 9 or int(number) < 1:
        raise BadRequest(f"cursor must be the next_cursor of an answer, not '{text[:40]}'.")
    return int(number)


# --- delete


async def delete_payloads(dependencies: AppDependencies, request: Request, request_id: str) -> Response:
    """`DELETE /models/requests/{request_id}/payloads`.

    Gone are the prompt, the output files, and images that came inside the request as data URIs; uploads, which another
    request may use, live until they expire. What it cost stays in the ledger. Deleting again is no error.
    """
    set_request_id(request, request_id)
    account = await account_of(dependencies.authenticator, request)
    origin = files_origin_of(dependencies, request)

    def delete() -> list[str]:
        job = dependencies.service.delete_payload(account, request_id)
        return [job_link(dependencies, job, image.blob, origin) for image in (job.output.images if job.output else ())]

    links = await run_in_threadpool(delete)
    return json_response({"cdn_delete_results": [{"link": link, "exception": None} for link in links]})
