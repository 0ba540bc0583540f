"""schema.graphql against what clients were told last: nothing they rely on goes without a word in the changelog.

`golden/published.graphql` is the schema of the newest release, and is replaced by schema.graphql with the next.
"""

from __future__ import annotations

import re

from graphql import build_schema, find_breaking_changes

from tests.conftest import ROOT


def find_untold(published: str, current: str, changelog: str) -> list[str]:
    """The breaking changes whose place (`Type`, `Type.field`) the unreleased part of the changelog doesn't name."""
    unreleased = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    changes = find_breaking_changes(build_schema(published), build_schema(current))
    descriptions = [change.description for change in changes]
    return [each for each in descriptions if not any(f"`{place}`" in unreleased for place in _name_places(each))]


def _name_places(description: str) -> list[str]:
    fields = re.findall(r"[A-Z]\w*\.\w+", description)
    return fields or re.findall(r"[A-Z]\w*", description)[:1]  # a type as a whole stands first


def test_no_breaking_change_of_the_api_is_missing_from_the_changelog() -> None:
    published = (ROOT / "tests" / "golden" / "published.graphql").read_text(encoding="utf-8")
    current = (ROOT / "schema.graphql").read_text(encoding="utf-8")
    assert find_untold(published, current, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")) == []


def test_a_breaking_change_is_found_and_a_word_in_the_changelog_allows_it() -> None:
    published = "type Query { a: Int b(c: Int): Int } enum E { X Y }"
    current = "type Query { a: Int b(c: Int!): String d: E } enum E { X }"
    told = "# Changelog\n\n## [Unreleased]\n\n### Changed\n\n- `Query.b` is a text.\n\n## 1.0\n\n- `E` is new.\n"
    assert find_untold(published, current, "# Changelog\n\n## [Unreleased]\n\n## 1.0\n") == [
        "Argument Query.b(c:) has changed type from Int to Int!.",
        "Field Query.b changed type from Int to String.",
        "Enum value E.Y was removed.",
    ]
    assert find_untold(published, current, told) == ["Enum value E.Y was removed."]


def test_what_is_only_added_breaks_nobody() -> None:
    assert find_untold("type Query { a: Int }", "type Query { a: Int b: Int }", "## [Unreleased]\n") == []
