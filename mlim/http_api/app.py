"""The application of a version's routes: `/score`, `/encode`, `/explain`, and `/openapi.json`, which describes them."""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mlim.config import Config, problems_of
from mlim.errors import InputError
from mlim.http_api.options import ApiOptions
from mlim.http_api.schema import (
    MESSAGE_CHARACTERS,
    MOST_EXPLAINED,
    EncodeAnswer,
    EncodeRequest,
    ExplainAnswer,
    ExplainRequest,
    ScoreAnswer,
    ScoreRequest,
)
from mlim.http_api.service import Service
from mlim.matching.items import ItemError
from mlim.matching.model import MatchingModel

JSON: Final = "application/json"
SCHEMA_VERSION: Final = "1"  # of requests and answers; rises when a client has to change
REQUESTS: Final[dict[str, type[Config]]] = {
    "/score": ScoreRequest,
    "/encode": EncodeRequest,
    "/explain": ExplainRequest,
}

A = TypeVar("A")


def build_app(model: MatchingModel, options: ApiOptions) -> FastAPI:
    """The application that answers for `model`. No pages: they would load scripts from other hosts."""
    app = FastAPI(
        title="mlim",
        version=SCHEMA_VERSION,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_sent_as_json)],
        exception_handlers={
            RequestValidationError: _malformed,
            InputError: _wrong_input,
            TimeoutError: _too_late,
            HTTPException: _refused,
            Exception: _failed,
        },
    )
    _add_routes(app, Service(model, options), options.seconds)
    return app


def _add_routes(app: FastAPI, service: Service, seconds: float) -> None:
    @app.post("/score", response_model_exclude_none=True)
    async def score(request: ScoreRequest) -> ScoreAnswer:
        """Score, probability and decision of every pair; a pair that cannot be read has an error instead."""
        return await _in_time(service.score(request), seconds)

    @app.post("/encode", response_model_exclude_none=True)
    async def encode(request: EncodeRequest) -> EncodeAnswer:
        """A vector of every item, of models that read each item by itself; an item may have an error instead."""
        return await _in_time(service.encode(request), seconds)

    @app.post("/explain")
    async def explain(request: ExplainRequest) -> ExplainAnswer:
        """Why a pair has its score: contributions, regions of the pictures, and what would change the decision."""
        return await _in_time(service.explain(request), seconds)


async def _in_time(work: Awaitable[A], seconds: float) -> A:
    async with asyncio.timeout(seconds):
        return await work


async def _sent_as_json(content_type: Annotated[str, Header(include_in_schema=False)] = "") -> None:
    """Anything else a form of another site's page could send."""
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send the header Content-Type: {JSON}")


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    """400 for a request that is wrong as a whole: what pydantic found, in words."""
    found: list[Any] = [*error.errors()] if isinstance(error, RequestValidationError) else []
    if any(details["type"] == "json_invalid" for details in found):
        return _answer(HTTPStatus.BAD_REQUEST, f"the request is not JSON: {found[0]['ctx']['error']}")
    if any(details["loc"] == ("body",) for details in found):
        return _answer(HTTPStatus.BAD_REQUEST, "the request is no JSON object; see /openapi.json")
    if long := [details for details in found if details["type"] == "too_long"]:
        return _answer(HTTPStatus.BAD_REQUEST, f"`{long[0]['loc'][-1]}`: {long[0]['msg'].lower()}")
    model = REQUESTS[request.url.path]
    problems = problems_of(model, [{**details, "loc": details["loc"][1:]} for details in found[:MOST_EXPLAINED]])
    return _answer(HTTPStatus.BAD_REQUEST, "; ".join(problems)[:MESSAGE_CHARACTERS])


async def _wrong_input(request: Request, error: Exception) -> JSONResponse:
    code = {"code": error.code} if isinstance(error, ItemError) else {}
    return _answer(HTTPStatus.BAD_REQUEST, str(error), **code)


async def _too_late(request: Request, error: Exception) -> JSONResponse:
    return _answer(HTTPStatus.GATEWAY_TIMEOUT, "the request takes too long; send fewer rows at a time")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    return _answer(HTTPStatus(status), str(getattr(error, "detail", error)))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed on this request; the server's log says why")


def _answer(status: HTTPStatus, sentence: str, **more: str) -> JSONResponse:
    """A refusal in the form of MLflow's own."""
    return JSONResponse({"error_code": status.name, "message": sentence, **more}, status_code=int(status))
