"""The web page: a list of runs and one run, live.

A shell from a template; the scripts read the API.

No build step and nothing from elsewhere: the policy header forbids it. Scripts write text as text only, so
nothing that a run says can become markup.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from pod_worker import __version__
from pod_worker.control.web.problem import ProblemError
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.read_models import ReadModels

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


def router(database: Mongo) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    models = ReadModels(database)
    templates = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=select_autoescape(default=True), trim_blocks=True
    )

    def page(template: str, status: int = 200, **values: str) -> Response:
        text = templates.get_template(template).render(database=database.name, version=__version__, **values)
        return HTMLResponse(text, status, headers=_HEADERS)

    async def runs() -> Response:
        return page("runs.html")

    def run(run_id: str) -> Response:
        if models.status(run_id) is None:
            return page("not_found.html", 404, run_id=run_id)
        return page("run.html", run_id=run_id)

    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in _TYPES}

    async def static(name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise ProblemError(404, "not_found", "there is no such file")
        return Response(file.read_bytes(), media_type=_TYPES[file.suffix], headers=_HEADERS)

    for path, route in (("/", runs), ("/runs", runs), ("/runs/{run_id}", run), ("/static/{name}", static)):
        pages.add_api_route(path, route, methods=["GET"])
    return pages
