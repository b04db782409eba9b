"""``/docs``: the OpenAPI document as one page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

Document = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: 6px }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary code { font-weight: 600 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
         border-bottom: 1px solid var(--line) }
.scope { float: right; opacity: .75 }
"""


def docs_page(document: Document) -> str:
    """HTML of every path and every body; readable without a script."""
    info = document["info"]
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    models = "".join(
        _model(name, model) for name, model in document["components"]["schemas"].items()
    )
    title = html.escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{html.escape(info['description'])}</p>"
        "<p>Send a key of <code>limen keys add</code> as <code>Authorization: Bearer KEY</code>; "
        "the customer and the scopes come from it. Every error has one shape: "
        '<a href="#ErrorAnswer"><code>ErrorAnswer</code></a>. '
        'The machine-readable form: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<h2>Paths</h2>{operations}<h2>Bodies</h2>{models}</html>"
    )


def _operation(method: str, path: str, operation: Document) -> str:
    scope = operation.get("x-scope")
    needs = "open" if scope is None else f"scope {scope}" if scope != "any" else "any key"
    rows = "".join(
        f"<tr><td><code>{status}</code></td><td>{html.escape(response['description'])}"
        f"{_link(response['content'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return (
        f"<details><summary><code>{method.upper()} {html.escape(path)}</code> "
        f'<span class="scope">{html.escape(needs)}</span><br>'
        f"{html.escape(operation['summary'])}</summary>"
        f"<pre>{html.escape(_curl(method, path, operation))}</pre>"
        f"<table>{rows}</table></details>"
    )


def _curl(method: str, path: str, operation: Document) -> str:
    parts = ["curl"]
    if "x-scope" in operation:
        parts.append('-H "Authorization: Bearer $KEY"')
    if method not in ("get", "post"):
        parts.append(f"-X {method.upper()}")
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        parts.append(f"-d '{json.dumps(next(iter(examples.values()))['value'])}'")
    parameters = operation.get("parameters", ())
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(parameter["example"])))
        elif parameter["in"] == "header":
            parts.append(f'-H "{parameter["name"]}: {parameter["example"]}"')
    query = urlencode({p["name"]: p["example"] for p in parameters if p["in"] == "query"})
    return " ".join([*parts, f'"$LIMEN{path}{"?" + query if query else ""}"'])


def _link(content: Mapping[str, Any]) -> str:
    name = _reference(content)
    return f': <a href="#{name}"><code>{name}</code></a>' if name else ""


def _reference(content: Mapping[str, Any]) -> str:
    for entry in content.values():
        if "schema" in entry:
            return str(entry["schema"]["$ref"]).rsplit("/", 1)[-1]
    return ""


def _model(name: str, model: Document) -> str:
    required = model.get("required", ())
    rows = "".join(
        f"<tr><td><code>{html.escape(field)}</code>{' (required)' if field in required else ''}"
        f"</td><td><code>{html.escape(_kind(facts))}</code></td>"
        f"<td>{html.escape(facts.get('description', ''))}</td></tr>"
        for field, facts in model.get("properties", {}).items()
    )
    return (
        f'<details id="{name}" open><summary><code>{name}</code> '
        f"{html.escape(model.get('description', ''))}</summary><table>{rows}</table></details>"
    )


def _kind(facts: Mapping[str, Any]) -> str:
    if "anyOf" in facts:
        return " | ".join(_kind(option) for option in facts["anyOf"])
    if "$ref" in facts:
        return str(facts["$ref"]).rsplit("/", 1)[-1]
    if "enum" in facts or "const" in facts:
        return " | ".join(json.dumps(value) for value in facts.get("enum", [facts.get("const")]))
    if facts.get("type") == "array":
        return f"list of {_kind(facts['items'])}"
    return str(facts.get("type", "any"))
