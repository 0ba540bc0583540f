"""Documents that a client names instead of sending them: those of a list, and those it has sent before.

Arrives: what a request says of its document. Leaves: the document's text. Fails: PersistedQueryNotFound where the name is
unknown, so that the client sends the text; OperationNotListed where only the list may be executed.

A name is a `documentId`, or the `sha256Hash` of Apollo's automatic persisted queries. With a hash and the text together the
text is kept, once it was found right, in memory and in this process alone: a name that is forgotten is only sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from app.cache import BoundedCache
from app.errors import InvalidInput, OperationNotListed, PersistedQueryNotFound, SettingsError
from app.texts import quote_text

KEPT_TEXTS = 1_000
KEPT_BYTES = 4 * 1024 * 1024
HASH_FIELD = "extensions.persistedQuery.sha256Hash"


@dataclass(frozen=True)
class AllowedOperations:
    """Documents by their names; with `only`, no others are executed."""

    documents: Mapping[str, str] = field(default_factory=dict)
    only: bool = False


class SentDocument(msgspec.Struct, frozen=True):
    """A document as a WebSocket's message has it: Strawberry hands on one value of it alone."""

    query: object
    extensions: object


class Operations:
    """Finds the text of a document."""

    def __init__(self, allowed: AllowedOperations) -> None:
        self._listed = allowed.documents
        self._texts = {text: name for name, text in allowed.documents.items()}
        self._only = allowed.only
        self.kept: BoundedCache[str, str] = BoundedCache(entries=KEPT_TEXTS, size=KEPT_BYTES)

    def find(self, query: object, extensions: object) -> str | None:
        """The text, or None where the request has neither a text nor a name.

        Raises PersistedQueryNotFound, OperationNotListed, and InvalidInput for a name or a text that can't be.
        """
        if query is not None and not isinstance(query, str):
            raise InvalidInput("The query must be a text.", field="query")
        name, digest = _read_name(extensions)
        if query:
            if digest is not None and hashlib.sha256(query.encode(errors="replace")).hexdigest() != digest:
                raise InvalidInput("The hash must be the SHA-256 of the query, in hexadecimal.", field=HASH_FIELD)
            if self._only and query not in self._texts:
                raise OperationNotListed("Only listed operations are executed here, and this one isn't among them.")
            return query
        known = name or digest
        if known is None:
            return None
        text = self._listed.get(known) or (None if digest is None else self.kept.get(digest))
        if text is not None:
            return text
        if self._only:
            raise OperationNotListed(
                f"Only listed operations are executed here, and {quote_text(known)} isn't among them."
            )
        # Clients of this protocol know the answer by these very words.
        raise PersistedQueryNotFound("PersistedQueryNotFound", field=None if digest is None else HASH_FIELD)

    def name(self, text: str) -> str:
        """The name of a listed document; of any other, `other`: what clients make up would be a name each."""
        return self._texts.get(text, "other")

    def keep(self, text: str, extensions: object) -> None:
        """Keeps a text that was found right under the hash that it came with, if it came with one."""
        _, digest = _read_name(extensions)
        if digest is not None and not self._only:
            self.kept.put(digest, text, len(text) + len(digest))


def read_allowed(path: Path, *, only: bool) -> AllowedOperations:
    """The list of a file: a JSON object of names and documents. Raises SettingsError."""
    try:
        documents = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except OSError as error:
        raise SettingsError(f"AURUM_GRAPHQL_ALLOWED_OPERATIONS is {path}, which can't be read: {error}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(
            f"AURUM_GRAPHQL_ALLOWED_OPERATIONS is {path}, which must be a JSON object of names and documents: {error}."
        ) from error
    return AllowedOperations(documents, only)


def carry_document_id(request: dict[str, Any]) -> dict[str, Any]:
    """Puts the `documentId` of a request among its extensions, which are all that Strawberry hands on."""
    extensions = request.get("extensions")
    if "documentId" not in request or not isinstance(extensions, (dict, type(None))):
        return request
    return {**request, "extensions": {**(extensions or {}), "documentId": request["documentId"]}}


def _read_name(extensions: object) -> tuple[str | None, str | None]:
    """The `documentId` and the lower-case hash that the extensions have."""
    if extensions is None:
        return None, None
    if not isinstance(extensions, dict):
        raise InvalidInput("The extensions must be an object.", field="extensions")
    name = extensions.get("documentId")
    if name is not None and not isinstance(name, str):
        raise InvalidInput("The documentId must be a text.", field="documentId")
    asked = extensions.get("persistedQuery")
    if asked is None:
        return name, None
    if not isinstance(asked, dict) or asked.get("version") != 1 or not isinstance(asked.get("sha256Hash"), str):
        raise InvalidInput(
            "A persistedQuery is {version: 1, sha256Hash: <SHA-256 of the query, in hexadecimal>}.",
            field="extensions.persistedQuery",
        )
    return name, asked["sha256Hash"].lower()
