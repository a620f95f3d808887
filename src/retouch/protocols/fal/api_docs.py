"""Describes an endpoint to programs and people: `llms.txt` and OpenAPI, both written from the table.

Nothing here is a second truth: names, defaults and limits are those that requests are checked against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from retouch.edit import MAX_LORA_SCALE
from retouch.errors import UnknownUrl
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.errors import check_method
from retouch.protocols.fal.parse import endpoint_named
from retouch.protocols.fal.routes import face_url_of
from retouch.protocols.fal.schemas import DEFAULT_SIDE, ENDPOINTS, Endpoint, Kind, Parameter
from retouch.protocols.http import json_response

LLMS_SUFFIX = "/llms.txt"


async def llms(dependencies: AppDependencies, request: Request) -> Response:
    """`GET /models/{id}/llms.txt`."""
    path: str = request.path_params["path"]
    if not path.endswith(LLMS_SUFFIX):
        raise UnknownUrl(f"Path /models/{path[:200]} not found")
    check_method(request.method, request.url.path, "GET")
    endpoint = endpoint_named(path.removesuffix(LLMS_SUFFIX))
    return PlainTextResponse(describe(endpoint, face_url_of(dependencies, request)))


async def openapi(dependencies: AppDependencies, request: Request) -> Response:
    """`GET /openapi.json?endpoint_id={id}`; without an id, of all endpoints."""
    check_method(request.method, request.url.path, "GET")
    name = request.query_params.get("endpoint_id")
    endpoints = tuple(ENDPOINTS.values()) if name is None else (endpoint_named(name),)
    return json_response(document(endpoints, face_url_of(dependencies, request)))


# --- text


def describe(endpoint: Endpoint, face: str) -> str:
    """The endpoint as one page of Markdown. face: the address of this protocol, without a trailing slash."""
    price = endpoint.model.price.per_megapixel_microusd / 1_000_000
    required = {p.name: _example(p) for p in endpoint.parameters.values() if p.required}
    everything = {p.name: _example(p) for p in endpoint.parameters.values() if _example(p) is not None}
    body = json.dumps(required, indent=2)
    return f"""# {endpoint.title}

> Edit pictures by instruction, on this server.

## Overview

- **Endpoint**: `{face}/run/{endpoint.id}`
- **Queue**: `{face}/queue/{endpoint.id}`
- **Model ID**: `{endpoint.id}`
- **Price**: ${price:g} per megapixel of output, as this server's ledger counts it

## Input

{"".join(_line(p) for p in endpoint.parameters.values())}
**Required parameters**:

```json
{body}
```

**Full example**:

```json
{json.dumps(everything, indent=2)}
```

## Output

{"".join(_OUTPUT_LINES[key] for key in (*endpoint.output, "notices"))}
Each picture has {", ".join(f"`{key}`" for key in endpoint.image_keys)}.

## Usage

### cURL

```bash
curl --request POST \\
  --url {face}/run/{endpoint.id} \\
  --header "Authorization: Key $FAL_KEY" \\
  --header "Content-Type: application/json" \\
  --data '{json.dumps(required)}'
```

### Python

```python
from fal_client import client

client.RUN_URL_FORMAT, client.QUEUE_URL_FORMAT = "{face}/run/", "{face}/queue/"
client.REST_URL, client.CDN_URL = "{face}/rest", "{face}/cdn"

import fal_client

result = fal_client.subscribe("{endpoint.id}", arguments={json.dumps(required)})
print(result["images"][0]["url"])
```

### JavaScript

```js
import {{ fal }} from "@fal-ai/client";

fal.config({{ proxyUrl: {{ url: "{face}/proxy", when: "always" }} }});
const result = await fal.subscribe("{endpoint.id}", {{ input: {json.dumps(required)} }});
console.log(result.data.images[0].url);
```

OpenAPI: {face}/openapi.json?endpoint_id={endpoint.id}
"""


def _line(parameter: Parameter) -> str:
    need = "required" if parameter.required else "optional"
    parts = [f"- **`{parameter.name}`** (`{parameter.kind.value}`, _{need}_): {parameter.description}"]
    if parameter.default is not None:
        parts.append(f"  - Default: `{json.dumps(parameter.default)}`")
    if parameter.kind is Kind.LORAS:
        parts.append(f"  - Scale: `{parameter.minimum}` to `{parameter.maximum:g}`, default `1`")
    elif parameter.kind is Kind.IMAGE_SIZE:
        parts.append(f"  - Each side up to `{parameter.maximum}`")
    elif parameter.minimum is not None:
        parts.append(f"  - Range: `{parameter.minimum}` to `{parameter.maximum}`")
    if parameter.min_pixels is not None:
        parts.append(f"  - Pixels: `{parameter.min_pixels}` to `{parameter.max_pixels}`")
    if parameter.max_length is not None:
        what = "entries" if parameter.kind in (Kind.LINKS, Kind.LORAS) else "characters"
        parts.append(f"  - At most `{parameter.max_length}` {what}")
    if parameter.choices:
        parts.append("  - Options: " + ", ".join(f"`{json.dumps(word)}`" for word in parameter.choices))
    return "\n".join(parts) + "\n"


def _example(parameter: Parameter) -> Any:
    value = parameter.default if parameter.example is None else parameter.example
    return list(value) if isinstance(value, tuple) else value


_OUTPUT_LINES: Mapping[str, str] = {
    "images": "- **`images`** (`list<Image>`): the pictures, in the order of their seeds.\n",
    "timings": "- **`timings`** (`object`): seconds by stage.\n",
    "seed": "- **`seed`** (`integer`): of the first picture; the next has the next seed.\n",
    "has_nsfw_concepts": "- **`has_nsfw_concepts`** (`list<boolean | null>`): null where a check was "
    "wanted and there was none.\n",
    "prompt": "- **`prompt`** (`string`): the instruction that was used.\n",
    "notices": "- **`notices`** (`list<{parameter, action, detail}>`, _optional_): what was not used as written.\n",
}


# --- OpenAPI


def document(endpoints: tuple[Endpoint, ...], face: str) -> dict[str, Any]:
    """OpenAPI 3.0 of the queue and the synchronous call of these endpoints."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = dict(_SHARED_SCHEMAS)
    for endpoint in endpoints:
        words = endpoint.id.removeprefix("fal-ai/").replace("/", "-").split("-")
        name = "".join(word.capitalize() for word in words)
        schemas[f"{name}Input"] = input_schema(endpoint)
        schemas[f"{name}Output"] = output_schema(endpoint)
        paths |= _paths(endpoint, name)
    title = endpoints[0].title if len(endpoints) == 1 else "Retouch, fal protocol"
    return {
        "openapi": "3.0.4",
        "info": {"title": title, "version": "1.0.0", "description": "Edit images by instruction."},
        "servers": [{"url": face}],
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"apiKey": {"type": "apiKey", "in": "header", "name": "Authorization"}},
            "schemas": schemas,
        },
    }


def input_schema(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _schema(p) for name, p in endpoint.parameters.items()},
        "required": [p.name for p in endpoint.parameters.values() if p.required],
    }


def output_schema(endpoint: Endpoint) -> dict[str, Any]:
    kinds: Mapping[str, dict[str, Any]] = {
        "url": {"type": "string"},
        "content_type": {"type": "string"},
        "file_name": {"type": "string"},
        "file_size": {"type": "integer"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
    }
    image = {
        "type": "object",
        "properties": {key: kinds[key] for key in endpoint.image_keys},
        "required": list(endpoint.image_keys),
    }
    properties: Mapping[str, dict[str, Any]] = {
        "images": {"type": "array", "items": image},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
        "seed": {"type": "integer"},
        "has_nsfw_concepts": {"type": "array", "items": {"type": "boolean", "nullable": True}},
        "prompt": {"type": "string"},
        "notices": {"type": "array", "items": {"$ref": "#/components/schemas/Notice"}},
    }
    chosen = {key: properties[key] for key in (*endpoint.output, "notices")}
    return {"type": "object", "properties": chosen, "required": list(endpoint.output)}


def _schema(parameter: Parameter) -> dict[str, Any]:
    low, high = parameter.min_length, parameter.max_length
    match parameter.kind:
        case Kind.INTEGER | Kind.NUMBER:
            name = "integer" if parameter.kind is Kind.INTEGER else "number"
            schema = _without_none(type=name, minimum=parameter.minimum, maximum=parameter.maximum)
        case Kind.BOOLEAN:
            schema = {"type": "boolean"}
        case Kind.WORD:
            schema = {"type": "string", "enum": list(parameter.choices)}
        case Kind.LINKS | Kind.LORAS:
            lora = {"$ref": "#/components/schemas/LoraWeight"}
            items = lora if parameter.kind is Kind.LORAS else {"type": "string"}
            schema = _without_none(type="array", items=items, minItems=low, maxItems=high)
        case Kind.IMAGE_SIZE:
            names = {"type": "string", "enum": [*parameter.choices, *(parameter.also or ())]}
            schema = {"anyOf": [names, {"$ref": "#/components/schemas/ImageSize"}]}
        case Kind.STRING | Kind.LINK:
            schema = _without_none(type="string", maxLength=high)
    example = None if parameter.example is None else _example(parameter)
    return schema | _without_none(description=parameter.description, default=parameter.default, example=example)


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _paths(endpoint: Endpoint, name: str) -> dict[str, Any]:
    def answer(schema: str, text: str) -> dict[str, Any]:
        ref = {"$ref": f"#/components/schemas/{schema}"}
        return {"description": text, "content": {"application/json": {"schema": ref}}}

    body = {"required": True, "content": answer(f"{name}Input", "")["content"]}
    wrong = {"422": answer("InvalidInput", "What is wrong with the input.")}
    request_id = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
    logs = {"name": "logs", "in": "query", "schema": {"type": "string", "enum": ["0", "1", "true", "false"]}}
    base = f"/queue/{endpoint.app}/requests/{{request_id}}"
    states = {"200": answer("Status", "It has ended."), "202": answer("Status", "It waits or runs.")}
    return {
        f"/run/{endpoint.id}": {
            "post": {"requestBody": body, "responses": {"200": answer(f"{name}Output", "The images."), **wrong}}
        },
        f"/queue/{endpoint.id}": {
            "post": {"requestBody": body, "responses": {"200": answer("Status", "It is in the queue."), **wrong}}
        },
        f"{base}/status": {"get": {"parameters": [request_id, logs], "responses": states}},
        base: {
            "get": {
                "parameters": [request_id],
                "responses": {"200": answer(f"{name}Output", "The images."), "400": answer("Error", "Not yet.")},
            }
        },
        f"{base}/cancel": {
            "put": {"parameters": [request_id], "responses": {"202": answer("Cancelled", "It is being stopped.")}}
        },
    }


def _object(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


_TEXT: dict[str, Any] = {"type": "string"}
_SIDE: dict[str, Any] = {"type": "integer", "minimum": 1, "default": DEFAULT_SIDE}

_SHARED_SCHEMAS: Mapping[str, Any] = {
    "ImageSize": _object((), width=_SIDE, height=_SIDE),
    "LoraWeight": _object(
        ("path",), path=_TEXT, scale={"type": "number", "minimum": 0, "maximum": MAX_LORA_SCALE, "default": 1}
    ),
    "Status": _object(
        ("status", "request_id", "response_url", "status_url", "cancel_url"),
        status={"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        request_id=_TEXT,
        response_url=_TEXT,
        status_url=_TEXT,
        cancel_url=_TEXT,
        queue_position={"type": "integer"},
        logs={"type": "array", "nullable": True, "items": {"type": "object"}},
        metrics={"type": "object"},
        error=_TEXT,
        error_type=_TEXT,
    ),
    "Notice": _object(("parameter", "action", "detail"), parameter=_TEXT, action=_TEXT, detail=_TEXT),
    "Cancelled": _object(("status",), status=_TEXT),
    "Error": _object(("detail",), detail=_TEXT, error_type=_TEXT, message=_TEXT),
    "InvalidInput": _object(
        ("detail",),
        detail={
            "type": "array",
            "items": _object(
                ("loc", "msg", "type"),
                loc={"type": "array", "items": {}},
                msg=_TEXT,
                type=_TEXT,
                url=_TEXT,
                ctx={"type": "object"},
            ),
        },
        message=_TEXT,
    ),
}
