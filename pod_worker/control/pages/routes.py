"""The plain page: a list of runs and one run, live. A shell from a template; the scripts read the API.

No build step and nothing from elsewhere: the policy header forbids it. Scripts write text as text only, so
nothing that a run says can become markup.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from pod_worker import __version__
from pod_worker.control.web.problem import ProblemError

FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def router(database_name: str, authorize: Callable[..., object]) -> APIRouter:
    made = APIRouter(include_in_schema=False)
    templates = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    guarded = [Depends(authorize)]

    def page(template: str, **values: str) -> Response:
        text = templates.get_template(template).render(database=database_name, version=__version__, **values)
        return HTMLResponse(text, headers=_HEADERS)

    @made.get("/", dependencies=guarded)
    async def runs() -> Response:
        return page("runs.html")

    @made.get("/runs", dependencies=guarded)
    async def runs_too() -> Response:
        return page("runs.html")

    @made.get("/runs/{run_id}", dependencies=guarded)
    async def run(run_id: str) -> Response:
        return page("run.html", run_id=run_id)

    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in _TYPES}

    @made.get("/static/{name}")
    async def static(name: str) -> Response:
        path = files.get(name)
        if path is None:
            raise ProblemError(404, "not_found", "there is no such file")
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=_HEADERS)

    return made
