"""The page and its scripts, answered with rules that keep it from loading or sending anything anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from litestar import Response, Router, get
from litestar.params import FromPath

from app.errors import NotFound
from app.graphql.graphiql.scripts import FOLDER, SCRIPTS, are_there
from app.texts import quote_text

_HERE: Final = Path(__file__).parent
_MEDIA_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_FILES: Final = {
    **{name: _HERE / name for name in ("page.css", "page.js")},
    **{name: FOLDER / name for files in SCRIPTS.values() for name, _ in files.values() if "LICENSE" not in name},
}
_CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src data:",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


def render_page() -> Response[bytes]:
    """The page. Raises NotFound where its scripts were not brought."""
    if not are_there():
        raise NotFound("GraphiQL's scripts are not here: run invoke graphiql where AurumAI is installed.")
    return Response((_HERE / "index.html").read_bytes(), media_type="text/html; charset=utf-8", headers=_HEADERS)


@get("/graphql/graphiql/{name:str}", sync_to_thread=False)
def send_file(name: FromPath[str]) -> Response[bytes]:
    """A script or a style of the page."""
    file = _FILES.get(name)
    if file is None or not file.is_file():
        raise NotFound(f"GraphiQL has no file {quote_text(name)}.")
    return Response(file.read_bytes(), media_type=_MEDIA_TYPES[file.suffix], headers=_HEADERS)


def make_router() -> Router:
    """What the page loads."""
    return Router(path="/", route_handlers=[send_file])
