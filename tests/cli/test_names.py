"""What a person is told who named a receipt, a session or a file that is not what they meant."""

from __future__ import annotations

import gzip
import time
from dataclasses import replace
from pathlib import Path

import pytest

from waywiser.cli import main
from waywiser.core.calls import Origin
from waywiser.core.claims import scopes, session_key
from waywiser.core.policy import BudgetRule
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.ledger import NOW_S, a_receipt, claim, session_scope, settlement
from waywiser.testing.pieces import a_call

ROOT = Path(__file__).resolve().parents[2]
POLICY = str(ROOT / "policies/simulated.yaml")
ACME = session_key("ticket-4711", "acme")


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "s.sqlite"
    made = SqliteStore(path)
    for number, session in enumerate(["ticket-4711", ACME, *(f"run-{n}" for n in range(7))]):
        scope = session_scope(session=session)
        made.reserve(claim(f"h{number}", scope, session=session))
        receipt = a_receipt(f"1a2{number}", session=session)
        made.settle(settlement(f"h{number}", scope, session=session, receipt=receipt))
    made.record(a_receipt("9f", session="refused", refused="budget_exceeded"))
    made.close()
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_explain_says_between_which_receipts_a_beginning_does_not_tell(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "explain", "1a2", "--store", store)
    assert (code, out) == (2, "")
    assert "more than one receipt begins with '1a2'" in err
    assert err.count("\n  1a2") == 5
    assert "session run-0" in err
    assert err.endswith("…\n")
    assert said(capsys, "explain", "1a25", "--store", store)[0] == 0
    assert said(capsys, "explain", "9", "--store", store)[0] == 0, "the only one to begin so"
    assert "no receipt is '7' or begins so" in said(capsys, "explain", "7", "--store", store)[2]


def test_explain_says_which_session_may_be_meant(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "explain", "session:ticket-471", "--store", store)
    assert code == 2
    assert f"no receipts of a session 'ticket-471'; did you mean 'ticket-4711', '{ACME}'?" in err


def test_report_knows_no_such_session(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--json"]):
        code, out, err = said(capsys, "report", "--session", "rum-3", "--store", store, *extra)
        assert (code, out) == (1, "")
        assert "no such session: 'rum-3'; did you mean 'run-3'" in err
    assert said(capsys, "report", "--session", "nothing like it", "--store", store)[2].endswith("'nothing like it'\n")
    code, _, err = said(capsys, "report", "--tenant", "acne", "--store", store)
    assert code == 1
    assert "no such tenant: 'acne'" in err
    assert said(capsys, "report", "--session", "run-3", "--store", store)[0] == 0
    code, out, _ = said(capsys, "report", "--session", "refused", "--store", store)
    assert code == 0, "a session that was only refused is one"
    assert "budget_exceeded" in out


def test_a_session_whose_first_call_is_under_way_is_one(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    session = session_key("a/b", "acme")
    call = replace(a_call(), origin=Origin(session=session, tenant="acme"))
    path = scopes(BudgetRule(), call, time.time())
    made = SqliteStore(store)
    held = claim("h99", *path, session=session)
    made.reserve(replace(held, now_s=time.time(), expires_s=time.time() + 60))
    made.close()
    code, out, _ = said(capsys, "report", "--session", session, "--store", store)
    assert code == 0
    assert "h99" in out


def test_an_empty_store_has_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.sqlite"
    made = SqliteStore(path)
    made.open("s", (), NOW_S)
    made.close()
    assert said(capsys, "report", "--store", str(path))[0] == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "no session in it that could be replayed"),
        (gzip.compress(b"", mtime=0), "no session in it that could be replayed"),
        (b'{"a": 1}\n', r"no session in it that could be replayed (none.jsonl:1: neither a session"),
    ],
)
def test_replay_of_no_session_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, problem: str
) -> None:
    path = tmp_path / "none.jsonl"
    path.write_bytes(content)
    code, out, err = said(capsys, "replay", str(path), "--policy", POLICY, "--workers", "1")
    assert (code, out) == (2, "")
    assert problem in err


def test_check_says_fine_only_where_there_is_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "policy simulated: fine\n" in said(capsys, "check", POLICY)[1]
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\nname: mine\ntiers: {economy: [groq/llama-3.1-8b-instant], premium: [openai/gpt-5.4]}\n"
        "budget: {session: {usd: 1}, keep: {synthesis: 20%}}\n"
    )
    monkeypatch.setenv("GROQ_API_KEY", "x")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, _ = said(capsys, "check", str(path))
    assert code == 0
    assert "policy mine: can be used, with a warning, see below\n" in out
    assert out.count("warning: ") == 1
    assert ": fine" not in out
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert "policy mine: fine\n" in said(capsys, "check", str(path))[1]
