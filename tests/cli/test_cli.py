"""The command line, as a person uses it: what it prints, its exit codes, and no traceback for whatever comes in."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from waywiser.cli import main
from waywiser.cli.schema import schema_text

ROOT = Path(__file__).resolve().parents[2]
POLICY = str(ROOT / "policies/simulated.yaml")
REACT = str(ROOT / "graphs/support_react.yaml")


def waywiser(*arguments: str, stdin: bytes = b"", cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "waywiser.cli", *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


def calls(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


HI = {"id": "1", "messages": [{"role": "user", "content": "hi"}]}


def test_route_decides_one_call_a_line_in_order() -> None:
    done = waywiser("route", "--policy", POLICY, stdin=calls(*({**HI, "id": str(n)} for n in range(5))))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert set(rows[0]) == {
        "id", "kind", "kind_by", "tier", "model", "refused", "reasons", "classification", "decision_ms",
    }  # fmt: skip
    assert (rows[0]["kind"], rows[0]["tier"], rows[0]["refused"]) == ("synthesis", "standard", None)


def test_route_says_what_it_refuses(tmp_path: Path) -> None:
    policy = tmp_path / "strict.yaml"
    policy.write_text(
        Path(POLICY).read_text("utf-8")
        + "rules: [{when: {tag: '*'}, floor: economy}, {when: {node: x}, regions: [eu]}]\n"
    )
    done = waywiser("route", "--policy", str(policy), stdin=calls({**HI, "node": "x"}))
    row = json.loads(done.stdout)
    assert (done.returncode, row["refused"], row["model"]) == (1, "no_eligible_model", "")


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"{", "stdin:1: not JSON"),
        (b"[]\n", "stdin:1: expected a JSON object"),
        (b'{"id": "\xff"}\n', "stdin:1"),
        (calls(HI) + b"\n" + calls({"id": 2, "messages": []}), "stdin:3: messages: empty"),
        (calls({"id": 2}), "messages"),
        (calls({"messages": [{"role": "tool", "tool_call_id": "x", "content": "?"}]}), "messages[0].tool_call_id"),
        (calls({**HI, "tools": [{**TOOL, "function": {"name": "x", "parameters": []}}]}), "tools[0].function.param"),
        (calls({**HI, "tools": [TOOL, TOOL]}), "tools[1].function.name"),
        (calls({**HI, "session": 7}), "session: expected text"),
        (calls({**HI, "kind": "dance"}), "kind: 'dance' is none of"),
    ],
)  # fmt: skip
def test_bad_calls_are_told_with_their_place(stdin: bytes, says: str) -> None:
    done = waywiser("route", "--policy", POLICY, stdin=stdin)
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_what_came_before_a_bad_line_is_not_lost() -> None:
    done = waywiser("route", "--policy", POLICY, stdin=calls(HI) + b"{\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1)


def test_two_megabytes_and_lone_surrogates_are_routed() -> None:
    big = {"id": "big", "messages": [{"role": "user", "content": "word " * 400_000}]}
    odd = {"id": "odd", "messages": [{"role": "user", "content": "half \ud83d and no more"}]}
    done = waywiser("route", "--policy", POLICY, stdin=calls(big, HI, odd))
    assert b"Traceback" not in done.stderr
    first = json.loads(done.stdout.splitlines()[0])
    assert first["refused"] == "no_eligible_model" or first["model"]


def test_run_prints_answer_table_and_total(tmp_path: Path) -> None:
    store = str(tmp_path / "s.sqlite")
    text = "Where is my order #W10561? I am Farid Fontaine, zip code 53707."
    done = waywiser("run", REACT, "--policy", POLICY, "--store", store, "--input", text)
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert "[simulated]" in out
    assert "the same run on the top tier alone" in out
    hint = shlex.split(out.rpartition("waywiser explain ")[2])
    session = hint[0].removeprefix("session:")
    told = waywiser("explain", *hint)
    assert told.returncode == 0, told.stderr
    assert b"because" in told.stdout
    as_json = waywiser("explain", f"session:{session}", "--store", store, "--json")
    receipts = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert {receipt["session"] for receipt in receipts} == {session}
    one = waywiser("explain", receipts[0]["id"], "--store", store)
    assert receipts[0]["id"].encode() in one.stdout
    spent = waywiser("report", "--budgets", "--store", store, "--json")
    report = json.loads(spent.stdout)
    assert report["total"]["llm_calls"] == sum(len(receipt["attempts"]) for receipt in receipts)
    assert report["held"] == []
    assert waywiser("report", "--store", store).stdout.count(b"total") == 1


def test_run_takes_many_inputs_as_json(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_bytes(calls({"id": "a", "input": "Hello!"}, {"id": "b", "input": "Which tents do you sell?"}))
    store = str(tmp_path / "s.sqlite")
    done = waywiser("run", REACT, "--policy", POLICY, "--store", store, "--inputs", str(inputs), "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in rows] == ["a", "b"]
    assert all(row["simulated"] and row["total_usd"] <= row["top_tier_usd"] and row["answer"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", REACT, "--policy", POLICY, "--store", ":memory:", "--input", " "), "empty"),
        (("run", "nowhere.yaml", "--policy", POLICY, "--store", ":memory:", "--input", "x"), "nowhere.yaml"),
        (("run", "nowhere:graph", "--policy", POLICY, "--store", ":memory:", "--input", "x"), "no module"),
        (("check", "nowhere.yaml"), "no such file"),
        (("check", "agent.py"), "this is Python, not YAML"),
        (("train", "--data", "nowhere", "--out", "out"), "nowhere: no such folder"),
        (("explain", "abc", "--store", "nowhere.sqlite"), "no such store"),
        (("report", "--store", "nowhere.sqlite"), "no such store"),
        (("check", str(ROOT / "README.md")), "README.md"),
        (("check", POLICY, "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_bad_arguments_are_told(arguments: tuple[str, ...], says: str) -> None:
    done = waywiser(*arguments)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_missing_key_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GROQ_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = waywiser(
        "run", REACT, "--policy", str(ROOT / "policies/support-balanced.yaml"), "--store", ":memory:", "--input", "x"
    )
    assert done.returncode == 2
    assert "support-balanced.yaml:6:" in done.stderr.decode()
    assert "`GROQ_API_KEY` is not set" in done.stderr.decode()


def test_a_store_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and dear to somebody")
    done = waywiser("run", REACT, "--policy", POLICY, "--store", str(file), "--input", "x")
    assert done.returncode == 2
    assert str(file) in done.stderr.decode()
    assert file.read_text() == "not a database, and dear to somebody"


def test_check_as_json(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", POLICY, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["ok"] is True
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 1\nname: x\ntiers: {a: [simulated/economy], b: [nobody/home]}\n")
    assert main(["check", str(broken), "--json"]) == 2
    (error,) = json.loads(capfd.readouterr().out)["errors"]
    assert (error["line"], error["column"]) == (3, 37)


def test_check_a_graph(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", POLICY, str(ROOT / "graphs/support_desk.yaml"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    tiers = {node["name"]: node["tier"] for node in found["nodes"]}
    assert tiers == {"triage": "economy", "plan": "premium", "work/model": "economy", "answer": "standard"}
    assert found["most_calls"] == 16
    assert main(["check", POLICY, str(ROOT / "graphs/support_desk.yaml"), "--mermaid"]) == 0
    assert 'plan["plan<br/>premium"]:::t2' in capfd.readouterr().out


def test_init_writes_once_and_what_it_wrote_runs(tmp_path: Path) -> None:
    assert waywiser("init", str(tmp_path)).returncode == 0
    assert waywiser("init", str(tmp_path)).returncode == 2
    done = waywiser("run", "graph.yaml", "--policy", "policy.yaml", "--input", "Where is my order W1001?", cwd=tmp_path)
    assert b"arrives on Thursday" in done.stdout, done.stderr
    script = subprocess.run([sys.executable, "agent.py"], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert b"arrives on Thursday" in script.stdout, script.stderr


def test_models(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "haiku-4-5", "--provider", "anthropic", "--json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["anthropic/claude-haiku-4-5"]
    assert main(["models", "no-such-model"]) == 1


def test_the_graph_schema_in_the_repository_is_the_one_in_the_code() -> None:
    assert (ROOT / "graphs/schema.json").read_text("utf-8") == schema_text("graph")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise RuntimeError('no luck')\n", "can't be imported: RuntimeError: no luck (raiser.py:1)"),
        ("def oops(:\n", "can't be imported: SyntaxError"),
        ("import sys\nsys.exit(0)\n", "can't be imported: SystemExit"),
        ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind'"),
        ("def x():\n    raise KeyError('k')\n", "gives no tools: KeyError"),
    ],
)
def test_a_module_that_dies_is_told_with_its_place(module: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "raiser.py").write_text(module)
    graph = tmp_path / "g.yaml"
    graph.write_text('version: 1\nname: g\ntools: ["raiser:x"]\nnodes:\n  work: {type: work}\n')
    done = waywiser("run", str(graph), "--policy", POLICY, "--store", ":memory:", "--input", "x")
    assert done.returncode == 2, done.stdout
    assert says in done.stderr.decode()
    assert f"{graph}:3:" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_tool_that_dies_ends_the_run_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken_nodes.py").write_text("def fail(state):\n    raise KeyError('gone')\n")
    graph = tmp_path / "g.yaml"
    graph.write_text('version: 1\nname: g\nnodes:\n  do: {type: python, call: "broken_nodes:fail"}\n')
    done = waywiser("run", str(graph), "--policy", POLICY, "--store", ":memory:", "--input", "x")
    assert done.returncode == 1
    assert b"the graph failed: KeyError: 'gone' (broken_nodes.py:2)" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_run_that_only_got_a_notice_is_no_success(tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nname: p\ntiers: {only: [simulated/economy]}\nbudget: {session: {usd: 0}}\n")
    done = waywiser("run", REACT, "--policy", str(policy), "--store", ":memory:", "--input", "hello")
    assert done.returncode == 1
    assert b"limit of 0 USD" in done.stdout


def test_bad_inputs_are_read_before_anything_is_paid(tmp_path: Path) -> None:
    inputs, store = tmp_path / "in.jsonl", tmp_path / "s.sqlite"
    inputs.write_bytes(calls({"id": "a", "input": "Hello!"}, {"id": "b"}))
    done = waywiser("run", REACT, "--policy", POLICY, "--store", str(store), "--inputs", str(inputs))
    assert (done.returncode, done.stdout) == (2, b"")
    assert "in.jsonl:2: input" in done.stderr.decode()
    again = waywiser("run", REACT, "--policy", POLICY, "--inputs", str(inputs), "--session", "same")
    assert "--session goes with one --input" in again.stderr.decode()


def test_control_characters_are_shown_not_obeyed(tmp_path: Path) -> None:
    text = "Hello \x1b[31mred\x07"
    done = waywiser("run", REACT, "--policy", POLICY, "--store", ":memory:", "--input", text)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert b"\x07" not in done.stdout


def test_sigterm_settles_what_is_open(tmp_path: Path) -> None:
    (tmp_path / "slow_nodes.py").write_text(
        "import time\ndef wait(state):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    graph, store = tmp_path / "g.yaml", tmp_path / "s.sqlite"
    graph.write_text('version: 1\nname: g\nnodes:\n  do: {type: python, call: "slow_nodes:wait"}\n')
    command = [sys.executable, "-m", "waywiser.cli", "run", str(graph), "--policy", POLICY, "--store", str(store)]
    with subprocess.Popen([*command, "--input", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"ready" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode in {128 + signal.SIGTERM, -signal.SIGTERM}
    assert b"again to stop at once" in stderr
    assert b"Traceback" not in stderr
