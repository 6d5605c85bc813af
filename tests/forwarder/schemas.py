"""The schemas of ``docs/schemas``, as validators."""

import json
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"


@cache
def validator(name: str, part: str | None = None) -> Draft202012Validator:
    """``ftsobest`` or ``acked``; ``part``: one of its definitions instead of any frame."""
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    if part is not None:
        schema = {"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": f"#/$defs/{part}"}
    return Draft202012Validator(schema)


def conforms(name: str, text: str | bytes, part: str | None = None) -> dict[str, object]:
    """Return the message, which must be of the schema."""
    message = json.loads(text)
    validator(name, part).validate(message)
    return message
