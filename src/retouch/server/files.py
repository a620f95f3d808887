"""Serves stored files by signed link, whole or in part. It makes no links and lists nothing."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.errors import UnknownFile
from retouch.protocols.file_response import file_response
from retouch.storage.blobs import Blobs


def file_routes(blobs: Blobs) -> APIRouter:
    """`GET` and `HEAD /files/{key}`; errors are raised as UnknownFile or StorageUnavailable."""
    router = APIRouter()

    @router.api_route("/files/{key:path}", methods=["GET", "HEAD"])
    async def read_file(request: Request, key: str) -> Response:
        if blobs.key_of_link(str(request.url)) != key:
            raise UnknownFile("There is no such file, or its link has expired.")
        blob = await run_in_threadpool(blobs.get, key)
        return file_response(blob, request)

    return router
