"""What it costs to let steps of unsure kind reveal themselves, beside an oracle that knew, over recorded sessions.

    python benchmarks/reveal.py [--sessions 200] [--json]

Replays recorded sessions (`../shared/data/trajectories`) through the real pipeline twice: under a policy with `reveal`, where
the kind of each step has to be found out, and under the same policy with the true kind declared (the recorded reply
tells: a tool call, or text). One kind lives on a cheap tier, the other on a dear one; both ways round. Counts how many
steps ended on the tier of their true kind, and what all of it cost, dropped streams and cold prefixes included. For
comparison, the same without reveal: the guess of shape and learned head alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import replace
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared/data/trajectories"
FILES = ("tau2_retail_multimodel", "tau_bench_gpt4o_airline")
POLICY = """
version: 1
name: reveal
tiers:
  economy: [openai/gpt-5-nano]
  premium: [anthropic/claude-haiku-4-5]
steps:
  tool_call: {{tier: {tool_call}}}
  synthesis: {{tier: {synthesis}}}
{reveal}
switching: {{min_saving: 0%}}
"""
WAYS = {"answers dear": ("economy", "premium"), "tool calls dear": ("premium", "economy")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200, help="of each file, spread over it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not there")
        return
    from waywiser.config.source import Source
    from waywiser.replay.recording import Session
    from waywiser.replay.simulate import replay
    from waywiser.replay.trajectories import read_trajectory
    from waywiser.runtime import LazyClassifier, load

    def policy(way: str, reveal: str) -> object:
        tool_call, synthesis = WAYS[way]
        text = POLICY.format(tool_call=tool_call, synthesis=synthesis, reveal=reveal)
        return load(Source.parse(text, "reveal.yaml")).policy

    def true_kind(call: object) -> str:
        return "tool_call" if call.reply.tool_calls else "synthesis"

    def knowing(session: Session) -> Session:
        calls = tuple(replace(call, origin=replace(call.origin, kind=true_kind(call))) for call in session.calls)
        return replace(session, calls=calls)

    classifier = LazyClassifier()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name in FILES:
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as stream:
            lines = stream.readlines()
        for number, line in enumerate(lines[:: max(len(lines) // args.sessions, 1)][: args.sessions]):
            session = read_trajectory(json.loads(line), f"{name}:{number}")
            if not isinstance(session, Session):
                continue
            truth = [true_kind(call) for call in session.calls]
            for way, (tool_call, synthesis) in WAYS.items():
                tiers = [tool_call if kind == "tool_call" else synthesis for kind in truth]
                runs = {
                    "oracle": replay(knowing(session), policy(way, ""), classifier, decisions=True),
                    "reveal": replay(session, policy(way, "reveal: {below: 100%}"), classifier, decisions=True),
                    "guess": replay(session, policy(way, ""), classifier, decisions=True),
                }
                for how, result in runs.items():
                    row = figures.setdefault(name, {}).setdefault(f"{way}, {how}", {"steps": 0, "right": 0, "usd": 0.0})
                    row["steps"] += len(truth)
                    row["right"] += sum(
                        decision.tier == tier for decision, tier in zip(result.decisions, tiers, strict=True)
                    )
                    row["usd"] += result.cost_nanos / 1e9
                    row["revealed"] = row.get("revealed", 0) + result.reveals
    for rows in figures.values():
        for key, row in rows.items():
            row["right_share"] = row["right"] / row["steps"]
            row["over_oracle"] = row["usd"] / rows[f"{key.split(', ')[0]}, oracle"]["usd"] - 1
    if args.json:
        print(json.dumps(figures))
        return
    for name, rows in figures.items():
        print(f"\n{name}")
        for key, row in rows.items():
            print(
                f"  {key:<26} {row['steps']:>6.0f} steps, on their tier {row['right_share']:7.2%}, "
                f"{row['usd']:8.3f} USD, {row['over_oracle']:+.1%} over the oracle, {row['revealed']:.0f} dropped"
            )


if __name__ == "__main__":
    main()
