"""The record of the OpenAI protocol."""

from __future__ import annotations

import shlex

from retouch.protocols.face import ClientAddress, ExampleCall, Face, Mount, export_lines
from retouch.protocols.openai.routes import create_face


def _client_exports(client: ClientAddress) -> str:
    return export_lines(OPENAI_BASE_URL=f"{client.url}/v1", OPENAI_API_KEY="any")


def _example_command(call: ExampleCall) -> str:
    trust = f"--cacert {shlex.quote(call.certificate)} " if call.certificate else ""
    key = '-H "Authorization: Bearer $OPENAI_API_KEY" ' if call.needs_key else ""
    decode = (
        "import base64, json, sys; "
        "open('edited.png', 'wb').write(base64.b64decode(json.load(sys.stdin)['data'][0]['b64_json']))"
    )
    return (
        f"curl -s {trust}{key}{call.url}/v1/images/edits -F image=@{shlex.quote(call.photo)} "
        f'-F prompt="{call.instruction}" -F response_format=b64_json | python3 -c "{decode}"'
    )


FACE = Face(
    name="openai",
    mounts=(Mount("/openai/v1", create_face), Mount("/v1", create_face)),
    exposed_headers=(
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-ignored-parameters",
        "x-provider",
        "x-model",
        "idempotent-replayed",
    ),
    client_exports=_client_exports,
    example_command=_example_command,
)
