"""The written API: what it says of a request and of an answer, and examples of its answers."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import schemathesis
import yaml
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.conftest import ROOT

PATH = ROOT / "docs/runcomfy-openapi.yaml"
_METHODS = ("get", "post", "put", "patch", "delete")
# What a parameter's text in a URL stands for, by the type that its schema asks for.
_READ_TEXT = {"boolean": json.loads, "integer": int}


@dataclass(frozen=True)
class Operation:
    """One call of the written API."""

    name: str
    method: str
    path: str
    server: str
    parameters: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any] | None
    responses: Mapping[str, Mapping[str, Any]]

    @property
    def pattern(self) -> re.Pattern[str]:
        """The paths of this call; a model id contains slashes, a request id none."""
        pattern = self.path.replace("{model_id}", "(?P<model_id>.+)")
        return re.compile(pattern.replace("{request_id}", "(?P<request_id>[^/]+)"))

    def answer(self, status: int) -> Mapping[str, Any] | None:
        """What the call may answer with this HTTP status; None if it may not."""
        return self.responses.get(str(status)) or self.responses.get(f"{status // 100}XX")


class Description:
    """A description, as it is in the file or as a test has altered it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.operations = {each.name: each for each in self._read()}

    def _read(self) -> Iterator[Operation]:
        for path, item in self.document["paths"].items():
            for method in _METHODS:
                if (call := item.get(method)) is None:
                    continue
                parameters = [*item.get("parameters", []), *call.get("parameters", [])]
                content = call.get("requestBody", {}).get("content", {})
                yield Operation(
                    name=call["operationId"],
                    method=method.upper(),
                    path=path,
                    server=item.get("servers", self.document["servers"])[0]["url"],
                    parameters=tuple(self._found(each) for each in parameters),
                    body=content.get("application/json", {}).get("schema"),
                    responses={
                        status: self._found(each) for status, each in call["responses"].items()
                    },
                )

    def _found(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        if (where := part.get("$ref")) is None:
            return part
        found: Any = self.document
        for step in where.removeprefix("#/").split("/"):
            found = found[step]
        return self._found(found)

    def find(self, method: str, path: str) -> Operation | None:
        """The call that a request makes; the catalogue's own path is no model of it."""
        fitting = [
            each
            for each in self.operations.values()
            if each.method == method and each.pattern.fullmatch(path)
        ]
        return fitting[0] if fitting else None

    def mistakes(self, schema: Mapping[str, Any], value: Any) -> list[str]:
        """Why a value does not fit a schema of this description."""
        whole = {"allOf": [schema], "components": self.document["components"]}
        errors = Draft202012Validator(whole).iter_errors(value)
        return [f"{error.instance_path}: {error.message}" for error in errors]

    def mistakes_of_request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        """Why a request is none of the written API; `target` is its path with the query."""
        url = urlsplit(target)
        operation = self.find(method, url.path)
        if operation is None:
            return [f"{method} {url.path}: there is no such call"]
        match = operation.pattern.fullmatch(url.path)
        assert match is not None
        in_path = {name: unquote(value) for name, value in match.groupdict().items()}
        mistakes = [*self._of_parameters(operation, "path", in_path)]
        query = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        mistakes += self._of_parameters(operation, "query", dict(query))
        if len(query) != len(dict(query)):
            mistakes.append(f"{url.query}: a parameter stands there twice")
        if not re.fullmatch(r"Bearer [!-~]+", headers.get("Authorization", "")):
            mistakes.append("there is no bearer token")
        return [*mistakes, *self._of_body(operation, headers, body)]

    def _of_parameters(
        self, operation: Operation, place: str, given: Mapping[str, str]
    ) -> Iterator[str]:
        known = {each["name"]: each for each in operation.parameters if each["in"] == place}
        for name, each in known.items():
            if each.get("required") and name not in given:
                yield f"{name} is missing in the {place}"
        for name, text in given.items():
            if name not in known:
                yield f"{name} is no parameter of {operation.name}"
                continue
            schema = self._found(known[name]["schema"])
            try:
                value = _READ_TEXT.get(schema["type"], str)(text)
            except ValueError:
                value = text
            yield from self.mistakes(schema, value)

    def _of_body(
        self, operation: Operation, headers: Mapping[str, str], body: bytes
    ) -> Iterator[str]:
        if operation.body is None:
            if body:
                yield f"{operation.name} takes no body"
            return
        if headers.get("Content-Type", "").partition(";")[0] != "application/json":
            yield f"the body is sent as {headers.get('Content-Type')}"
        try:
            yield from self.mistakes(operation.body, json.loads(body))
        except ValueError:
            yield "the body is no JSON"

    def mistakes_of_answer(
        self, operation: Operation, status: int, headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        """Why an answer is none that the written API allows."""
        answer = operation.answer(status)
        if answer is None:
            return [f"{operation.name} does not answer with HTTP {status}"]
        media_type = headers.get("Content-Type", "").partition(";")[0]
        if media_type not in answer["content"]:
            return [f"HTTP {status} comes as {media_type}"]
        mistakes = []
        for name, header in answer.get("headers", {}).items():
            if name in headers:
                mistakes += self.mistakes(self._found(header)["schema"], headers[name])
        try:
            return mistakes + self.mistakes(answer["content"][media_type]["schema"], load(body))
        except ValueError:
            return [*mistakes, "the body is no JSON"]

    def examples(self, schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
        """Every value that a schema of this description allows.

        schemathesis makes what may be sent: so what may be answered is put where a body stands.
        """
        content = {"application/json": {"schema": schema}}
        sent = {"requestBody": {"required": True, "content": content}, "responses": {}}
        mirror = schemathesis.openapi.from_dict(
            {
                "openapi": self.document["openapi"],
                "info": {"title": "mirror", "version": "1"},
                "paths": {"/mirror": {"post": sent}},
                "components": {"schemas": self.document["components"]["schemas"]},
            }
        )
        return mirror["/mirror"]["post"].as_strategy().map(lambda case: _as_written(case.body))

    def schema(self) -> OpenApiSchema:
        """The description as schemathesis reads it; the token is each test's own to give."""
        schema = schemathesis.openapi.from_dict(self.document)
        schema.config.generation.update(with_security_parameters=False)
        return schema


def _as_written(value: Any) -> Any:
    """A generated value in plain types; 1.0, to JSON Schema an integer, as servers write one."""
    match value:
        case dict():
            return {str(name): _as_written(part) for name, part in value.items()}
        case list():
            return [_as_written(part) for part in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def load(body: bytes) -> Any:
    """JSON from the wire, without the numbers that JSON does not have."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(body, parse_constant=refuse)


def dump(value: Any) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(value).encode()


def read_document() -> dict[str, Any]:
    """The file, afresh: whoever alters it alters a copy."""
    document: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return document


@cache
def written() -> Description:
    """The written API."""
    return Description(read_document())
