"""GraphQL at `/graphql`: parsed and executed by graphql-core.

Introspection is off, as at RunPod. An API error is HTTP 200 with `errors` and a null field; a query that does
not match the schema is a 400. A success never has the key `errors`, because official clients fail on it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import graphql
import msgspec
from fastapi import APIRouter, Request
from graphql.validation import NoSchemaIntrospectionCustomRule
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.graphql.resolvers import Resolvers
from pod_worker.fake_runpod.api.responses import json_response
from pod_worker.fake_runpod.errors import ApiError
from pod_worker.fake_runpod.runtime import SimulatorRuntime

SCHEMA = graphql.build_schema(Path(__file__).with_name("schema.graphql").read_text())
RULES = [*graphql.specified_rules, NoSchemaIntrospectionCustomRule]


class Call(msgspec.Struct):
    query: str
    variables: dict[str, Json] | None = None
    operationName: str | None = None


def graphql_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()

    @router.post("/graphql")
    async def run(request: Request) -> Response:
        try:
            call = msgspec.json.decode(await request.body(), type=Call)
        except msgspec.DecodeError as error:
            return _error_response(f"POST body is not a GraphQL request: {error}", "BAD_REQUEST")
        document = _read(call.query)
        if isinstance(document, str):
            return _error_response(document, "GRAPHQL_VALIDATION_FAILED")
        return _execute(document, call, Resolvers(runtime, request.scope["fake.caller"]))

    return router


def _execute(document: graphql.DocumentNode, call: Call, operations: Resolvers) -> Response:
    result = graphql.execute(
        SCHEMA,
        document,
        root_value=operations,
        variable_values=call.variables,
        operation_name=call.operationName,
    )
    assert isinstance(result, graphql.ExecutionResult), "no operation is asynchronous"
    if result.data is None and result.errors:
        # The variables do not match the schema: nothing was executed.
        return _error_response(result.errors[0].message, "BAD_USER_INPUT")
    body: dict[str, Json] = {"data": result.data}
    if result.errors:
        body["errors"] = [_error(error) for error in result.errors]
    return json_response(body)


def _error(error: graphql.GraphQLError) -> dict[str, Json]:
    if not isinstance(error.original_error, ApiError):
        raise error.original_error or error
    return {"message": error.message, "path": error.path, "extensions": {"code": "RUNPOD"}}


@lru_cache(maxsize=256)
def _read(query: str) -> graphql.DocumentNode | str:
    """The validated document, or the validation error."""
    try:
        document = graphql.parse(query, no_location=True)
    except graphql.GraphQLSyntaxError as error:
        return error.message
    errors = graphql.validate(SCHEMA, document, RULES)
    return errors[0].message if errors else document


def _error_response(message: str, code: str) -> Response:
    return json_response({"errors": [{"message": message, "extensions": {"code": code}}]}, 400)
