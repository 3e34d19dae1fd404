"""Who may change the catalogue: whoever knows the token that the process was started with.

In: the token and what a request brought. Out: nothing, or a refusal before any of the body is read.
The comparison takes the same time wherever the two differ.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from image_search.serving.engine import SearchEngine
from image_search.serving.settings import TOKEN_VARIABLE
from ml_platform.serving.errors import Problem, ProblemError

_bearer = HTTPBearer(auto_error=False, scheme_name="admin")


def admin_only(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """A dependency of the admin routes.

    Raises:
        ProblemError: 403 while no token is configured, 401 without the right one.
    """
    engine: SearchEngine = request.app.state.engine
    admitted(engine.settings.admin_token, given.credentials if given else None)


def admitted(token: str | None, given: str | None) -> None:
    """Lets the right token pass; see ``admin_only``."""
    field = "authorization"
    if token is None:
        reason = f"the admin routes are closed: start the service with {TOKEN_VARIABLE} set"
        raise ProblemError(403, [Problem(field=field, reason=reason)])
    if not hmac.compare_digest((given or "").encode(errors="replace"), token.encode()):
        reason = "send the header Authorization: Bearer <admin token>"
        raise ProblemError(401, [Problem(field=field, reason=reason)])
