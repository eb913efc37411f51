"""The description says what the code does."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
import schemathesis
from schemathesis.core.result import Ok

from adapters.edge.failures import status_of
from adapters.edge.fields import ChatBody, FeedbackBody, Renaming, RunBody, ToolOutputs
from adapters.native.openapi import document
from gateway import events
from gateway.config.settings import Settings
from gateway.errors import Code

DOCUMENT: dict[str, Any] = json.loads(document(Settings(max_message_chars=123)))
COMPONENTS = DOCUMENT["components"]


def everything(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from everything(part)


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    named = {f"#/components/{kind}/{name}" for kind, parts in COMPONENTS.items() for name in parts}
    used = {part["$ref"] for part in everything(DOCUMENT) if "$ref" in part}
    assert used <= named
    assert {name for name in named if "/securitySchemes/" not in name} == used


def test_the_description_loads_as_openapi_3_1_and_every_operation_can_be_generated() -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    loaded = list(schema.get_all_operations())
    assert all(isinstance(result, Ok) for result in loaded)
    assert len(loaded) == len(operations())
    assert DOCUMENT["openapi"].startswith("3.1")
    assert DOCUMENT["info"]["version"]


def test_names_of_operations_are_unique_and_path_parameters_declared() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, item in DOCUMENT["paths"].items():
        declared = {p["$ref"].rpartition("/")[2] for p in item.get("parameters", [])}
        in_path = {COMPONENTS["parameters"][name]["name"] for name in declared}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_every_code_is_described_and_stands_under_its_own_status() -> None:
    assert set(COMPONENTS["schemas"]["Problem"]["properties"]["code"]["enum"]) == {code.value for code in Code}
    described = set()
    for method, path, operation in operations():
        for status, response in operation["responses"].items():
            name = response.get("$ref", "").rpartition("/")[2]
            for part in everything(COMPONENTS["responses"].get(name, {})):
                for code in part.get("code", {}).get("enum", []):
                    described.add(code)
                    assert str(status_of(Code(code))) == status, (method, path, code)
    assert described == {code.value for code in Code} - {"method_not_allowed"}  # the same at every path: in the preface


def test_whatever_is_429_or_503_says_when_to_come_again() -> None:
    for name in ("TooMany", "Unavailable"):
        assert "Retry-After" in COMPONENTS["responses"][name]["headers"]


@pytest.mark.parametrize("model", [ChatBody, RunBody, ToolOutputs, FeedbackBody, Renaming])
def test_bodies_are_described_as_they_are_checked(model: type[msgspec.Struct]) -> None:
    """Names, required fields, bounds: those of the types that decode them."""
    described = COMPONENTS["schemas"][model.__name__]
    fields = {field.encode_name: field for field in msgspec.structs.fields(model)}
    assert described["properties"].keys() == fields.keys()
    assert described["additionalProperties"] is False
    assert set(described["required"]) == {name for name, field in fields.items() if field.required}
    _, components = msgspec.json.schema_components([model])
    for name, schema in components[model.__name__]["properties"].items():
        flat = schema | next((option for option in schema.get("anyOf", []) if option.get("type") != "null"), {})
        for bound in ("minLength", "maxLength", "minItems", "maxItems", "maxProperties", "enum"):
            expected = 123 if (name, bound) == ("message", "maxLength") else flat.get(bound)
            given = described["properties"][name].get(bound)
            assert (sorted(given) if bound == "enum" and given else given) == expected, (name, bound)


def test_every_event_that_readers_are_given_is_described() -> None:
    described = {option["properties"]["event"]["const"]: option for option in COMPONENTS["schemas"]["Event"]["oneOf"]}
    for kind in get_args(events.Event):
        tag = kind.__struct_config__.tag
        if tag == events.HIDDEN:
            assert tag not in described
            continue
        fields = {field.encode_name for field in msgspec.structs.fields(kind)} - {"kind"}
        for name in [tag] if tag else ["message", "reasoning"]:
            assert fields <= described[name]["properties"].keys()
    assert described.keys() >= {"reset"}


def test_what_is_open_without_a_token_is_what_the_contract_lists() -> None:
    free = {path for _, path, operation in operations() if operation.get("security") == []}
    assert {path for path in free if not path.startswith("/client/")} == {
        "/metrics",  # by where the listener is, not by a token
        "/debug/ledger",
        "/",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/sse-stream-test.html",
        "/api/coze/config",
    }
