"""The description of the HTTP interface, made of the very table that the routes are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from electorate.version import __version__
from electorate.web.answers import Change, Complaint

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Operation(NamedTuple):
    """One thing that can be asked: how, and what may be answered. A string stands for a type of text."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, type | str]
    query: tuple[str, ...] = ()
    body: type | None = None


QUERY: dict[str, dict[str, Any]] = {
    "election": {"description": "By default the first of the configuration; of events, all."},
    "after": {"description": "Name the elections that come after this name."},
    "limit": {
        "description": "How many to name.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 1000},
    },
    "series": {
        "description": "How many elections have series of their own.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


ANYWHERE: dict[int, type] = {403: Complaint, 421: Complaint}
"""What may be answered to whatever is asked: a certificate is wanted, or another host was meant."""


def description(operations: Iterable[Operation]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    operations = tuple(operations)
    types = {
        kind for each in operations for kind in (*each.answers.values(), each.body) if isinstance(kind, type)
    }
    ordered = sorted({*types, Change, *ANYWHERE.values()}, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = operation(each, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "electorate",
            "version": __version__,
            "description": "One node of a cluster that elects. The data of each event is a Change.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def operation(each: Operation, references: dict[type, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": each.summary,
        "operationId": f"{each.method.lower()}{each.path.replace('/', '_').replace('.', '_')}",
        "responses": {
            str(status): {"description": HTTPStatus(status).phrase, "content": content(answer, references)}
            for status, answer in sorted({**each.answers, **ANYWHERE}.items())
        },
    }
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}, **QUERY[name]} for name in each.query
    ]
    if "text/event-stream" in each.answers.values():
        parameters.append({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}})
    if parameters:
        described["parameters"] = parameters
    if each.body:
        described["requestBody"] = {"required": True, "content": content(each.body, references)}
        described["security"] = [{"token": []}]
    return described


def content(answer: type | str, references: dict[type, Any]) -> dict[str, Any]:
    if isinstance(answer, str):
        return {answer: {}}
    return {"application/json": {"schema": references[answer]}}
