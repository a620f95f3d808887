"""A call with `?dryRun=true`: what its edit would come to, checked with its images. Blocking; nothing is kept.

No job is made and no link is followed. `sizes_of` also tells a stream how large its images will be.
"""

from __future__ import annotations

from dataclasses import replace

from retouch import images, sizes
from retouch.catalog import Catalog, Route
from retouch.catalog.normalised import NO_SIZES, ImageSizes, Normalised
from retouch.catalog.normaliser import ServedTarget, able, needs_sizes
from retouch.edit import EditRequest
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.openai.dump import dump_estimate
from retouch.protocols.openai.parse import EditCall
from retouch.protocols.submit import Submission, stored_images
from retouch.sizes import Sizes
from retouch.storage.blobs import Blobs


def estimate(dependencies: AppDependencies, call: EditCall, route: Route, submission: Submission) -> dict[str, object]:
    """The answer to the call; raises what the edit would be refused for, now or once its images are seen."""
    completed, notices = route.complete(call.request, image_count=len(submission.images))
    with stored_images(dependencies.blobs, replace(submission, request=completed)) as stored:
        request = stored.request
        found: dict[str, tuple[int, int]] = {}
        for image in request.inputs:
            if image.blob is None:
                continue  # a link: its image is seen when it is fetched
            data = dependencies.blobs.get(image.blob).data
            header = images.probe(data, field=image.field)
            found[image.field] = (header.width, header.height)
            if image is not request.mask:
                notices += route.model.check_image(header.width, header.height, len(data), field=image.field)
        if "mask" in found and "images[0]" in found:
            sizes.check_mask(found["mask"], found["images[0]"], field="mask")
        known = sizes_of(dependencies.blobs, request, route)
        asked = replace(call.request, images=request.images, mask=request.mask)
        target, made = _hosted_target(dependencies.catalog, route, asked, found)
    size = known or sizes.resolve(completed.size, route.checkpoint.sizes, None, strict=completed.strict)
    if made is not None:
        size = Sizes(size.canvas, made.emulation.size or size.output)
    notices += size.notices if made is None else made.notices
    return dump_estimate(call, completed, route, size, notices, size_known=known is not None, target=target)


def _hosted_target(
    catalog: Catalog, route: Route, request: EditRequest, found: ImageSizes
) -> tuple[ServedTarget | None, Normalised | None]:
    """The first target that takes the edit, and what it would be asked; neither where that is our own queue.

    A prompt is cut, and the operator's options count, as at the gateway.
    """
    if not needs_sizes(request):
        found = NO_SIZES
    (target, *_), cut_prompt, _ = able(catalog.targets(route), request, found)
    if target.normalise is None:
        return None, None
    made = target.normalise(request, found, cut_prompt=cut_prompt)
    return replace(target, price=made.sheet or target.price), made


def sizes_of(blobs: Blobs, request: EditRequest, route: Route) -> Sizes | None:
    """The sizes that an edit will have; None where a link hides the image whose shape is followed."""
    profile = route.checkpoint.sizes
    if request.size.width is not None or request.size.aspect_ratio is not None:
        return sizes.resolve(request.size, profile, None, strict=request.strict)
    image = request.images[request.reference_index]
    if image.blob is None:
        return None
    header = images.probe(blobs.get(image.blob).data, field=image.field)
    return sizes.resolve(request.size, profile, (header.width, header.height), strict=request.strict)
