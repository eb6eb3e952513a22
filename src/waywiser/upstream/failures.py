"""One taxonomy for the failures of every upstream.

How a failure is told, first rule that fits:
1. an exception: by the status it carries, else by its class (by name for classes of packages that need not be
   installed);
2. a code the provider put in the body (`context_length_exceeded`, `RESOURCE_EXHAUSTED`, …): `_CODES`;
3. words of the message that say more than the status does (`_WORDS`), for the statuses where providers mix things up;
4. the status: `_STATUSES`;
5. else it is kept as `unknown`, with what the provider said.

The codes and phrases are those that OpenAI, Azure, Anthropic, Google, Mistral, Cohere, Groq, OpenRouter, vLLM,
llama.cpp and Bedrock send. Messages are masked: no key, no bearer token, no query string with a key.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from waywiser.core.calls import Failure, FailureKind, Usage
from waywiser.upstream.wire import Raw, list_of, mapping_of, parse, text_of

_LONGEST = 500  # characters of a provider's message that are kept
_SECRETS = re.compile(
    r"(?i)\b(?:(?:sk|pk|rk|gsk|xai|key|hf|r8|pplx|fw|nvapi|csk|tgp)[-_](?=\S*\d)|AIza|AKIA|ya29\.)[A-Za-z0-9*_\-.]{14,}"
    r"|(?<=bearer )[^\s\"',]+|(?<=basic )[A-Za-z0-9+/=]{8,}"
    r"|(?<=[?&]key=)[^&\s\"']+|(?<=[?&]api_key=)[^&\s\"']+|(?<=[?&]api-key=)[^&\s\"']+|(?<=[?&]access_token=)[^&\s\"']+"
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
)

_K = FailureKind
_VAGUE = frozenset(
    {_K.INVALID_REQUEST, _K.OVERLOADED, _K.RATE_LIMITED}
)  # a code of these kinds says less than words do
_CODES: dict[str, FailureKind] = {
    "context_length_exceeded": _K.CONTEXT_TOO_LONG,
    "exceed_context_size_error": _K.CONTEXT_TOO_LONG,
    "string_above_max_length": _K.CONTEXT_TOO_LONG,
    "request_too_large": _K.CONTEXT_TOO_LONG,
    "content_filter": _K.REFUSED,
    "content_policy_violation": _K.REFUSED,
    "responsibleaipolicyviolation": _K.REFUSED,
    "moderation_error": _K.REFUSED,
    "content_filter_error": _K.REFUSED,
    "data_inspection_failed": _K.REFUSED,
    "insufficient_quota": _K.UNAUTHORISED,
    "billing_hard_limit_reached": _K.UNAUTHORISED,
    "billing_error": _K.UNAUTHORISED,
    "invalid_api_key": _K.UNAUTHORISED,
    "authentication_error": _K.UNAUTHORISED,
    "permission_error": _K.UNAUTHORISED,
    "permission_denied": _K.UNAUTHORISED,
    "unauthenticated": _K.UNAUTHORISED,
    "accessdeniedexception": _K.UNAUTHORISED,
    "unrecognizedclientexception": _K.UNAUTHORISED,
    "expiredtokenexception": _K.UNAUTHORISED,
    "rate_limit_exceeded": _K.RATE_LIMITED,
    "rate_limit_error": _K.RATE_LIMITED,
    "resource_exhausted": _K.RATE_LIMITED,
    "throttlingexception": _K.RATE_LIMITED,
    "too_many_requests": _K.RATE_LIMITED,
    "overloaded_error": _K.OVERLOADED,
    "unavailable": _K.OVERLOADED,
    "unavailable_error": _K.OVERLOADED,
    "server_error": _K.OVERLOADED,
    "api_error": _K.OVERLOADED,
    "internal": _K.OVERLOADED,
    "internal_server_error": _K.OVERLOADED,
    "internalservererror": _K.OVERLOADED,
    "serviceunavailableexception": _K.OVERLOADED,
    "modelnotreadyexception": _K.OVERLOADED,
    "internalserverexception": _K.OVERLOADED,
    "engine_overloaded": _K.OVERLOADED,
    "service_tier_capacity_exceeded": _K.OVERLOADED,
    "deadline_exceeded": _K.TIMEOUT,
    "timeout_error": _K.TIMEOUT,
    "modeltimeoutexception": _K.TIMEOUT,
    "model_not_found": _K.INVALID_REQUEST,
    "not_found_error": _K.INVALID_REQUEST,
    "invalid_argument": _K.INVALID_REQUEST,
    "failed_precondition": _K.INVALID_REQUEST,
    "invalid_request_error": _K.INVALID_REQUEST,
    "exceeded_current_quota_error": _K.UNAUTHORISED,
}
_STATUSES: dict[int, FailureKind] = {
    400: _K.INVALID_REQUEST,
    401: _K.UNAUTHORISED,
    402: _K.UNAUTHORISED,
    403: _K.UNAUTHORISED,
    404: _K.INVALID_REQUEST,
    405: _K.INVALID_REQUEST,
    408: _K.TIMEOUT,
    409: _K.OVERLOADED,
    413: _K.CONTEXT_TOO_LONG,
    415: _K.INVALID_REQUEST,
    422: _K.INVALID_REQUEST,
    424: _K.OVERLOADED,
    425: _K.OVERLOADED,
    429: _K.RATE_LIMITED,
    498: _K.RATE_LIMITED,  # Groq: flex capacity exceeded
    499: _K.CONNECTION,
    500: _K.OVERLOADED,
    501: _K.INVALID_REQUEST,
    502: _K.OVERLOADED,
    503: _K.OVERLOADED,
    504: _K.TIMEOUT,
    520: _K.OVERLOADED,
    521: _K.OVERLOADED,
    522: _K.TIMEOUT,
    523: _K.OVERLOADED,
    524: _K.TIMEOUT,
    529: _K.OVERLOADED,
}
_WORDS: tuple[tuple[FailureKind, frozenset[int], re.Pattern[str]], ...] = (
    (
        _K.CONTEXT_TOO_LONG,
        frozenset({0, 200, 400, 422, 424, 500}),
        re.compile(
            r"context[ _-]?(length|size|window)|maximum context|prompt is too long|input is too long"
            r"|too many (input )?tokens|input tokens exceed|longer than the maximum"
            r"|too large for model with \d+ maximum"
            r"|(input|prompt)( token count)? .{0,40}exceeds?\b.{0,80}(token|limit|maximum)"
            r"|exceeds? the (available|model'?s?) (context|maximum)|reduce the length of the (messages|prompt)"
            r"|request exceeds the maximum size"
        ),
    ),
    (
        _K.REFUSED,
        frozenset({0, 200, 400, 403, 422, 451, 500}),
        re.compile(
            r"content (management|filter|policy)|content_filter|flagged (as|by|for)|responsible ai|usage polic"
            r"|safety (system|filter|reason)|blocked by (our|the) (safety|content|guardrail)|prohibited[_ ]content"
            r"|content exists risk"
        ),
    ),
    (
        _K.UNAUTHORISED,
        frozenset({0, 200, 400, 402, 403}),
        re.compile(
            r"credit balance is too low|insufficient (balance|funds|credits|quota)|api[ _]key not valid"
            r"|(invalid|incorrect|expired|missing|no) api[ _]key|invalid authentication"
            r"|billing (account|must|is not|hard limit)|enable billing"
        ),
    ),
    (
        _K.OVERLOADED,
        frozenset({0, 200, 400, 424, 429}),
        re.compile(
            r"\boverloaded\b|at capacity|capacity exceeded|loading model|model is (currently )?loading"
            r"|no available (server|worker)"
        ),
    ),
    (
        _K.RATE_LIMITED,
        frozenset({0, 200, 400, 403, 503}),
        re.compile(r"rate[ _-]?limit|too many requests|quota exceeded|(tokens|requests) per minute"),
    ),
    (_K.TIMEOUT, frozenset({0, 200, 500, 503}), re.compile(r"timed? ?out|deadline exceeded")),
)
_AGAIN = re.compile(
    r"(?:try again|retry|retry after|wait)\s+(?:in|after)?\s*(?:(\d+)m(?!s))?\s*([\d.]+)\s*(ms|s\b|sec)"
)
_DELAY = re.compile(r"([\d.]+)s")

# Classes of packages that need not be installed, by name; the first name found in the exception's ancestry decides.
_CLASSES: dict[str, FailureKind] = {
    "ContextOverflowError": _K.CONTEXT_TOO_LONG,
    "ContextWindowExceededError": _K.CONTEXT_TOO_LONG,
    "ContentPolicyViolationError": _K.REFUSED,
    "ContentFilterFinishReasonError": _K.REFUSED,
    "OpenAIRefusalError": _K.REFUSED,
    "LengthFinishReasonError": _K.MALFORMED,
    "APITimeoutError": _K.TIMEOUT,
    "DeadlineExceeded": _K.TIMEOUT,
    "TimeoutException": _K.TIMEOUT,
    "ServerTimeoutError": _K.TIMEOUT,
    "ReadTimeoutError": _K.TIMEOUT,
    "ConnectTimeoutError": _K.TIMEOUT,
    "APIConnectionError": _K.CONNECTION,
    "ClientConnectionError": _K.CONNECTION,
    "ClientPayloadError": _K.CONNECTION,
    "RemoteProtocolError": _K.CONNECTION,
    "TransportError": _K.CONNECTION,
    "NetworkError": _K.CONNECTION,
    "EndpointConnectionError": _K.CONNECTION,
    "InvalidURL": _K.INVALID_REQUEST,
    "NonHttpUrlClientError": _K.INVALID_REQUEST,
    "UnsupportedProtocol": _K.INVALID_REQUEST,
    "OSError": _K.CONNECTION,
    "HTTPException": _K.CONNECTION,  # http.client: the connection ended before, or within, the response
    "RateLimitError": _K.RATE_LIMITED,
    "ResourceExhausted": _K.RATE_LIMITED,
    "TooManyRequests": _K.RATE_LIMITED,
    "AuthenticationError": _K.UNAUTHORISED,
    "PermissionDeniedError": _K.UNAUTHORISED,
    "APIResponseValidationError": _K.MALFORMED,
    "OutputParserException": _K.MALFORMED,
    "JSONDecodeError": _K.MALFORMED,
    "BadRequestError": _K.INVALID_REQUEST,
    "ServiceUnavailable": _K.OVERLOADED,
    "InternalServerError": _K.OVERLOADED,
}

_BUILTIN: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (ssl.SSLError, _K.CONNECTION),
    (TimeoutError, _K.TIMEOUT),
    (ConnectionError, _K.CONNECTION),
    (socket.gaierror, _K.CONNECTION),
)


def from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, now_s: float, secret: str = "", usage: Usage | None = None
) -> Failure:
    """Classify a response whose status is not 200. `headers` has lower-case names; `now_s` is the time, for dates."""
    try:
        parsed = parse(body)
    except ValueError:
        parsed = None
    wait = retry_after_s(headers, now_s)
    if parsed is None:
        words = " ".join(re.sub(r"<[^>]*>", " ", body[:4000].decode("utf-8", "replace")).split())
        return _classified(status, "", words, wait, secret, usage)
    return from_body(parsed, status=status, retry_after=wait, secret=secret, usage=usage)


def from_body(
    parsed: Raw, *, status: int = 200, retry_after: float | None = None, secret: str = "", usage: Usage | None = None
) -> Failure:
    """Classify a parsed error body of any provider: `{"error": {…}}`, `{"message": …}`, `{"detail": …}`, an array."""
    if isinstance(parsed, list):  # Google wraps its errors in an array
        parsed = parsed[0] if parsed else {}
    outer = mapping_of(parsed)
    error = outer.get("error", outer)
    if isinstance(error, str):
        return _classified(status, text_of(outer.get("code")), error, retry_after, secret, usage)
    inner = mapping_of(error)
    codes = [inner.get("code"), mapping_of(inner.get("innererror")).get("code"), inner.get("type"), inner.get("status")]
    code = next((text for text in map(text_of, codes) if text.lower() in _CODES), "")
    message = (
        text_of(inner.get("message")) or _detail(outer) or text_of(inner.get("code")) or text_of(inner.get("type"))
    )
    if status == 200 and isinstance(inner.get("code"), int):  # OpenRouter and llama.cpp put the status there
        status = inner["code"]
    for detail in list_of(inner.get("details")):
        delay = _DELAY.fullmatch(text_of(mapping_of(detail).get("retryDelay")))
        if delay and retry_after is None:
            retry_after = float(delay[1])
    return _classified(status, code, message, retry_after, secret, usage)


def from_exception(error: BaseException, *, now_s: float, secret: str = "") -> Failure:
    """Classify an exception of a transport, of a provider's SDK or of a LangChain chat model.

    The causes of an exception are looked through, since SDKs wrap what really happened.
    """
    chain = _causes(error)
    for link in chain:
        status = _status(link)
        if status:
            return _from_sdk(link, status, now_s, secret)
    for base, kind in _BUILTIN:
        for link in chain:
            if isinstance(link, base):
                return Failure(kind, masked(_tls(link) if isinstance(link, ssl.SSLError) else _say(link), secret))
    for link in chain:
        for ancestor in type(link).__mro__:
            named = _CLASSES.get(ancestor.__name__)
            if named is not None:
                return Failure(named, masked(_say(link), secret))
    return _classified(0, "", _say(error), None, secret, None)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Read how long a provider asks to wait, in seconds: `retry-after-ms`, `Retry-After` in seconds or as a date.

    A date in the past is 0. What can't be read is None.
    """
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(parsedate_to_datetime(value).timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def masked(text: str, secret: str = "") -> str:
    """Take secrets out of a text: the given key and whatever looks like one; and keep it short."""
    if len(secret) >= 6:
        text = text.replace(secret, "***")
    text = " ".join(_SECRETS.sub("***", text).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _classified(status: int, code: str, message: str, wait: float | None, secret: str, usage: Usage | None) -> Failure:
    low = message.lower()
    said = _CODES.get(code.lower())
    if status == 413:  # too large to ever fit, whatever the code: some providers call it a rate limit
        said = _K.CONTEXT_TOO_LONG
    kind = said if said not in _VAGUE else None
    if kind is None:
        kind = next((kind for kind, where, words in _WORDS if status in where and words.search(low)), said)
    if kind is None or (
        kind is _K.INVALID_REQUEST and status in _STATUSES
    ):  # `invalid_request_error` says next to nothing
        kind = _STATUSES.get(status, _K.OVERLOADED if 500 <= status < 600 else _K.UNKNOWN)
    if wait is None and kind in (_K.RATE_LIMITED, _K.OVERLOADED):
        again = _AGAIN.search(low)
        if again:
            wait = int(again[1] or 0) * 60 + float(again[2].rstrip(".") or 0) / (1000 if again[3] == "ms" else 1)
    text = message or (f"status {status}" if status else "no message")
    return Failure(kind, masked(text, secret), status, wait, usage or Usage())


def _from_sdk(error: BaseException, status: int, now_s: float, secret: str) -> Failure:
    response = getattr(error, "response", None)
    raw_headers = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    headers = {str(name).lower(): str(raw_headers[name]) for name in raw_headers}
    body = getattr(error, "body", None)
    if body is None and isinstance(response, Mapping):  # botocore: {"Error": {"Code": …, "Message": …}}
        shown = mapping_of(response.get("Error"))
        body = {"code": shown.get("Code"), "message": shown.get("Message")}
    wait = retry_after_s(headers, now_s)
    if isinstance(body, str | bytes):
        return from_response(
            status, headers, body.encode() if isinstance(body, str) else body, now_s=now_s, secret=secret
        )
    if isinstance(body, dict | list):
        told = from_body(body, status=status, retry_after=wait, secret=secret)
        if told.kind is not _K.UNKNOWN and not told.message.startswith("status "):
            return told
    details = getattr(error, "details", None)
    if isinstance(details, dict | list):  # google.genai
        return from_body(details, status=status, retry_after=wait, secret=secret)
    return _classified(status, text_of(getattr(error, "code", "")), _say(error), wait, secret, None)


def _status(error: BaseException) -> int:
    if any(ancestor.__name__ == "HttpProcessingError" for ancestor in type(error).__mro__):
        return 0  # aiohttp's parser: the 400 in it is its own word for a response it can't read
    for name in ("status_code", "status", "http_status", "code"):
        value = getattr(error, name, None)
        value = getattr(value, "value", value)  # an HTTPStatus, or gRPC's enum (whose value is a tuple)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        value = mapping_of(response.get("ResponseMetadata")).get("HTTPStatusCode")
    else:
        value = getattr(response, "status_code", None)
    return value if isinstance(value, int) and 400 <= value < 600 else 0


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain and len(chain) < 10:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _detail(outer: Mapping[str, Raw]) -> str:
    """Find the message of FastAPI servers (vLLM, Mistral): a string, or an array of `{"loc", "msg"}`."""
    detail = outer.get("detail", outer.get("message"))
    if isinstance(detail, str):
        return detail
    if isinstance(detail, dict):
        return text_of(detail.get("message")) or _detail(detail)
    told = [
        f"{'.'.join(map(str, list_of(item.get('loc'))))}: {text_of(item.get('msg'))}"
        for item in map(mapping_of, list_of(detail))
    ]
    return "; ".join(told)


def _tls(error: ssl.SSLError) -> str:
    return f"TLS failure: {getattr(error, 'verify_message', '') or getattr(error, 'reason', '') or error}"


def _say(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
