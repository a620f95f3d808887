"""Another Retouch as an upstream, by the queue protocol that both speak, and one header more.

A submit carries its attempt's id as Idempotency-Key, so that one whose answer was lost is simply sent again; its body
must then be the same, so images that are not linked to go inside it. Its log lines tell the step.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from retouch.errors import InvalidSetting
from retouch.upstreams.fal.upstream import Addresses, FalUpstream
from retouch.upstreams.inputs import Upload
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Accepted, Call, Failed, FaultKind, ImageMode, SubmitOutcome, Ticket, Traits

_KEYS_KEPT: Final = timedelta(hours=24)
_KEY_REUSED: Final = "idempotency key was used"
_STEP: Final = re.compile(r"Step (\d{1,6}) of (\d{1,6})")


class RetouchUpstream(FalUpstream):
    """base_url: the server's own address, as callers know it. Raises InvalidSetting without one."""

    kind = "retouch"

    def __init__(self, options: UpstreamOptions) -> None:
        if options.base_url is None:
            raise InvalidSetting("An upstream of kind 'retouch' needs a base_url, such as https://HOST.")
        root = f"{options.base_url.rstrip('/')}/fal"
        super().__init__(options, Addresses(f"{root}/queue", f"{root}/rest", f"{root}/api"))

    def _traits(self, options: UpstreamOptions) -> Traits:
        return Traits(
            paid=bool(options.paid),
            named=True,
            idempotent=True,
            has_history=True,
            free_cancel=True,
            server_errors_charged=False,
            webhooks=True,
            poll_cap_s=1.0,
            polls_per_second=100.0,
        )

    def submit(self, call: Call) -> SubmitOutcome:
        outcome = super().submit(call)
        if isinstance(outcome, Failed) and _KEY_REUSED in outcome.fault.message.lower():
            # Taken before this process was started, with links that have been signed anew since.
            ticket = self._find(call, datetime.now(UTC) - _KEYS_KEPT, by_links=False)
            unknown = Failed(replace(outcome.fault, kind=FaultKind.NO_ANSWER, charged=None))
            return unknown if ticket is None else Accepted(ticket)
        return outcome

    def _upload_for(self, mode: ImageMode) -> Upload | None:
        return super()._upload_for(mode) if mode is ImageMode.UPLOAD else None

    def _headers(self, call: Call) -> dict[str, str]:
        return {**super()._headers(call), "Idempotency-Key": call.attempt_id}

    def _cost(self, reply: Reply, ticket: Ticket) -> int | None:  # noqa: ARG002
        """Its unit is the megapixel, whatever the price is of: the images that came tell the same, by the sheet."""
        return None

    def _progress(self, lines: list[str]) -> tuple[int, int]:
        for line in reversed(lines):
            if (found := _STEP.match(line)) is not None:
                return int(found[1]), int(found[2])
        return 0, 0
