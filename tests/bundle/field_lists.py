"""The lists of fields in docs/reference/bundle.md, from the JSON Schema of the manifest.

Usage: python -m tests.bundle.field_lists
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bundle.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"

Schema = dict[str, Any]


def schema() -> Schema:
    """The JSON Schema that the package contains."""
    return dict(json.loads(resources.files("tvlt_deploy.bundle").joinpath("manifest.schema.json").read_text()))


def objects() -> dict[str, Schema]:
    """The schema of each kind of object by name, the manifest first."""
    root = schema()
    return {root["title"]: root, **root["$defs"]}


def field_lists() -> str:
    """Markdown: a section with a list of fields for each kind of object."""
    return "\n".join(line for name, entry in objects().items() for line in _section(name, entry))


def with_field_lists(page: str) -> str:
    """The text of the page with the lists between its two marks replaced."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + field_lists() + "\n" + END + rest.split(END)[1]


def _section(name: str, entry: Schema) -> Iterator[str]:
    yield from (f"### {name}", "", *textwrap.wrap(entry["description"], 120), "")
    for field, value in entry["properties"].items():
        absent = "" if field in entry["required"] else ", may be absent"
        text = f"- `{field}` ({_type(value)}{absent}): {value['description']}."
        yield from textwrap.wrap(text, 120, subsequent_indent="  ", break_on_hyphens=False)
    yield ""


def _type(value: Schema) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(option) for option in value["anyOf"])
    if "const" in value:
        return "integer"
    if "enum" in value:
        return "string or null" if None in value["enum"] else "string"
    kinds = value["type"] if isinstance(value["type"], list) else [value["type"]]
    return " or ".join(_container(kind, value) for kind in kinds)


def _container(kind: str, value: Schema) -> str:
    if kind == "array":
        count = f"{value['minItems']} " if "minItems" in value else ""
        return f"list of {count}{_plural(_type(value['items']))}"
    if kind == "object":
        return f"{_type(value['additionalProperties'])} by name"
    return kind


def _plural(kind: str) -> str:
    return kind if kind.endswith(")") else " or ".join(f"{word}s" for word in kind.split(" or "))


if __name__ == "__main__":
    PAGE.write_text(with_field_lists(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
