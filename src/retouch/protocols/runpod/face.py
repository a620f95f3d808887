"""The record of the RunPod protocol."""

from __future__ import annotations

from retouch.protocols.face import ClientAddress, Face, export_lines


def _client_exports(client: ClientAddress) -> str:
    return export_lines(RUNPOD_ENDPOINT_BASE_URL=f"{client.url}/v2", RUNPOD_API_KEY="any")


FACE = Face(name="runpod", mounts=(), client_exports=_client_exports)
