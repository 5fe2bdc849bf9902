"""Check Kubernetes resources against the schema of their definition as strictly as an API server does.

An OpenAPI v3 schema says less than it means: unknown fields are pruned or refused by the server, fields with a default
need not be written, and some keywords are Kubernetes' own. `strict` spells that out in plain JSON schema.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema

RAYJOB = Path(__file__).parent / "crds" / "rayjobs.ray.io-v1.json.gz"

OBJECT_META = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "generateName": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "additionalProperties": False,
}
"""What an author may write into `metadata`, which the definitions leave open."""

INT_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of an OpenAPI v3 schema in which unknown fields are errors and defaulted fields are optional."""
    if schema.get("x-kubernetes-int-or-string"):
        return {**INT_OR_STRING, **{key: schema[key] for key in ("pattern",) if key in schema}}
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {}
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    result.pop("nullable", None)
    properties = schema.get("properties")
    if properties is not None:
        result["properties"] = {name: strict(value) for name, value in properties.items()}
        result.setdefault("additionalProperties", False)
        required = [name for name in schema.get("required", ()) if "default" not in properties.get(name, {})]
        result["required"] = required
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        result["items"] = strict(schema["items"])
    if schema.get("nullable"):
        return {"anyOf": [{"type": "null"}, result]}
    return result


def rayjob_schema() -> dict[str, Any]:
    """The strict schema of a RayJob as an author writes it: no status, plain metadata."""
    schema = strict(json.loads(gzip.decompress(RAYJOB.read_bytes())))
    schema["properties"].pop("status")
    schema["properties"]["metadata"] = {**OBJECT_META, "required": ["name"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def errors(document: object, schema: dict[str, Any]) -> list[str]:
    """Every violation as `path: message`, in the order of the paths."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return sorted(f"{error.json_path}: {error.message}" for error in found)
