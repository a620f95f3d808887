"""The record of the RunPod protocol."""

from __future__ import annotations

import re

from retouch.jobs.outbox import RetrySchedule
from retouch.protocols.face import ClientAddress, Face, Mount, export_lines
from retouch.protocols.runpod.results import webhook_message
from retouch.protocols.runpod.routes import create_face


def _client_exports(client: ClientAddress) -> str:
    return export_lines(RUNPOD_ENDPOINT_BASE_URL=f"{client.url}/v2", RUNPOD_API_KEY="any")


FACE = Face(
    name="runpod",
    mounts=(Mount("/v2", create_face),),
    webhook=webhook_message,
    webhook_schedule=RetrySchedule(attempts=3, first_pause_s=10.0, pause_growth=1.0),
    quiet_paths=re.compile(r"/v2/+[^/]+/(status|status-sync|stream)/.+|/v2/+[^/]+/health/?"),
    exposed_headers=("retry-after",),
    client_exports=_client_exports,
)
