"""Virtual keys: who may call, for which tenant, under which policies, how often.

A key is `wk_<id>_<secret>`. The file of keys holds a SHA-256 of the whole key and never the key: the secret is 256
random bits, so that a slow hash would protect nothing more. The file is a YAML list and is read again when it changes,
so a key that is revoked there is refused within a second.

    - {id: shop, sha256: "4f1c…", tenant: acme, policies: [support], requests_per_minute: 600, concurrent: 32}
    - {id: old, sha256: "90ab…", tenant: acme, revoked: true}
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from waywiser.errors import ConfigError, Place, Problem
from waywiser.proxy.troubles import Denied

LOOK_EVERY_S = 0.5
NAME = r"[A-Za-z0-9][A-Za-z0-9.\-]{0,62}"
_KEY = re.compile(rf"wk_({NAME})_[A-Za-z0-9_\-]{{20,128}}")
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


class KeyEntry(BaseModel):
    """One entry of the file of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=rf"^{NAME}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(default="", pattern=rf"^({NAME})?$")
    policies: tuple[str, ...] = ()
    requests_per_minute: int | None = Field(default=None, ge=1)
    concurrent: int | None = Field(default=None, ge=1)
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. Empty `policies` means all of them; an empty `key` that keys are off."""

    key: str = ""
    tenant: str = ""
    policies: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    concurrent: int | None = None


def make_key(key_id: str) -> tuple[str, str]:
    """Make a new key: the key itself, to be handed over once, and the hash to be kept."""
    key = f"wk_{key_id}_{secrets.token_urlsafe(32)}"
    return key, hashed(key)


def hashed(key: str) -> str:
    """Hash a key as the file of keys holds it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class KeyRing:
    """The keys in force. `path` None switches keys off: everybody is the nameless caller."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[float, int] = (0.0, 0)
        self._looked_s = 0.0
        self._entries: Mapping[str, KeyEntry] = {}
        self._callers: dict[str, Caller] = {}
        if path is not None:
            self._entries = read_keys(path)
            self._stamp = _stamp(path)

    @property
    def on(self) -> bool:
        """Whether a key is needed."""
        return self._path is not None

    def caller(self, key: str) -> Caller:
        """Find out who holds `key`. Raises `Denied` for a key that is unknown or revoked, never saying which."""
        if self._path is None:
            return Caller()
        self._look()
        if not key:
            raise Denied(401, "missing_api_key", "no API key: send `Authorization: Bearer …` or `x-api-key`")
        named = _KEY.fullmatch(key)
        entry = self._entries.get(named[1]) if named else None
        # Whether or not there is such a key, the same work is done.
        same = hmac.compare_digest(hashed(key), entry.sha256 if entry is not None else _NOBODY)
        if entry is None or not same or entry.revoked:
            raise Denied(401, "invalid_api_key", "this API key is not valid")
        found = self._callers.get(entry.id)
        if found is None:
            found = Caller(entry.id, entry.tenant, entry.policies, entry.requests_per_minute, entry.concurrent)
            self._callers[entry.id] = found
        return found

    def _look(self) -> None:
        """Read the file again if it has changed. A broken file keeps the keys that were in force."""
        path, now_s = self._path, time.monotonic()
        if path is None or now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            stamp = _stamp(path)
            if stamp != self._stamp:
                self._entries, self._callers, self._stamp = read_keys(path), {}, stamp
        except (OSError, ConfigError):
            return


def _stamp(path: Path) -> tuple[float, int]:
    found = path.stat()
    return found.st_mtime, found.st_size


def read_keys(path: Path) -> Mapping[str, KeyEntry]:
    """Read a file of keys, by id. Raises `ConfigError` for one that cannot be read, without quoting what it holds."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(Place(str(path)), f"the keys cannot be read: {type(error).__name__}")) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(str(path), mark.line + 1 if mark else 0)
        raise ConfigError(Problem(place, "not YAML")) from None
    if raw is None:
        return {}
    if not isinstance(raw, list):
        raise ConfigError(Problem(Place(str(path)), "expected a list of keys"))
    entries: dict[str, KeyEntry] = {}
    problems = []
    for index, item in enumerate(raw):
        try:
            entry = KeyEntry.model_validate(item)
        except ValidationError as error:
            for found in error.errors(include_input=False, include_url=False):
                where = ".".join(str(part) for part in (index, *found["loc"]))
                problems.append(Problem(Place(str(path)), f"{where}: {found['msg']}"))
            continue
        if entry.id in entries:
            problems.append(Problem(Place(str(path)), f"{index}.id: `{entry.id}` is there already"))
        entries[entry.id] = entry
    if problems:
        raise ConfigError(problems)
    return entries
