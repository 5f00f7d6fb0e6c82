"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@frozen
class ApiError(Exception):
    """A request that is not answered.

    Attributes:
        param: the field that is wrong, as a path into the body: `messages.0.content`.
        code: a word for programs.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(factory=dict)

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """Return the error of a field that cannot be used."""
    return ApiError(400, f"{param}: {message}", param, code)


def busy(message: str, after_s: int) -> ApiError:
    """Return the error of a server that has too much to do."""
    return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(after_s)})


def unavailable(message: str) -> ApiError:
    """Return the error of a server that ends, or of a model that failed."""
    return ApiError(503, message, code="unavailable", headers={"retry-after": "30"})
