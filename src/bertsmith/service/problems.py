"""What goes wrong, as a status and a sentence in OpenAI's form, in the language that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from starlette.responses import JSONResponse
from starlette.types import Scope

from bertsmith.catalogue.translate import translated

Kind: TypeAlias = Literal["invalid_request", "not_found", "too_large", "overloaded", "internal", "unauthorized"]

_KINDS: dict[int, Kind] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    413: "too_large",
    429: "overloaded",
    500: "internal",
    503: "overloaded",
}


class ProblemError(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: HTTP's.
        message: a sentence.
        param: the field that it is about.
        headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, dict(headers or {})


def too_large(what: str, seen: int, limit: int, setting: str) -> ProblemError:
    """Return the problem of a request beyond a limit, which names it."""
    return ProblemError(413, f"{what}: {seen:,}; this service takes at most {limit:,} ({setting})")


def answer(problem: ProblemError, scope: Scope) -> JSONResponse:
    """Return a problem as a response to a request."""
    error: dict[str, Any] = {
        "message": translated(problem.message, _language(scope["headers"])),
        "type": _KINDS.get(problem.status, "invalid_request"),
        "param": problem.param,
    }
    return JSONResponse({"error": error}, problem.status, {"Cache-Control": "no-store", **problem.headers})


def _language(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the first language of the request, if it is Korean; programs ask for none and get English."""
    wish = next((value for name, value in headers if name == b"accept-language"), b"")
    return "ko" if wish.lower().startswith(b"ko") else "en"
