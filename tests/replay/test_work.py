"""Whole files: order, processes, checkpoints, totals, comparisons, outcomes, the page and the command."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import recordings as made

from waywiser.core.classification import Classification, Judged
from waywiser.errors import BadInput
from waywiser.replay.checkpoint import Checkpoint, fingerprint
from waywiser.replay.comparison import Comparison
from waywiser.replay.outcomes import frontier
from waywiser.replay.page import page
from waywiser.replay.recording import Problem
from waywiser.replay.result import SessionResult, Spent, Stopped
from waywiser.replay.totals import Problems, Totals
from waywiser.replay.work import Order, replayed
from waywiser.runtime import load

ROOT = Path(__file__).resolve().parents[2]
POLICY = str(ROOT / "policies" / "simulated.yaml")
ORDER = Order((POLICY,))


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "in.jsonl"
    lines = [json.dumps(made.trajectory(f"t{number}", success=number % 3 > 0)) for number in range(30)]
    lines.insert(7, "{broken")
    path.write_text("\n".join(lines) + "\n")
    return path


def ids(items: Any) -> list[str]:
    return [item.place if isinstance(item, Problem) else item[0].id for item in items]


def test_sessions_come_out_in_the_order_of_the_input_whoever_replays_them(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = list(replayed(traces, ORDER))
    assert ids(alone) == [*(f"t{n}" for n in range(7)), "in.jsonl:8", *(f"t{n}" for n in range(7, 30))]
    monkeypatch.setattr("waywiser.replay.work.WORTH_A_PROCESS", 0)
    assert list(replayed(traces, ORDER, workers=2)) == alone


def test_a_replay_goes_on_where_it_was(traces: Path, tmp_path: Path) -> None:
    whole = list(replayed(traces, ORDER))
    path, mark = tmp_path / "kept", fingerprint(traces, ORDER)
    with Checkpoint(path, mark) as first:
        assert list(first.earlier()) == []
        for item in whole[:12]:
            first.keep(item)
    with path.open("ab") as stream:
        stream.write(b'{"sessions":[{"id":"half a li')
    with Checkpoint(path, mark) as second:
        kept = list(second.earlier())
        assert kept == whole[:12]
        for item in replayed(traces, ORDER, skip=len(kept)):
            second.keep(item)
    with Checkpoint(path, mark) as third:
        assert list(third.earlier()) == whole


def test_a_checkpoint_of_another_replay_is_refused(traces: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with Checkpoint(path, fingerprint(traces, ORDER)) as first:
        list(first.earlier())
    other = replace(ORDER, decisions=True)
    with Checkpoint(path, fingerprint(traces, other)) as second, pytest.raises(BadInput, match="another replay"):
        list(second.earlier())


def a_result(name: str = "s", cost: int = 100, *, stopped: bool = False, success: bool | None = True) -> SessionResult:
    return SessionResult(
        id=name,
        place="f:1",
        task_id="",
        success=success,
        calls=2,
        made=2,
        recorded_nanos=400,
        priced=False,
        cost_nanos=cost,
        top_nanos=1000,
        top_made_nanos=1000,
        saved_nanos=7 if stopped else 0,
        switches=1,
        cold_nanos=3,
        reveals=0,
        changed=2,
        estimated=0,
        timed=True,
        unknown_model="",
        stopped=Stopped("budget", 2, "the limit is reached") if stopped else None,
        spent=(Spent("tool_call", "economy", "a/b", 2, cost),),
        reproduced=None,
    )


def test_totals_add_up() -> None:
    totals, problems = Totals("p"), Problems()
    totals.add(a_result(cost=100))
    totals.add(a_result(cost=300, stopped=True))
    totals.add(replace(a_result(cost=50), recorded_nanos=None, unknown_model="who"))
    problems.add(Problem("f:9", "not JSON"))
    problems.add(Problem("f:10", "the session ended badly", dropped=True))
    told: dict[str, Any] = totals.as_json(problems)
    assert told["cost_usd"] == pytest.approx(450e-9)
    assert told["top_tier_cost_usd"] == pytest.approx(3000e-9)
    assert told["share_of_top_tier"] == pytest.approx(0.15)
    assert told["share_of_recorded"] == pytest.approx(0.5)  # of the two sessions whose cost is recorded
    assert told["stopped"] == {"budget": {"sessions": 1, "successful": 1, "unsuccessful": 0}}
    assert told["by_model"] == [{"model": "a/b", "calls": 6, "cost_usd": pytest.approx(450e-9)}]
    assert told["not_known"]["unknown_models"] == {"who": 1}
    assert told["not_known"]["broken"] == 1
    assert told["not_known"]["dropped"] == {"the session ended badly": 1}
    low, high = told["share_of_top_tier_95"]
    assert low < 0.15 < high


def test_a_policy_that_costs_more_or_stops_successes_does_not_hold() -> None:
    same = Comparison()
    same.add(a_result(cost=100), a_result(cost=100))
    assert same.against() == []
    dearer = Comparison(max_increase=0.05)
    dearer.add(a_result(cost=104), a_result(cost=100))
    assert dearer.against() == []
    dearer.add(a_result(cost=140), a_result(cost=100))
    assert "+22.0%" in dearer.against()[0]
    stops = Comparison(max_increase=0.5)
    stops.add(a_result("lost", cost=50, stopped=True), a_result("lost", cost=100))
    assert "1 successful" in stops.against()[0]
    assert stops.named == ["lost"]
    failed = Comparison()
    failed.add(a_result(cost=50, stopped=True, success=False), a_result(cost=100, success=False))
    assert failed.against() == []


class Guesser:
    """Thinks that a message with so many words needs a model of that rank."""

    def classify(self, messages: Any, tools: Any, rungs: int, heads: Any = None) -> Classification:
        rank = min(len(messages[0].text.split()) - 1, rungs - 1)
        enough = tuple(1.0 if index >= rank else 0.0 for index in range(rungs))
        one = Judged("", 1.0)
        return Classification(one, one, enough, (), one, 0.0, one)


def outcomes(path: Path, knows: bool) -> Path:
    """Half of the tasks need the large model; their messages tell it, or do not."""
    rows = {}
    for number in range(60):
        hard = number % 2 == 1
        told = hard if knows else number % 4 > 1
        rows[str(number)] = {
            "first_user": "hard task" if told else "easy",
            "small": {"success": not hard, "cost": 0.01, "calls": 1},
            "large": {"success": True, "cost": 0.05, "calls": 1},
        }
    rows["gone"] = {"first_user": "x", "small": {"success": True, "cost": 0, "termination": "agent_error"}}
    path.write_text(json.dumps(rows))
    return path


def test_choosing_well_beats_the_single_model_line_and_choosing_blindly_does_not(tmp_path: Path) -> None:
    policy = load(POLICY).policy
    good = frontier(outcomes(tmp_path / "good.json", knows=True), policy, Guesser())
    assert (good.tasks, good.left_out) == (60, 1)
    assert [point.name for point in good.singles] == ["small", "large"]
    assert good.policy.success == 1.0
    assert good.policy.cost == pytest.approx(good.oracle.cost) == pytest.approx(0.03)
    assert good.gain == pytest.approx(0.25)
    assert good.beats
    blind = frontier(outcomes(tmp_path / "blind.json", knows=False), policy, Guesser())
    assert not blind.beats
    assert "does not beat" in blind.said


def test_outcomes_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    for text in ("[1", "[]", "{}", '{"a": {"first_user": "x", "m": {"success": true, "cost": 1}}}'):
        path.write_text(text)
        with pytest.raises(BadInput):
            frontier(path, load(POLICY).policy, Guesser())


class Wellformed(HTMLParser):
    """Notes tags that are left open, and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "i/"} and tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    totals = [Totals("new <policy>"), Totals("old")]
    comparison = Comparison()
    for number in range(20):
        new, old = a_result(f"s{number}", 90 + 1000 * number, stopped=number == 3), a_result(f"s{number}", 2000)
        totals[0].add(new)
        totals[1].add(old)
        comparison.add(new, old)
    found = frontier(outcomes(tmp_path / "o.json", knows=True), load(POLICY).policy, Guesser())
    text = page(totals, Problems(), source="a&b.jsonl", comparison=comparison, frontier=found)
    reader = Wellformed()
    reader.feed(text)
    assert reader.open == []
    assert reader.loads == []
    assert "url(" not in text
    assert "<policy>" not in text
    assert "a&amp;b.jsonl" in text
    assert text.count("<svg") == 4
    assert "prefers-color-scheme:dark" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no browser to look with")
def test_a_browser_lays_the_page_out_without_scrolling_sideways(tmp_path: Path) -> None:
    totals = Totals("p")
    for number in range(20):
        totals.add(a_result(f"s{number}", 90 + 1000 * number))
    ends = "[...document.querySelectorAll('svg text')].map(t => Math.round(t.getBoundingClientRect().right))"
    sizes = f"[innerWidth, document.documentElement.scrollWidth, ...{ends}]"
    probe = f"<script>document.title = {sizes}.join()</script>"
    path = tmp_path / "page.html"
    path.write_text(page([totals], Problems(), source="x").replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=500,900"]
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, check=True, timeout=60
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    width, scrolled, *labels = (int(number) for number in title.split(","))
    assert scrolled <= width
    assert labels
    assert max(labels) <= width  # no label runs out of its plot


def test_the_page_of_nothing(tmp_path: Path) -> None:
    reader = Wellformed()
    reader.feed(page([Totals("p")], Problems(), source="none"))
    assert reader.open == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "waywiser.cli", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_writes_json_as_designed(traces: Path, tmp_path: Path) -> None:
    shown = tmp_path / "page.html"
    done = run(str(traces), "--policy", POLICY, "--json", "--html", str(shown))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["id"] for row in told["sessions"]] == [f"t{number}" for number in range(30)]
    assert set(told["sessions"][0]) == {
        "id",
        "task_id",
        "success",
        "calls",
        "recorded_cost_usd",
        "cost_usd",
        "top_tier_cost_usd",
        "switches",
        "stopped",
    }
    assert told["sessions"][0]["recorded_cost_usd"] == pytest.approx(0.003)
    assert told["totals"]["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in told["sessions"]))
    assert told["totals"]["not_known"]["problems"][0]["place"] == "in.jsonl:8"
    assert shown.read_text().startswith("<!doctype html>")


def test_the_command_in_continuous_integration(traces: Path, tmp_path: Path) -> None:
    dear = tmp_path / "dear.yaml"
    dear.write_text(Path(POLICY).read_text().replace("tool_call: {tier: economy", "tool_call: {tier: premium"))
    cheaper = run(str(traces), "--policy", POLICY, "--against", str(dear))
    assert cheaper.returncode == 0, cheaper.stderr
    assert "it holds" in cheaper.stdout
    dearer = run(str(traces), "--policy", str(dear), "--against", POLICY, "--json")
    assert dearer.returncode == 1
    told = json.loads(dearer.stdout)
    assert told["comparison"]["holds"] is False
    assert told["comparison"]["increase"] > 0
    assert told["against"]["totals"]["cost_usd"] < told["totals"]["cost_usd"]
    allowed = run(str(traces), "--policy", str(dear), "--against", POLICY, "--max-increase", "100000")
    assert allowed.returncode == 0


def test_mixed_formats_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in (*made.chats("a"), made.trajectory("b"), made.spans("c")))
    )
    done = run(str(path), "--policy", POLICY, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["id"] for row in told["sessions"]] == ["a", "b", "c"]
    assert told["totals"]["formats"] == {"chat": 1, "session": 1, "otel": 1}
    # The same session three times: it costs the same, whoever recorded it.
    assert len({row["cost_usd"] for row in told["sessions"]}) == 1


def test_input_that_is_bad_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    assert run(str(path), "--policy", POLICY).returncode == 2
    path.write_text("{broken\n")
    done = run(str(path), "--policy", POLICY)
    assert done.returncode == 2
    assert "in.jsonl:1: not JSON" in done.stderr
