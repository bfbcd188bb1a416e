"""The OpenAPI document: valid, complete, and true."""

import re
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from node.api.docs import DOCS_PATHS
from node.api.openapi import document
from node.api.routes import ROUTES, Operation

DOCUMENT = document()
OPERATIONS: list[dict[str, Any]] = [op for path in DOCUMENT["paths"].values() for op in path.values()]


def _path(op: Operation) -> str:
    return re.sub(r":\w+}", "}", op.path)


def test_it_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_every_route_is_in_it_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == {(op.method, _path(op)) for op in ROUTES}


def test_operation_ids_are_unique() -> None:
    ids = [op["operationId"] for op in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z_]+", i) for i in ids)


@pytest.mark.parametrize("op", ROUTES, ids=lambda op: f"{op.method} {op.path}")
def test_an_operation_says_what_it_takes_gives_and_how_it_fails(op: Operation) -> None:
    described = DOCUMENT["paths"][_path(op)][op.method.lower()]
    assert described["summary"] == op.summary
    assert ("requestBody" in described) == (op.takes is not None or op.takes_file)
    assert {p["name"] for p in described["parameters"] if p["in"] == "path"} == set(re.findall(r"{(\w+)", op.path))
    assert {p["name"] for p in described["parameters"] if p["in"] == "query"} == {p.name for p in op.parameters}
    assert {p["name"] for p in described["parameters"] if p["in"] == "header"} == {h.name for h in op.headers}
    statuses = set(described["responses"])
    assert {str(op.status), *map(str, op.fails)} <= statuses
    assert ("401" in statuses) == op.guarded == bool(described["security"])
    for response in described["responses"].values():
        assert response["description"]


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [r for v in value.values() for r in references(v)]
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    found = references(DOCUMENT)
    assert found
    schemas = DOCUMENT["components"]["schemas"]
    assert {r.removeprefix("#/components/schemas/") for r in found} <= set(schemas)


def test_dispatch_is_described_as_it_is_checked() -> None:
    schema = DOCUMENT["components"]["schemas"]["DispatchRequest"]
    assert set(schema["required"]) == {"client_id", "request"}
    assert schema["additionalProperties"] is False


async def test_the_document_is_served(api: httpx.AsyncClient) -> None:
    assert (await api.get("/openapi.json")).json() == DOCUMENT
    home = await api.get("/")
    assert (home.status_code, home.headers["Location"]) == (307, "docs")


async def test_the_page_loads_everything_from_the_node_itself(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {f"/{name}" for name in loaded} == DOCS_PATHS - {"/docs"}
    for name in loaded:
        assert (await api.get(f"/{name}")).status_code == 200
    assert "sourceMappingURL" not in (await api.get("/docs/swagger-ui-bundle.js")).text


async def test_an_unchanged_file_is_not_sent_again(api: httpx.AsyncClient) -> None:
    first = await api.get("/docs/swagger-ui.css")
    assert first.headers["Content-Type"].startswith("text/css")
    again = await api.get("/docs/swagger-ui.css", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_the_docs_folder_serves_nothing_else(api: httpx.AsyncClient) -> None:
    for path in ("/docs/README.md", "/docs/../openapi.py", "/docs/%2e%2e/openapi.py"):
        assert (await api.get(path)).status_code == 404
