"""The OpenAPI document of `/api`, made of the table of what there is."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from bridge.dashboard.table import VIEWS, Act

_ANSWER = {
    "type": "object",
    "required": ["result", "detail"],
    "properties": {"result": {"type": "string"}, "detail": {"type": "string"}},
}


def document(root: str, acts: Sequence[Act]) -> dict[str, object]:
    """The document.

    :param root: the path that the program is mounted under.
    :param acts: those that are allowed.
    """
    paths: dict[str, dict[str, object]] = {}
    for view in VIEWS:
        paths.setdefault(_path(view.api), {})["get"] = {
            "summary": view.told,
            "parameters": [*_in_path(view.api), *_in_query(view.fields)],
            "responses": {
                "200": {"description": "The facts.", "content": _json({"type": "object"})},
                "404": {"description": "There is no such thing.", "content": _json(_ANSWER)},
                "503": {"description": "The store does not answer.", "content": _json(_ANSWER)},
            },
        }
    for act in acts:
        form = {"type": "object", "properties": {name: _text(told) for name, told in act.fields.items()}}
        paths.setdefault(_path(act.path), {})["post"] = {
            "summary": act.told,
            "parameters": _in_path(act.path),
            "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": form}, **_json(form)}},
            "responses": {
                "200": {"description": "It is done; MORE: in part, ask again.", "content": _json(_ANSWER)},
                "403": {"description": "You may look, and not act; or it came from another site's page."},
                "404": {"description": "There is no such thing.", "content": _json(_ANSWER)},
                "409": {"description": "It can't be done; `detail` says why.", "content": _json(_ANSWER)},
            },
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "jobbridge", "version": version("jobbridge")},
        "servers": [{"url": f"{root}/api"}],
        "security": [{"people": []}],
        "components": {"securitySchemes": {"people": {"type": "http", "scheme": "basic"}}},
        "paths": paths,
    }


def _path(path: str) -> str:
    return re.sub(r":\w+}", "}", path)


def _in_path(path: str) -> list[dict[str, object]]:
    names = re.findall(r"{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _in_query(fields: Mapping[str, str]) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "query", "description": told, "schema": {"type": "string"}}
        for name, told in fields.items()
    ]


def _text(told: str) -> dict[str, object]:
    return {"type": "string", "description": told}


def _json(schema: Mapping[str, object]) -> dict[str, object]:
    return {"application/json": {"schema": schema}}
