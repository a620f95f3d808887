"""Pictures on their way in and out of this face: uploads to blobs, blobs to base64 or links.

Blocking; routes call it on a thread. It decodes nothing and keeps nothing that a refused call brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pybase64

from retouch import images, sizes
from retouch.accounts.keys import Account
from retouch.catalog import Route
from retouch.edit import EditRequest, ImageInput
from retouch.errors import RetouchError, UnknownFile
from retouch.jobs.job import Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.ingest import image_from_text, store_image
from retouch.protocols.openai.answers import Shown
from retouch.protocols.openai.form import RawImage
from retouch.protocols.openai.wire import EditCall, Settled
from retouch.sizes import Sizes


class Pictures:
    def __init__(self, context: AppDependencies) -> None:
        self._context = context

    def submit(
        self,
        account: Account,
        call: EditCall,
        settled: Settled,
        base_url: str,
        idempotency: Idempotency | None = None,
    ) -> tuple[Job, bool]:
        """Store the pictures and write the job; (job, whether the idempotency key led to an older one).

        Where there is no new job the pictures are not kept.
        """
        uploads = Uploads(self._context, base_url)
        kept = False
        try:
            edit = uploads.into(settled.edit, call)
            delivery = call.delivery(call.model or edit.model)
            submitted = self._context.service.submit(account, edit, delivery, idempotency=idempotency)
            kept = not submitted.replayed
        finally:
            if not kept:
                uploads.drop()
        return submitted.job, submitted.replayed

    def sizes_of(self, call: EditCall, settled: Settled, route: Route, base_url: str) -> Sizes | None:
        """The sizes the call would have, checked with its pictures; None when a link hides them."""
        uploads = Uploads(self._context, base_url)
        try:
            return self._resolved(uploads.into(settled.completed, call), route)
        finally:
            uploads.drop()

    def output_size(self, job: Job, route: Route) -> tuple[int, int] | None:
        """(width, height) of the pictures the job will make, where that is known before it runs."""
        try:
            resolved = self._resolved(job.request, route)
        except RetouchError:
            return None
        return resolved.output if resolved else None

    def shown(self, call: EditCall, job: Job, base_url: str) -> Sequence[Shown]:
        """The pictures of a succeeded job in the form the call asked for; raises UnknownFile once they are gone."""
        if job.output is None:
            raise UnknownFile(f"The pictures of job {job.id} are no longer kept.")
        return [self._shown(call, image.blob, image.media_type, base_url) for image in job.output.images]

    def _shown(self, call: EditCall, key: str, media_type: str, base_url: str) -> Shown:
        by_url = call.response_format != "b64_json"
        by_value = call.stream or call.response_format != "url"
        data = self._context.blobs.get(key).data if by_value or call.inline else b""
        url = None
        if by_url and call.inline:
            url = images.data_uri(data, media_type)
        elif by_url:
            url = self._context.blobs.link(key, ttl_s=self._context.link_ttl_s, base_url=base_url)
        return Shown(pybase64.b64encode_as_string(data) if by_value else None, url)

    def _resolved(self, request: EditRequest, route: Route) -> Sizes | None:
        profile = route.checkpoint.sizes
        if request.size.width is not None or request.size.aspect_ratio is not None:
            return sizes.resolve(request.size, profile, None, strict=request.strict)
        index = request.size.reference_image
        if index is None:
            index = 0 if request.mask is not None else len(request.images) - 1
        key = request.images[index].blob
        if key is None:
            return None
        header = images.probe(self._context.blobs.get(key).data, field=f"images[{index}]")
        return sizes.resolve(request.size, profile, (header.width, header.height), strict=request.strict)


class Uploads:
    """The pictures one call brought; `drop` removes those this call stored."""

    def __init__(self, context: AppDependencies, base_url: str) -> None:
        self._blobs = context.blobs
        self._base_url = base_url
        self._stored: list[str] = []

    def into(self, edit: EditRequest, call: EditCall) -> EditRequest:
        """`edit` with the pictures of `call`; raises InvalidImage and its kinds, and StorageUnavailable."""
        return replace(
            edit,
            images=tuple(self._input(image, f"images[{position}]") for position, image in enumerate(call.images)),
            mask=self._input(call.mask, "mask") if call.mask else None,
        )

    def drop(self) -> None:
        for key in self._stored:
            self._blobs.delete(key)

    def _input(self, image: RawImage, field: str) -> ImageInput:
        if isinstance(image.source, str):
            stored = image_from_text(self._blobs, image.source, field=field, base_url=self._base_url)
        else:
            stored = store_image(self._blobs, image.source, field=field)
        if stored.owned and stored.blob is not None:
            self._stored.append(stored.blob)
        return stored
