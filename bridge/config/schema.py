"""The JSON Schema of the file, for editors: what the model says, and what the file may write besides."""

from bridge.config.model import Configuration

_REFERENCE = {"type": "string", "pattern": "^\\$\\{"}
_BARE_URL = {"type": "string", "pattern": "^([A-Za-z][A-Za-z0-9+.-]*://|\\$\\{)"}


def json_schema() -> dict[str, object]:
    """A schema of draft 2020-12. A field that is no text also takes a reference; `x-*` keys are free."""
    schema: dict[str, object] = Configuration.model_json_schema(by_alias=True)
    found = _opened(schema)
    assert isinstance(found, dict)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "bridge.yaml of jobbridge",
    }


def _opened(part: object) -> object:
    """The same schema, with what the file may write besides."""
    if isinstance(part, list):
        return [_opened(item) for item in part]
    if not isinstance(part, dict):
        return part
    opened = {name: _opened(value) for name, value in part.items() if name != "title" or isinstance(value, dict)}
    if "$ref" in opened and str(opened["$ref"]).endswith(("/Store", "/Broker")):
        return {"anyOf": [_BARE_URL, opened]}
    if opened.get("type") == "object":
        return {**opened, "patternProperties": {"^x-": True}}
    if opened.get("type") in ("integer", "number", "boolean") or ("enum" in opened or "const" in opened):
        default = {"default": opened.pop("default")} if "default" in opened else {}
        return {"anyOf": [opened, _REFERENCE], **default}
    return opened
