"""The pages of the service: files of the folder page/, and the interface's reference. No script or font from elsewhere."""

import html
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response

from services.inference.problems import known_codes, status_of, title_of

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def asset(name: str) -> Response:
    """Return one file of the page."""
    return Response(
        _bytes_of(name),
        media_type=_TYPES[Path(name).suffix],
        headers={"Cache-Control": "no-cache"},
    )


def reference(openapi: dict[str, Any]) -> Response:
    """Return the interface's reference, drawn from its OpenAPI description."""
    parts = [
        _section("Routes", _routes(openapi)),
        _section("Problems", _problems()),
        *(
            _section(name, _schema(schema), anchor=f"schema-{name}")
            for name, schema in sorted(openapi["components"]["schemas"].items())
        ),
    ]
    return HTMLResponse(
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<title>hilum: interface</title><link rel=icon href='data:,'>"
        "<link rel=stylesheet href=/page.css></head>"
        "<body class=reference><header><h1>hilum: interface</h1>"
        "<nav><a href='/'>Page</a> <a href='/openapi.json'>OpenAPI</a></nav></header>"
        f"<p>{_text(openapi['info']['description'])}</p>{''.join(parts)}</body></html>"
    )


@cache
def _bytes_of(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def _section(title: str, inner: str, anchor: str = "") -> str:
    mark = f" id='{html.escape(anchor)}'" if anchor else ""
    return f"<section{mark}><h2>{html.escape(title)}</h2>{inner}</section>"


def _routes(openapi: dict[str, Any]) -> str:
    blocks = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            answers = [
                (status, response["description"], ", ".join(response.get("content", {})))
                for status, response in sorted(operation["responses"].items())
            ]
            queries = [
                (_named(one), one.get("description", ""), _type(one["schema"]))
                for one in operation.get("parameters", [])
            ]
            body = operation.get("requestBody", {})
            taken = [("body", body["description"], ", ".join(body["content"]))] if body else []
            blocks.append(
                f"<h3><span class=method>{method.upper()}</span><code>{html.escape(path)}</code></h3>"
                f"<p>{_text(operation.get('description', ''))}</p>"
                + _table(("", "Meaning", "Type"), [*taken, *queries, *answers])
            )
    return "".join(blocks)


def _named(parameter: dict[str, Any]) -> str:
    marks = {"query": "?{}", "path": "{{{}}}", "header": "{}:"}
    return marks[parameter["in"]].format(parameter["name"])


def _problems() -> str:
    rows = "".join(
        f"<tr id='{code}'><th scope=row><code>{code}</code></th>"
        f"<td class=number>{status_of(code)}</td><td>{html.escape(title_of(code))}</td></tr>"
        for code in known_codes()
    )
    return (
        "<table><thead><tr><th scope=col>Code</th><th scope=col>Status</th>"
        f"<th scope=col>Meaning</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _schema(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (name, one.get("description", ""), _type(one) + ("" if name in required else ", optional"))
        for name, one in schema.get("properties", {}).items()
    ]
    summary = f"<p>{_text(schema.get('description', ''))}</p>"
    return summary + _table(("Field", "Meaning", "Type"), rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    found = schema.get("type", "any")
    return " | ".join(found) if isinstance(found, list) else str(found)


def _text(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th scope=col>{html.escape(one)}</th>" for one in heads)
    lines = "".join(
        f"<tr><th scope=row><code>{html.escape(first)}</code></th>"
        + "".join(f"<td>{_text(one)}</td>" for one in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
