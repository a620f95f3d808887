"""What the OpenAI protocol is to the server: its paths, errors in its shape, and how its clients are led here."""

from __future__ import annotations

import shlex

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import RetouchError
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import UnexpectedError, add_error_handlers
from retouch.protocols.face import ClientAddress, ExampleCall, Face, Mount, export_lines
from retouch.protocols.http import DrainRefusedUploads, json_response
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.parse import EditCall
from retouch.protocols.openai.routes import Edits, Models
from retouch.protocols.outcome import MethodNotAllowed, failure_in_wire_names


def create_face(dependencies: AppDependencies) -> FastAPI:
    """The protocol as an application to be mounted at `/v1`."""
    app = FastAPI(title="Retouch, OpenAI protocol", redirect_slashes=False)
    app.add_middleware(DrainRefusedUploads)
    edits, models = Edits(dependencies), Models(dependencies)
    for path, endpoint, method in (
        ("/images/edits", edits.edit, "POST"),
        ("/images/generations", edits.refuse_generation, "POST"),
        ("/images/variations", edits.refuse_variation, "POST"),
        ("/models", models.list, "GET"),
        ("/models/{model_id:path}", models.retrieve, "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
        if "{" not in path:
            app.add_api_route(f"{path}/", endpoint, methods=[method], response_model=None, include_in_schema=False)
    add_error_handlers(app, answer_error)
    return app


def answer_error(request: Request, error: RetouchError) -> Response:
    """With the caller's own name of the parameter once the call was parsed."""
    call: EditCall | None = getattr(request.state, "call", None)
    failure = failure_in_wire_names(error.failure, call.wire_name) if call else error.failure
    answer = dump_error(failure, transient=isinstance(error, UnexpectedError))
    allow = {"allow": error.allowed} if isinstance(error, MethodNotAllowed) else {}
    return json_response(answer.body, answer.status, {**answer.headers, **allow})


def client_exports(client: ClientAddress) -> str:
    return export_lines(OPENAI_BASE_URL=f"{client.url}/v1", OPENAI_API_KEY="any")


def example_command(call: ExampleCall) -> str:
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
    client_exports=client_exports,
    example_command=example_command,
)
