"""The application: routes, documentation, the page, and what stands before them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import bertsmith
from bertsmith.errors import InputError
from bertsmith.service.guard import Guard
from bertsmith.service.observer import Observer, print_line
from bertsmith.service.pages import Files
from bertsmith.service.problems import ProblemError, answer
from bertsmith.service.routes import model_routes
from bertsmith.service.service import Service
from bertsmith.service.turns import OverloadedError

_ABOUT = (
    "Models behind HTTP. With a key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are "
    '`{"error": {"message", "type", "param"}}`; 429 comes with `Retry-After`.'
)


def make_app(
    service: Service,
    keys: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] = print_line,
) -> FastAPI:
    """Return the application of a service; it starts and ends the service's threads.

    Args:
        service: models and limits.
        keys: one of which a request must bring; none are asked for if there are none.
        say: what takes a line about each request; None for nobody.
        warn: what takes a line about a failure.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    origins = service.settings.cors_origin
    layers = [
        Middleware(Observer, metrics=service.metrics, say=say, warn=warn),
        *(
            [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])]
            if origins
            else []
        ),
        Middleware(Guard, service=service, keys=keys),
    ]
    app = FastAPI(
        title="Bertsmith",
        version=bertsmith.__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        middleware=layers,
    )
    _add_handlers(app)
    app.include_router(model_routes(service))
    _add_watch(app, service)
    _add_pages(app)
    return app


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return answer(error, request.scope)

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> Response:
        return answer(ProblemError(422, error.message), request.scope)

    @app.exception_handler(OverloadedError)
    async def overloaded(request: Request, error: OverloadedError) -> Response:
        headers = {"Retry-After": str(error.retry_after)}
        return answer(ProblemError(429, str(error), headers=headers), request.scope)

    @app.exception_handler(RequestValidationError)
    async def bad_form(request: Request, error: RequestValidationError) -> Response:
        return answer(_wrong_form(error), request.scope)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        message = {
            400: "the body cannot be read; expected JSON in UTF-8",
            404: "nothing here; /docs lists what there is",
            405: "not by this method; /docs lists them",
        }
        said = message.get(error.status_code, str(error.detail))
        return answer(ProblemError(error.status_code, said, headers=error.headers), request.scope)


def _wrong_form(error: RequestValidationError) -> ProblemError:
    """Return what is wrong with a body, without what stands in it."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    param = ".".join(place)
    if first["type"] == "json_invalid":
        return ProblemError(422, f"not valid JSON from character {param} on: {first['ctx']['error']}")
    if not place:
        return ProblemError(422, "expected a JSON object, with Content-Type: application/json")
    if first["type"] == "missing":
        return ProblemError(422, f"{param} is missing", param)
    if first["type"] == "extra_forbidden":
        return ProblemError(422, f"unknown field {param}; /docs lists the fields", param)
    return ProblemError(422, f"{param}: {first['msg'].removeprefix('Value error, ')}", param)


def _add_watch(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"], summary="Whether the process answers.")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"], summary="Whether models can compute; 503 if not.")
    async def ready() -> Response:
        fine = service.is_ready
        return JSONResponse({"status": "ready" if fine else "not ready"}, 200 if fine else 503)

    @app.get("/metrics", tags=["operation"], summary="Counters for Prometheus.")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    docs, page = Files.of("bertsmith.service", "docs"), Files.of("bertsmith.serving", "page")

    def file(files: Files, name: str) -> Response:
        found = files.response(name)
        if found is None:
            raise HTTPException(404)
        return found

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return file(docs, "index.html")

    @app.get("/docs/{name}", include_in_schema=False)
    async def part_of_documentation(name: str) -> Response:
        return file(docs, name)

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return file(page, "index.html")

    @app.get("/page/{name:path}", include_in_schema=False)
    async def part_of_page(name: str) -> Response:
        return file(page, name)
