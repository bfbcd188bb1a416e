"""`/openapi.json`: the interface as an OpenAPI document, from the table of routes. `node.api.docs` draws the page."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from node.api.routes import ROUTES, Operation
from node.api.schemas import ErrorAnswer
from node.telemetry.metrics import package_version

__all__ = ["document"]

_PATH_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_KEY = "ApiKey"


def document(operations: Sequence[Operation] = ROUTES) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = {m for op in operations for m in (op.gives, op.takes) if m is not None} | {ErrorAnswer}
    ordered = sorted(models, key=lambda m: m.__name__)
    _, schemas = models_json_schema(
        [(m, "validation" if m in {op.takes for op in operations} else "serialization") for m in ordered],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for op in operations:
        path = _PATH_PARAMETER.sub(r"{\1}", op.path)
        paths.setdefault(path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AIP Cluster",
            "version": package_version(),
            "description": "Dispatch tasks to devices on any node of the cluster, and read their results.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {_KEY: {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _operation(op: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAMETER.findall(op.path)
    ]
    parameters += [
        {"name": p.name, "in": "query", "required": False, "description": p.text, "schema": {"type": p.kind}}
        for p in op.parameters
    ]
    parameters += [
        {"name": h.name, "in": "header", "required": False, "description": h.text, "schema": {"type": h.kind}}
        for h in op.headers
    ]
    failed = op.gives if op.fails_as_given else ErrorAnswer
    fails = dict(op.fails)
    if op.guarded:
        fails |= {401: "the API key is missing or wrong", 503: "Redis is away; try again after Retry-After"}
    responses = {str(op.status): {"description": "done", "content": _content(op.gives, op.media_type)}}
    responses |= {str(s): {"description": text, "content": _content(failed)} for s, text in sorted(fails.items())}
    described: dict[str, Any] = {
        "operationId": op.handler.__name__,
        "summary": op.summary,
        "parameters": parameters,
        "responses": responses,
        "security": [{_KEY: []}] if op.guarded else [],
    }
    if op.takes_file:
        described["requestBody"] = {"required": True, "content": _content(None, "application/octet-stream")}
    if op.takes is not None:
        described["requestBody"] = {"required": True, "content": _content(op.takes)}
    return described


def _content(model: type[BaseModel] | None, media_type: str = "text/plain") -> dict[str, Any]:
    if model is None:
        return {media_type: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
