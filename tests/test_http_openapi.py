"""The OpenAPI document and the page made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from tbx.http.openapi import OrderAmendment, OrderRequest, OrderResolution, PositionClosing, SignalDataRequest
from tbx.http.schema import AMEND_FIELDS, CLOSE_FIELDS, ORDER_FIELDS, RESOLVE_FIELDS, SIGNAL_FIELDS

from .redis_fixtures import in_loop
from .service_fixtures import a_service


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def test_the_described_requests_have_exactly_the_fields_that_are_read() -> None:
    assert fields(OrderRequest) == ORDER_FIELDS
    assert fields(SignalDataRequest) == SIGNAL_FIELDS
    assert fields(OrderAmendment) == AMEND_FIELDS
    assert fields(OrderResolution) == RESOLVE_FIELDS
    assert fields(PositionClosing) == CLOSE_FIELDS


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*map(references, node.values())) if node else found
    return set().union(*map(references, node)) if isinstance(node, list) and node else set()


@in_loop
async def test_the_document_describes_every_route_and_refers_to_nothing_that_is_missing(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        document = (await service.http.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert described == {(op.method, op.path) for op in service.app.operations}
        names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= names
        placed = document["components"]["schemas"]["OrderPlaced"]
        assert placed["properties"]["quantity"]["type"] == "number"
        answer = (await service.order()).json()
        assert placed["properties"].keys() == answer.keys()


@in_loop
async def test_the_page_needs_nothing_from_elsewhere_and_explains_every_code(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        page = await service.http.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "style-src 'sha256-" in page.headers["content-security-policy"]
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
        assert "<script" not in page.text
        problem = (await service.http.get("/nope")).json()
        assert f'id="{problem["type"].partition("#")[2]}"' in page.text
