"""Loop control on recorded sessions, fed step by step as it would be live, beside the rules others publish.

    python benchmarks/loops.py [--json] [--data FOLDER] [--half a|b] [--price-in 0.15 --price-out 0.60]

A session *truly loops* when one (tool, arguments, raw result) occurs at least four times with nothing new in between:
no word of the user, and no tool result that had not been there since the user last spoke (calls of one assistant turn
count once: they were decided at once). That is computed offline,
over the whole session, on raw strings, and knows nothing of the detector. Repetition 1 is the second occurrence.
The first repetition after which a rule fires is where it fires; what comes after is what a stop there would have saved.

Tokens are estimated as characters / 4; dollars at the given prices (default: a small model's, $ per million tokens).
`--half` takes the tasks whose name hashes to one half, to tune on one and report the other.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from waywiser.core.calls import Reply
from waywiser.core.loops import find_loop, said, seen
from waywiser.core.messages import Message, Role, Text, ToolCall
from waywiser.core.monologue import Monologue
from waywiser.core.policy import LoopControl
from waywiser.core.trail import StepRecord, Trail

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "trajectories"


@dataclass
class Session:
    source: str
    task: str
    success: bool
    scaffold: str
    messages: list[Message]


def load(folder: Path, half: str) -> Iterator[Session]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                row = json.loads(line)
                meta = row["meta"] or {}
                if meta.get("termination") == "agent_error":
                    continue
                task = f"{row['domain']}/{row['task_id']}"
                if half and (crc32(task.encode()) & 1) != (half == "b"):
                    continue
                scaffold = "mermaid" if "mermaid" in str(meta.get("run", "")) else ""
                messages = [convert(message) for message in row["messages"]]
                yield Session(path.name.split(".")[0], task, bool(row["success"]), scaffold, messages)


def convert(message: dict) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    parts = (Text(content),) if content else ()
    return Message(Role(message["role"]), parts, calls, message.get("tool_call_id") or "")


# --- what truly loops, offline ---------------------------------------------------------------------------------------


@dataclass
class Truth:
    """The calls of the session that are part of a true loop: position of each fruitless repetition, by first one."""

    loops: bool
    repetitions: list[int] = field(default_factory=list)  # message index of repetition 1, 2, 3, … of the first loop


def truth(session: Session) -> Truth:
    calls: dict[str, tuple[str, str]] = {}
    turns: dict[str, int] = {}
    runs: dict[tuple[str, str, str], list[int]] = {}
    known: set[tuple[str, str, str]] = set()
    found: list[int] = []
    for index, message in enumerate(session.messages):
        if message.role is Role.USER:
            runs, known = {}, set()
        for call in message.tool_calls:
            calls[call.id] = (call.name, call.arguments)
            turns[call.id] = index
        if message.role is Role.TOOL:
            key = (*calls.get(message.tool_call_id, ("", "")), message.text)
            if key not in known:
                runs = {}
                known.add(key)
            if not runs.get(key) or turns.get(message.tool_call_id, 0) > runs[key][-1]:
                runs.setdefault(key, []).append(index)
            if len(runs[key]) >= 4 and not found:
                found = runs[key]
    return Truth(bool(found), found[1:])


# --- the rules others publish, from their descriptions, for comparison only -------------------------------------------


@dataclass
class Event:
    """One event of the history as the published rules see it."""

    kind: str  # user, say, call
    what: str = ""
    result: str = ""
    error: bool = False


def events_of(messages: list[Message]) -> list[tuple[int, Event]]:
    """All events with the index of the message that completes them."""
    calls: dict[str, str] = {}
    events: list[tuple[int, Event]] = []
    for index, message in enumerate(messages):
        if message.role is Role.USER:
            events.append((index, Event("user", message.text)))
        elif message.role is Role.ASSISTANT:
            for call in message.tool_calls:
                calls[call.id] = f"{call.name} {call.arguments}"
            if not message.tool_calls:
                events.append((index, Event("say", message.text)))
        elif message.role is Role.TOOL:
            text = message.text
            events.append(
                (index, Event("call", calls.get(message.tool_call_id, ""), text, text[:5].lower() == "error"))
            )
    return events


def since_user(events: list[Event]) -> list[Event]:
    for index in range(len(events) - 1, -1, -1):
        if events[index].kind == "user":
            return events[index + 1 :]
    return events


def openhands(events: list[Event]) -> bool:
    """Action and observation x4, action and error x3, monologue x3, alternation over 6; last 20, since the user."""
    recent = since_user(events[-20:])
    calls = [event for event in recent if event.kind == "call"]
    last4 = calls[-4:]
    if len(last4) == 4 and len({(event.what, event.result) for event in last4}) == 1:
        return True
    last3 = calls[-3:]
    if len(last3) == 3 and len({event.what for event in last3}) == 1 and all(event.error for event in last3):
        return True
    says = recent[-3:]
    if len(says) == 3 and all(event.kind == "say" for event in says) and len({event.what for event in says}) == 1:
        return True
    last6 = [(event.what, event.result) for event in calls[-6:]]
    return len(last6) == 6 and last6[0] == last6[2] == last6[4] and last6[1] == last6[3] == last6[5]


def identical_calls(count: int) -> Callable[[list[Event]], bool]:
    def rule(events: list[Event]) -> bool:
        calls = [event.what for event in events if event.kind == "call"][-count:]
        return len(calls) == count and len(set(calls)) == 1

    return rule


def gemini_cli(events: list[Event]) -> bool:
    """The identical call x5, or a 50-character chunk of one answer x10."""
    if identical_calls(5)(events):
        return True
    if not events or events[-1].kind != "say":
        return False
    text = events[-1].what
    chunks = Counter(text[index : index + 50] for index in range(max(len(text) - 49, 0)))
    return max(chunks.values(), default=0) >= 10


def litellm_stall(events: list[Event]) -> bool:
    """The newest call repeats, or calls err, in 3 of the last 6."""
    calls = [event for event in events if event.kind == "call"][-6:]
    if not calls:
        return False
    return sum(event.what == calls[-1].what for event in calls) >= 3 or sum(event.error for event in calls) >= 3


PUBLISHED: dict[str, Callable[[list[Event]], bool]] = {
    "OpenHands": openhands,
    "gemini-cli": gemini_cli,
    "Cline (soft, 3)": identical_calls(3),
    "Cline (hard, 5)": identical_calls(5),
    "LiteLLM stall detector": litellm_stall,
}


# --- ours ------------------------------------------------------------------------------------------------------------


@dataclass
class Fired:
    index: int  # of the assistant turn that was about to be asked for
    what: str = ""


def ours(session: Session, control: LoopControl, cost_us: list[float] | None = None) -> Fired | None:
    trail = Trail()
    fired = None
    for index, message in enumerate(session.messages):
        if message.role is not Role.ASSISTANT:
            continue
        history = tuple(session.messages[:index])
        started = time.perf_counter_ns()
        saw = seen(history, trail, control)
        loop = find_loop(trail, saw, control)
        reply = said(Reply(message.parts, message.tool_calls))
        if cost_us is not None:
            cost_us.append((time.perf_counter_ns() - started) / 1000)
        if loop is not None and fired is None:
            fired = Fired(index, f"{loop.kind}: {loop.what}")
        trail = trail.appended(record_of(saw, reply, trail))
    return fired


def theirs(session: Session, rule: Callable[[list[Event]], bool]) -> Fired | None:
    events = events_of(session.messages)
    for index, message in enumerate(session.messages):
        if message.role is not Role.ASSISTANT:
            continue
        if rule([event for at, event in events if at < index]):
            return Fired(index)
    return None


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """What one rule did over all sessions."""

    sessions: Counter = field(default_factory=Counter)
    flagged: Counter = field(default_factory=Counter)
    true_loops: int = 0
    caught: int = 0
    at_repetition: list[int] = field(default_factory=list)
    saved_tokens: int = 0
    saved_usd: float = 0.0
    all_tokens: int = 0
    whats: Counter = field(default_factory=Counter)


def weigh(session: Session, start: int, price_in: float, price_out: float) -> tuple[int, float]:
    """Estimated tokens and dollars of the model calls from message `start` on."""
    sizes = [
        len(message.text) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        for message in session.messages
    ]
    tokens, usd, before = 0, 0.0, sum(sizes[:start])
    for index in range(start, len(sizes)):
        if session.messages[index].role is Role.ASSISTANT:
            tokens += (before + sizes[index]) // 4
            usd += (before * price_in + sizes[index] * price_out) / 4e6
        before += sizes[index]
    return tokens, usd


def mark(score: Score, session: Session, fired: Fired | None, real: Truth, prices: tuple[float, float]) -> None:
    group = "success" if session.success else "failure"
    groups = [group, f"{session.source} {group}"] + ([f"mermaid {group}"] if session.scaffold else [])
    score.sessions.update(groups)
    if real.loops:
        score.true_loops += 1
    if fired is None:
        return
    score.flagged.update(groups)
    if session.success:
        score.whats[f"{session.source} {session.task}: {fired.what}"] += 1
    elif not real.loops:
        score.whats[f"(failed, no true loop) {fired.what.split(':')[0]}"] += 1
    if real.loops:
        score.caught += 1
        score.at_repetition.append(sum(index < fired.index for index in real.repetitions))
    if not session.success:
        tokens, usd = weigh(session, fired.index, *prices)
        score.saved_tokens += tokens
        score.saved_usd += usd


def summary(score: Score) -> dict:
    successes = score.sessions["success"]
    return {
        "successful_sessions": successes,
        "successful_flagged": score.flagged["success"],
        "successful_flagged_share": score.flagged["success"] / max(successes, 1),
        "failed_flagged_share": score.flagged["failure"] / max(score.sessions["failure"], 1),
        "mermaid_successful": score.sessions["mermaid success"],
        "mermaid_successful_flagged": score.flagged["mermaid success"],
        "true_loops": score.true_loops,
        "caught": score.caught,
        "caught_share": score.caught / max(score.true_loops, 1),
        "median_repetition": statistics.median(score.at_repetition) if score.at_repetition else None,
        "latest_repetition": max(score.at_repetition, default=None),
        "saved_tokens": score.saved_tokens,
        "saved_usd": round(score.saved_usd, 4),
        "by_source": {
            name: {"sessions": count, "flagged": score.flagged[name]}
            for name, count in sorted(score.sessions.items())
            if " " in name
        },
    }


def trail_cost(steps: int = 500, rounds: int = 300) -> dict:
    """Cost of one step after `steps` steps: of a working agent, and of one in a cycle of three calls.

    `find_us` is the search alone, `seen_and_find_us` with the digests of what is new, `with_reply_us` (the median of
    the last 100 live steps, caches cold) with those of the reply. `records_kept` is what the trail holds by then.
    """
    out = {}
    for name, result in (
        ("working", "result {index} of the search, and more text about it" * 4),
        ("cycling", "nothing"),
    ):
        control = LoopControl(after=10_000)
        messages = [Message(Role.USER, (Text("go"),))]
        for index in range(steps):
            call = ToolCall(f"c{index}", f"tool{index % 3}", json.dumps({"q": index % 3, "page": 1}))
            messages.append(Message(Role.ASSISTANT, (), (call,)))
            text = result.replace("{index}", str(index))
            messages.append(Message(Role.TOOL, (Text(text),), tool_call_id=call.id))
        trail, history, costs = Trail(), tuple(messages), []
        for index, message in enumerate(history):
            if message.role is Role.ASSISTANT:
                before = history[:index]
                started = time.perf_counter_ns()
                saw = seen(before, trail, control)
                find_loop(trail, saw, control)
                reply = said(Reply(message.parts, message.tool_calls))
                costs.append((time.perf_counter_ns() - started) / 1000)
                trail = trail.appended(record_of(saw, reply, trail))
        saw = seen(history, trail, control)
        both, find = [], []
        for _ in range(rounds):
            started = time.perf_counter_ns()
            seen(history, trail, control)
            middle = time.perf_counter_ns()
            find_loop(trail, saw, control)
            find.append((time.perf_counter_ns() - middle) / 1000)
            both.append((time.perf_counter_ns() - started) / 1000)
        out[name] = {
            "find_us": round(statistics.median(find), 2),
            "seen_and_find_us": round(statistics.median(both), 2),
            "with_reply_us": round(statistics.median(costs[-100:]), 2),
            "records_kept": len(trail.steps),
        }
    return out


def record_of(saw, reply, trail: Trail) -> StepRecord:
    return StepRecord(
        number=trail.count + 1,
        at_s=0.0,
        kind="",
        tier="",
        model="",
        human=saw.human,
        results=saw.results,
        text=reply.text,
        text_simhash=reply.text_simhash,
        calls=reply.calls,
        length=saw.length,
        place=saw.place,
        spoke=saw.spoke,
        heard=saw.heard,
        since=saw.since,
    )


def monologues(sessions: list[Session]) -> dict:
    """How many recorded assistant texts the streaming detector would have cut, fed in pieces of 7 characters."""
    texts = cut = 0
    for session in sessions:
        for message in session.messages:
            if message.role is Role.ASSISTANT and message.text:
                texts += 1
                watch = Monologue()
                cut += any(watch.feed(message.text[at : at + 7]) for at in range(0, len(message.text), 7))
    return {"texts": texts, "cut": cut}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--half", choices=("a", "b"), default="")
    parser.add_argument("--after", type=int, default=3)
    parser.add_argument("--navigation", default="", help="comma-separated tools a policy would name")
    parser.add_argument("--price-in", type=float, default=0.15)
    parser.add_argument("--price-out", type=float, default=0.60)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"no recorded sessions at {options.data}")
    control = LoopControl(options.after, navigation=frozenset(filter(None, options.navigation.split(","))))
    prices = (options.price_in, options.price_out)
    sessions = list(load(options.data, options.half))
    truths = [truth(session) for session in sessions]
    costs: list[float] = []
    scores = {"waywiser": Score(), **{name: Score() for name in PUBLISHED}}
    for session, real in zip(sessions, truths, strict=True):
        mark(scores["waywiser"], session, ours(session, control, costs), real, prices)
        for name, rule in PUBLISHED.items():
            mark(scores[name], session, theirs(session, rule), real, prices)
    report = {
        "sessions": len(sessions),
        "rules": {name: summary(score) for name, score in scores.items()},
        "true_loops_by_source": Counter(s.source for s, t in zip(sessions, truths, strict=True) if t.loops),
        "false_alarms": dict(scores["waywiser"].whats),
        "cost": {"recorded_step_us": round(statistics.median(costs), 2), **trail_cost()},
        "monologue": monologues(sessions),
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{len(sessions)} recorded sessions\n")
    print(
        f"{'rule':24} {'good flagged':>14} {'mermaid':>9} {'failed':>7} {'true loops':>12} {'at rep.':>8} {'saved':>16}"
    )
    for name, row in report["rules"].items():
        good = f"{row['successful_flagged']} ({row['successful_flagged_share']:.2%})"
        mermaid = f"{row['mermaid_successful_flagged']}/{row['mermaid_successful']}"
        caught = f"{row['caught']}/{row['true_loops']}"
        saved = f"{row['saved_tokens'] // 1000}k ${row['saved_usd']:.2f}"
        median = row["median_repetition"]
        failed = f"{row['failed_flagged_share']:.1%}"
        print(f"{name:24} {good:>14} {mermaid:>9} {failed:>7} {caught:>12} {median!s:>8} {saved:>16}")
    print("\nfalse alarms and flags of failed sessions without a true loop:")
    for what, count in sorted(report["false_alarms"].items(), key=lambda item: -item[1]):
        print(f"  {count:4} {what}")
    print("\ncost (us):", json.dumps(report["cost"]))
    print("streamed texts cut:", report["monologue"])


if __name__ == "__main__":
    main()
