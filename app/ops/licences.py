"""Under which licences the packages are that come with the service: the list in docs/licences.md, and what may not be in it."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

from packaging.requirements import Requirement

PROJECT: Final = "aurumai"
# What may be used in a program under Apache-2.0 that is given away, sold or served, without a duty to open anything.
PERMISSIVE: Final = re.compile(
    r"Apache|MIT|BSD|PSF|Python Software Foundation|ISC|MPL|Mozilla|Unlicense|Zlib|CC0", re.IGNORECASE
)
COPYLEFT: Final = re.compile(r"\bA?L?GPL|General Public|SSPL|BUSL|Business Source", re.IGNORECASE)


def list_licences() -> dict[str, str]:
    """The licence of each package that the project needs to run, by its name, as the package itself says it."""
    found: dict[str, str] = {}
    _follow(PROJECT, frozenset(), found)
    del found[PROJECT]
    return dict(sorted(found.items()))


def find_refused(licences: dict[str, str]) -> list[str]:
    """One sentence for each package that is under no licence that may be used."""
    return [
        f"{name} is under {licence or 'no licence that it names'}: take another package."
        for name, licence in licences.items()
        if not PERMISSIVE.search(licence) or COPYLEFT.search(licence)
    ]


def write_licences(licences: dict[str, str]) -> str:
    """The text of docs/licences.md."""
    lines = [
        "# Licences",
        "",
        "AurumAI is under [Apache-2.0](../LICENSE). These packages come with it where it is installed, with those that they",
        "need themselves; `invoke licences` writes this list from what the packages say.",
        "",
        "| package | licence |",
        "|---|---|",
        *(f"| {name} | {licence} |" for name, licence in licences.items()),
    ]
    return "\n".join(lines) + "\n"


def _follow(name: str, extras: frozenset[str], found: dict[str, str]) -> None:
    try:
        package = distribution(name)
    except PackageNotFoundError:  # for another Python or system than this one
        return
    key = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    if key in found and not extras:
        return
    found[key] = _read_licence(package)
    for text in package.requires or ():
        needed = Requirement(text)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            _follow(needed.name, frozenset(needed.extras), found)


def _read_licence(package: Distribution) -> str:
    said = package.metadata.json
    if "license_expression" in said:
        return str(said["license_expression"])
    classified = [line.rpartition(" :: ")[2] for line in said.get("classifier", ()) if line.startswith("License")]
    lines = str(said.get("license", "")).strip().splitlines()
    return "; ".join(classified) or (lines[0] if lines else "")
