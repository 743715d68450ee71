"""The base of every document: frozen, no unknown keys, canonical JSON, a digest, a version."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from data_schemas.errors import ConfigError, Fault, HilumError
from data_schemas.files import sha256, write_text


class Part(BaseModel):
    """A piece of a document: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Document(Part):
    """A document with a version. A reader that doesn't know the version says so and stops."""

    VERSION: ClassVar[int] = 1

    schema_version: int = 1

    def canonical(self) -> bytes:
        """Return the document as JSON with sorted keys and no spaces: the bytes that are hashed."""
        tree = self.model_dump(mode="json")
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`canonical` as 64 hex digits."""
        return sha256(self.canonical())

    def write_json(self, path: Path) -> None:
        """Write the document as readable JSON, atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read_json(cls, path: Path) -> Self:
        """Read a document.

        Raises
        ------
        HilumError
            If the file is missing, is not JSON, or has another schema version.
        ConfigError
            If its content doesn't fit the schema; every fault is listed.
        """
        try:
            tree = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise HilumError("no such file", where=path) from error
        except ValueError as error:
            raise HilumError(f"is not JSON: {error}", where=path) from error
        return cls.from_tree(tree, where=str(path))

    @classmethod
    def from_tree(cls, tree: Any, *, where: str) -> Self:
        """Validate parsed JSON; ``where`` names its place in error messages."""
        version = tree.get("schema_version") if isinstance(tree, dict) else None
        if version != cls.VERSION:
            raise HilumError(
                f"schema_version is {version!r}, this hilum reads {cls.VERSION}",
                where=where,
                mend="use the hilum version that wrote it, or write it again with this one",
            )
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            faults = [
                Fault(where, ".".join(str(part) for part in item["loc"]), item["msg"])
                for item in error.errors()
            ]
            raise ConfigError(faults) from error
