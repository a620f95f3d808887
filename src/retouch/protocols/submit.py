"""The one road from a parsed call to a queued job, and back where its caller has left; every face goes it.

Checks the edit, stores the images that came with it, writes the job, and deletes what was stored unless a new job owns
it. That is blocking: routes call it on a thread, because it may decode megabytes of base64 and writes to storage and
database. It fetches no link, decodes no pixel and waits for no edit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool

from retouch import images
from retouch.accounts.keys import Account
from retouch.edit import Bucket, Delivery, EditRequest, ImageInput
from retouch.errors import (
    ForbiddenAddress,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    JobFinished,
    Unavailable,
    UnknownJob,
)
from retouch.images.decoding import decode_data_uri, is_data_uri
from retouch.jobs.job import PRIORITY_NORMAL, Idempotency
from retouch.protocols.dependencies import AppDependencies
from retouch.service import Submitted
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.storage.guard import check_host

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""The vendors' own limit for one input image."""

OUTAGE_PAUSE_S = 1.0
"""Between two tries to cancel a job while the database is away."""

KeyOfLink = Callable[[str], str | None]
"""The blob key behind a link that leads here, or None for every other link."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A call as a face has parsed it.

    request: complete but for its images. images, mask: as they came, the bytes of a file or text (a link or a data
    URI). max_queue_length: refuse when more jobs than that are waiting. key_of_link: finds our own files behind links,
    so that they are read from storage without the network. start_timeout_s and life_s count from now, run_timeout_s
    from the start of each run (`Service.submit`).
    """

    request: EditRequest
    images: Sequence[bytes | str]
    delivery: Delivery
    key_of_link: KeyOfLink
    mask: bytes | str | None = None
    priority: int = PRIORITY_NORMAL
    start_timeout_s: float | None = None
    max_queue_length: int | None = None
    idempotency: Idempotency | None = None
    run_timeout_s: float | None = None
    life_s: float | None = None
    bucket: Bucket | None = None


def submit(dependencies: AppDependencies, account: Account, submission: Submission) -> Submitted:
    """Write the job; `replayed` when the idempotency key led to an older one of the same face.

    Raises UnknownModel, InvalidRequest and its kinds, QueueFull, IdempotencyKeyReused, Unavailable.
    """
    if submission.delivery.webhook_url is not None:
        check_webhook_address(dependencies, submission.delivery.webhook_url)
    idempotency = submission.idempotency
    if idempotency is not None:  # two faces do not know each other's keys
        idempotency = replace(idempotency, key=f"{submission.delivery.protocol}:{idempotency.key}")
    route = dependencies.catalog.route(submission.request.model)
    # Before anything is stored: most calls that are refused are refused here.
    route.check(submission.request, image_count=len(submission.images))
    with stored_images(dependencies.blobs, submission) as stored:
        submitted = dependencies.service.submit(
            account,
            stored.request,
            submission.delivery,
            priority=submission.priority,
            start_timeout_s=submission.start_timeout_s,
            max_queue_length=submission.max_queue_length,
            idempotency=idempotency,
            run_timeout_s=submission.run_timeout_s,
            life_s=submission.life_s,
            bucket=submission.bucket,
        )
        if not submitted.replayed:
            stored.keep()
    return submitted


def check_webhook_address(dependencies: AppDependencies, url: str) -> None:
    """Raise ForbiddenAddress for what needs no look-up to be refused; the sender judges each address again."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise InvalidRequest(f"The webhook's address '{url[:60]}' is not a URL.", field="webhook_url") from None
    try:
        check_host(host, port, dependencies.opened_addresses)
    except ForbiddenAddress:
        raise ForbiddenAddress(
            f"The webhook's host '{host[:100]}' is not a public address; the operator of this server can open it with "
            "--allow-private.",
            field="webhook_url",
        ) from None


class StoredImages:
    """The request with its images in storage, and the blobs that were stored for it."""

    def __init__(self) -> None:
        self.request: EditRequest
        self.blobs: list[str] = []

    def keep(self) -> None:
        """A job owns the blobs now."""
        self.blobs.clear()


@contextlib.contextmanager
def stored_images(blobs: Blobs, submission: Submission) -> Iterator[StoredImages]:
    """The submission's request with its images, for as long as the block runs; then the blobs go unless they are kept.

    Raises InvalidImage and its kinds, naming the canonical field, and StorageUnavailable.
    """
    stored = StoredImages()
    try:
        stored.request = replace(
            submission.request,
            images=tuple(
                _image_input(blobs, image, f"images[{index}]", submission.key_of_link, stored.blobs)
                for index, image in enumerate(submission.images)
            ),
            mask=None
            if submission.mask is None
            else _image_input(blobs, submission.mask, "mask", submission.key_of_link, stored.blobs),
            loras=tuple(replace(lora, blob=submission.key_of_link(lora.path)) for lora in submission.request.loras),
        )
        yield stored
    finally:
        for key in stored.blobs:
            blobs.delete(key)


def _image_input(
    blobs: Blobs, source: bytes | str, field: str, key_of_link: KeyOfLink, stored: list[str]
) -> ImageInput:
    """Bytes and data URIs are looked at (format, size) and stored; a link to our own file is its blob; others stay."""
    if isinstance(source, str):
        text = source.strip()
        if text[:8].lower().startswith(("http://", "https://")):
            key = key_of_link(text)
            return ImageInput(blob=key, field=field) if key else ImageInput(url=text, field=field)
        if not is_data_uri(text):
            raise InvalidImage(
                f"The field '{field}' must be an http(s) link or a data URI; it begins '{text[:20]}'.", field=field
            )
        # A blank at the end may have been a '+', so only the decoder may take it away.
        source = decode_data_uri(source.lstrip(), field=field)
    if len(source) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(
            f"The image in '{field}' has {len(source)} bytes; at most {MAX_IMAGE_BYTES} are allowed.",
            field=field,
            max_bytes=MAX_IMAGE_BYTES,
        )
    header = images.probe(source, field=field)
    # `service.submit` syncs the blob to disk before the job counts as accepted.
    key = blobs.put(source, header.media_type, folder="uploads", ttl_s=DEFAULT_TTL_S, sync=False)
    stored.append(key)
    return ImageInput(blob=key, field=field, owned=True)


async def cancel_abandoned(dependencies: AppDependencies, account: Account, submitted: Submitted) -> None:
    """Cancel a job whose caller has hung up, unless it has ended or an idempotency key led others to it as well."""
    if not submitted.replayed:
        await cancel_unattended(dependencies, account, submitted.job.id)


async def cancel_unattended(dependencies: AppDependencies, account: Account, job_id: str) -> bool:
    """Cancel a job that no caller waits for, if need be after an outage, which may be why it is given up.

    False when it had ended before.
    """
    with contextlib.suppress(JobFinished, UnknownJob):
        while True:
            try:
                await run_in_threadpool(dependencies.service.cancel, account, job_id)
            except Unavailable:
                await asyncio.sleep(OUTAGE_PAUSE_S)
            else:
                return True
    return False
