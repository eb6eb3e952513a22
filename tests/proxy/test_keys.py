"""Virtual keys: made, checked, limited, revoked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from waywiser.cli import main
from waywiser.errors import ConfigError
from waywiser.proxy.gate import Gate
from waywiser.proxy.keys import Caller, KeyRing, make_key, read_keys
from waywiser.proxy.troubles import Denied

if TYPE_CHECKING:
    from conftest import Proxy


def make(capsys: pytest.CaptureFixture[str], path: Path, name: str, *more: str) -> str:
    assert main(["keys", str(path), "--add", name, *more]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def guarded(
    start: Callable[..., Proxy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[Proxy, Path, dict[str, str]]:
    path = tmp_path / "keys.yaml"
    keys = {
        "acme": make(capsys, path, "acme", "--tenant", "acme"),
        "globex": make(capsys, path, "globex", "--tenant", "globex"),
        "elsewhere": make(capsys, path, "elsewhere", "--policies", "another"),
    }
    return start(keys=str(path)), path, keys


def ask(proxy: Proxy, key: str, **headers: str) -> httpx.Response:
    return proxy.chat(headers={"authorization": f"Bearer {key}", **headers})


def test_who_may_call(guarded: tuple[Proxy, Path, dict[str, str]]) -> None:
    proxy, path, keys = guarded
    assert ask(proxy, keys["acme"]).status_code == 200
    assert proxy.chat(headers={"x-api-key": keys["acme"]}).status_code == 200
    for wrong in ("sk-1", keys["acme"][:-1], keys["acme"] + "x", keys["acme"].replace("acme", "globex"), "wk_é_x"):
        answer = proxy.chat(headers={"authorization": f"Bearer {wrong}".encode()})
        assert answer.status_code == 401
        assert wrong not in answer.text
    assert proxy.chat().status_code == 401
    assert ask(proxy, keys["elsewhere"]).status_code == 403
    assert ask(proxy, keys["acme"], **{"x-waywiser-tenant": "globex"}).status_code == 403
    text = path.read_text()
    assert not any(key in text for key in keys.values())
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=proxy.base_url, api_key="wrong").models.list()


def test_a_key_sees_its_own_tenant_only(guarded: tuple[Proxy, Path, dict[str, str]]) -> None:
    proxy, _, keys = guarded
    seen = {}
    for name in ("acme", "globex"):
        seen[name] = ask(proxy, keys[name], **{"x-waywiser-session": "same"}).headers["x-waywiser-receipt"]
    for name, other in (("acme", "globex"), ("globex", "acme")):
        headers = {"authorization": f"Bearer {keys[name]}"}
        session = httpx.get(f"{proxy.base_url}/waywiser/sessions/same", headers=headers).json()
        assert [entry["id"] for entry in session["receipts"]] == [seen[name]]
        assert httpx.get(f"{proxy.base_url}/waywiser/receipts/{seen[other]}", headers=headers).status_code == 404
        assert httpx.get(f"{proxy.base_url}/waywiser/receipts/{seen[name]}", headers=headers).status_code == 200
        assert httpx.get(f"{proxy.base_url}/waywiser/sessions/same%40{other}", headers=headers).status_code == 404
    assert httpx.get(f"{proxy.base_url}/waywiser/receipts/{seen['acme']}").status_code == 401


def test_a_revoked_key_is_refused_soon(guarded: tuple[Proxy, Path, dict[str, str]]) -> None:
    proxy, path, keys = guarded
    assert ask(proxy, keys["acme"]).status_code == 200
    assert main(["keys", str(path), "--revoke", "acme"]) == 0
    proxy.wait_for(lambda: ask(proxy, keys["acme"]).status_code == 401)
    assert ask(proxy, keys["globex"]).status_code == 200
    assert main(["keys", str(path), "--revoke", "acme"]) == 2
    path.write_text("- {broken")
    time.sleep(0.6)
    assert ask(proxy, keys["globex"]).status_code == 200, "a broken file must not lock everybody out"


def test_limits_of_a_key() -> None:
    now = [0.0]
    gate = Gate(now=lambda: now[0])
    caller = Caller("k", requests_per_minute=60)
    for _ in range(6):
        with gate.entered(caller):
            pass
    with pytest.raises(Denied) as caught, gate.entered(caller):
        pass
    assert caught.value.status == 429
    assert dict(caught.value.headers)["retry-after"] == "2"
    now[0] += 1.0
    with gate.entered(caller):
        pass
    few = Caller("f", concurrent=1)
    with gate.entered(few), pytest.raises(Denied), gate.entered(few):
        pass
    with gate.entered(few):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {id: a, sha256: secret}", "sha256"),
        (f'- {{id: a, sha256: "{"0" * 64}", tenant: a@b}}', "tenant"),
        ("{}", "list"),
        ("- [", "not YAML"),
        (f'- {{id: a, sha256: "{"0" * 64}"}}\n- {{id: a, sha256: "{"1" * 64}"}}', "already"),
    ],
)
def test_bad_files_of_keys(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        KeyRing(path)
    assert "secret" not in str(caught.value)


def test_making_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    key = make(capsys, path, "1st", "--tenant", "2nd", "--policies", "a, b", "--requests-per-minute", "5")
    entry = read_keys(path)["1st"]
    assert (entry.tenant, entry.policies, entry.requests_per_minute) == ("2nd", ("a", "b"), 5)
    assert KeyRing(path).caller(key).tenant == "2nd"
    assert main(["keys", str(path), "--add", "1st"]) == 2
    assert main(["keys", str(path), "--add", "no spaces"]) == 2
    assert main(["keys", str(path), "--revoke", "1st"]) == 0
    assert read_keys(path)["1st"].revoked
    assert make_key("x") != make_key("x")
    assert main(["keys", str(path)]) == 0
    assert "revoked" in capsys.readouterr().out


def test_beyond_loopback_keys_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--policy", "policies/simulated.yaml", "--host", "192.0.2.1"]) == 2
    assert "--keys" in capsys.readouterr().err


def test_a_client_brings_its_own_provider_key(start: Callable[..., Proxy], upstream: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"""
version: 1
name: own
tiers: {{only: [openai/gpt-4o-mini]}}
models: {{openai/gpt-4o-mini: {{base_url: "{upstream}/v1", remote: ok}}}}
steps: {{synthesis: {{tier: only}}}}
""")
    proxy = start(str(path), own_keys=True)
    assert proxy.chat().status_code == 502
    assert proxy.chat(headers={"x-waywiser-key-openai": "sk-mine"}).status_code == 200
    assert proxy.chat().status_code == 502
    assert "sk-mine" not in str(proxy.service.store.receipts(""))
