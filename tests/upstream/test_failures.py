"""The taxonomy, on bodies in the shapes that providers send."""

# ruff: noqa: E501 - tables of wire data read best one row a line

from __future__ import annotations

import json
import ssl
from email.utils import formatdate
from typing import ClassVar

import httpx
import openai
import pytest
from langchain_core.exceptions import OutputParserException

from waywiser.core.calls import FailureKind as K
from waywiser.upstream import failures

NOW = 1_800_000_000.0


def openai_error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic_error(kind: str, message: str) -> dict:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def google_error(code: int, status: str, message: str, details: list | None = None) -> dict:
    return {"error": {"code": code, "message": message, "status": status, "details": details or []}}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
CASES = [
    # OpenAI and Azure
    (400, openai_error("This model's maximum context length is 128000 tokens.", code="context_length_exceeded"), K.CONTEXT_TOO_LONG),
    (429, openai_error("Rate limit reached. Please try again in 1.5s.", "tokens", "rate_limit_exceeded"), K.RATE_LIMITED),
    (429, openai_error("You exceeded your current quota, please check your plan", "insufficient_quota", "insufficient_quota"), K.UNAUTHORISED),
    (401, openai_error("Incorrect API key provided", code="invalid_api_key"), K.UNAUTHORISED),
    (404, openai_error("The model `gpt-9` does not exist", code="model_not_found"), K.INVALID_REQUEST),
    (400, openai_error("Invalid schema for function 'billing_lookup'"), K.INVALID_REQUEST),
    (500, openai_error("The server had an error", "server_error"), K.OVERLOADED),
    (503, openai_error("The engine is currently overloaded", "service_unavailable_error"), K.OVERLOADED),
    (400, {"error": {"code": "content_filter", "message": "filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, K.REFUSED),
    # Anthropic
    (529, anthropic_error("overloaded_error", "Overloaded"), K.OVERLOADED),
    (429, anthropic_error("rate_limit_error", "This request would exceed the rate limit"), K.RATE_LIMITED),
    (400, anthropic_error("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"), K.CONTEXT_TOO_LONG),
    (400, anthropic_error("invalid_request_error", "Your credit balance is too low"), K.UNAUTHORISED),
    (400, anthropic_error("invalid_request_error", "messages.3: all messages must have content"), K.INVALID_REQUEST),
    (413, anthropic_error("request_too_large", "Request exceeds the maximum size"), K.CONTEXT_TOO_LONG),
    (500, anthropic_error("api_error", "Internal server error"), K.OVERLOADED),
    # Google, natively and in its OpenAI-compatible array
    (429, [google_error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, check your plan and billing details", [RETRY])], K.RATE_LIMITED),
    (400, google_error(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."), K.CONTEXT_TOO_LONG),
    (400, google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), K.UNAUTHORISED),
    (503, google_error(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), K.OVERLOADED),
    (504, google_error(504, "DEADLINE_EXCEEDED", "Deadline expired"), K.TIMEOUT),
    (403, google_error(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers"), K.UNAUTHORISED),
    # Mistral
    (422, {"detail": [{"loc": ["body", "messages", 1], "msg": "field required", "type": "missing"}]}, K.INVALID_REQUEST),
    (429, {"object": "error", "message": "Service tier capacity exceeded for this model.", "type": "service_tier_capacity_exceeded", "code": "3505"}, K.OVERLOADED),
    (429, {"message": "Requests rate limit exceeded"}, K.RATE_LIMITED),
    # vLLM, llama.cpp, Groq, DeepSeek, OpenRouter
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 5000", "type": "BadRequestError", "code": 400}, K.CONTEXT_TOO_LONG),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it", "type": "exceed_context_size_error"}}, K.CONTEXT_TOO_LONG),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, K.OVERLOADED),
    (413, openai_error("Request too large for model on tokens per minute (TPM): Limit 6000, Requested 8000", "tokens", "rate_limit_exceeded"), K.CONTEXT_TOO_LONG),
    (402, openai_error("Insufficient Balance", "unknown_error"), K.UNAUTHORISED),
    (400, openai_error("Content Exists Risk"), K.REFUSED),
    (200, {"error": {"code": 502, "message": "Provider returned error"}}, K.OVERLOADED),
    (500, {"detail": "something nobody has seen"}, K.OVERLOADED),
    (418, {"what": "ever"}, K.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), CASES, ids=range(len(CASES)))
def test_bodies_of_providers(status: int, body: object, kind: K) -> None:
    failure = failures.from_response(status, {}, json.dumps(body).encode(), now_s=NOW)
    assert failure.kind is kind
    assert failure.status in (status, 502)
    assert failure.message


def test_a_page_of_html_keeps_its_words() -> None:
    failure = failures.from_response(502, {}, b"<html><h1>Bad Gateway</h1><hr>nginx</html>", now_s=NOW)
    assert (failure.kind, failure.message) == (K.OVERLOADED, "Bad Gateway nginx")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert failures.retry_after_s(headers, NOW) == seconds
    assert failures.from_response(429, headers, b"{}", now_s=NOW).retry_after_s == seconds


def test_retry_after_in_the_body() -> None:
    said = openai_error("Rate limit reached, please try again in 1m2.5s.", code="rate_limit_exceeded")
    assert failures.from_body(said, status=429).retry_after_s == 62.5
    assert (
        failures.from_body(openai_error("try again in 350ms", code="rate_limit_exceeded"), status=429).retry_after_s
        == 0.35
    )
    assert failures.from_body(google_error(429, "RESOURCE_EXHAUSTED", "slow down", [RETRY])).retry_after_s == 34.5


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcDEF123456789012345. Find yours",
        "bad header Authorization: Bearer abcdefghijk.lmnop",
        "GET https://host/v1?key=AIzaSyA1234567890abcdefg&alt=json failed",
        "proxy http://user:hunter2hunter2@proxy:3128 said no",
        "the key my-odd-secret was refused",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    shown = failures.masked(text, secret="my-odd-secret")
    for secret in ("sk-proj", "abcdefghijk", "AIza", "hunter2", "my-odd"):
        assert secret not in shown
    assert "***" in shown


def test_names_are_not_taken_for_secrets() -> None:
    text = "unknown parameter key_management_service of tool sk_lookup_customer_orders"
    assert failures.masked(text) == text


def response(status: int, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers, request=httpx.Request("POST", "http://x/"))


def wrapped(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


class GoogleApiError(Exception):
    """As google.genai raises it."""

    def __init__(self, code: int, details: dict) -> None:
        super().__init__(f"{code} {details}")
        self.code = code
        self.details = details


class BotoError(Exception):
    """As botocore raises it."""

    response: ClassVar = {
        "Error": {"Code": "ThrottlingException", "Message": "slow down"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }


class ContextOverflowError(Exception):
    """As langchain-core raises it."""


EXCEPTIONS = [
    (openai.RateLimitError("x", response=response(429, {}, {"retry-after": "3"}), body=openai_error("slow")["error"]), K.RATE_LIMITED),
    (openai.BadRequestError("x", response=response(400, {}), body={"code": "context_length_exceeded", "message": "m"}), K.CONTEXT_TOO_LONG),
    (openai.APITimeoutError(httpx.Request("POST", "http://x/")), K.TIMEOUT),
    (wrapped(openai.APIConnectionError(request=httpx.Request("POST", "http://x/")), httpx.ConnectError("refused")), K.CONNECTION),
    (httpx.HTTPStatusError("429", request=httpx.Request("POST", "http://x/"), response=response(429, {})), K.RATE_LIMITED),
    (wrapped(RuntimeError("model failed"), httpx.ReadTimeout("slow")), K.TIMEOUT),
    (GoogleApiError(429, google_error(429, "RESOURCE_EXHAUSTED", "quota")), K.RATE_LIMITED),
    (BotoError(), K.RATE_LIMITED),
    (ContextOverflowError("too long"), K.CONTEXT_TOO_LONG),
    (OutputParserException("no json"), K.MALFORMED),
    (ssl.SSLCertVerificationError(1, "certificate verify failed"), K.CONNECTION),
    (TimeoutError(), K.TIMEOUT),
    (ConnectionRefusedError(111, "refused"), K.CONNECTION),
    (ValueError("what is this"), K.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), EXCEPTIONS, ids=lambda value: type(value).__name__)
def test_exceptions(error: Exception, kind: K) -> None:
    failure = failures.from_exception(error, now_s=NOW)
    assert failure.kind is kind
    assert failure.message


def test_an_sdk_exception_keeps_its_retry_after() -> None:
    assert failures.from_exception(EXCEPTIONS[0][0], now_s=NOW).retry_after_s == 3.0


def test_a_context_that_was_put_aside_does_not_count() -> None:
    def failed(*, aside: bool) -> Exception:
        error = ValueError("mine")
        error.__context__ = TimeoutError()
        error.__suppress_context__ = aside
        return error

    assert failures.from_exception(failed(aside=False), now_s=NOW).kind is K.TIMEOUT
    assert failures.from_exception(failed(aside=True), now_s=NOW).kind is K.UNKNOWN
