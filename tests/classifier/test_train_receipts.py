"""Correcting the sufficiency head by receipts of one's own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from waywiser.classifier.classifier import WEIGHTS, LocalClassifier
from waywiser.classifier.train_receipts import Outcome, read_outcomes, recalibrate
from waywiser.cli import main
from waywiser.core.calls import Tool
from waywiser.core.messages import user
from waywiser.errors import BadInput

TIERS = ("economy", "standard", "premium")


def receipt(session: int, tier: str, failed: str = "", **more: object) -> str:
    attempts = [{"tier": failed, "failure": "not_accepted"}] if failed else []
    row = {
        "session": f"s{session}",
        "classification": {"sufficiency": [0.9, 0.95, 0.99]},
        "attempts": [*attempts, {"tier": tier, "failure": ""}],
        **more,
    }
    return json.dumps(row)


def too_sure(seed: int, share: float, rows: int = 300) -> list[Outcome]:
    chance = random.Random(seed)
    return [Outcome(f"s{row // 3}", 0.9, chance.random() < share) for row in range(rows)]


def test_an_escalation_says_that_the_tier_was_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    down = json.dumps({"attempts": [{"tier": "economy", "failure": "timeout"}], "classification": None})
    path.write_text("\n".join([receipt(1, "standard", failed="economy"), down, receipt(2, "economy", enough=False)]))
    found = read_outcomes(path, TIERS)
    assert [(one.session, one.chance, one.enough) for one in found] == [
        ("s1", 0.9, False),
        ("s1", 0.95, True),
        ("s2", 0.9, False),
    ]


def test_the_top_tier_teaches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    path.write_text(receipt(1, "premium"))
    assert read_outcomes(path, TIERS) == []


@pytest.mark.parametrize("line", ["{", "[1]", receipt(1, "platinum")])
def test_bad_lines_are_named_by_their_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "receipts.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(BadInput, match=r"receipts\.jsonl:2"):
        read_outcomes(path, TIERS)


def test_too_sure_a_head_is_believed_less_and_a_right_one_is_left_alone() -> None:
    learned = recalibrate(too_sure(0, 0.5), 0)
    assert learned.kept
    corrected = learned.slope * 2.197 + learned.offset
    assert abs(corrected) < 0.4  # a belief of 0.9 that holds half of the time
    assert not recalibrate(too_sure(1, 0.9, 60), 0).kept or abs(recalibrate(too_sure(1, 0.9, 60), 0).offset) < 0.3


def test_too_few_outcomes_are_refused() -> None:
    with pytest.raises(BadInput, match="at least"):
        recalibrate(too_sure(0, 0.5, 12), 0)


def test_the_command_writes_weights_that_judge_more_carefully(tmp_path: Path) -> None:
    path, out = tmp_path / "receipts.jsonl", tmp_path / "weights"
    lines = [
        receipt(row // 2, "standard", failed="economy") if row % 2 else receipt(row // 2, "economy")
        for row in range(200)
    ]
    path.write_text("\n".join(lines))
    assert main(["train", "--receipts", str(path), "--out", str(out)]) == 0
    history, tools = (user("Where is my parcel P123456?"),), (Tool("get_parcel"),)
    before = LocalClassifier().classify(history, tools, 3).sufficiency
    after = LocalClassifier(out).classify(history, tools, 3).sufficiency
    assert after[0] < before[0]
    assert list(after) == sorted(after)
    assert after[-1] == before[-1]
    assert (out / "MODEL_CARD.md").read_text().startswith((WEIGHTS / "MODEL_CARD.md").read_text())


def test_receipts_that_cannot_be_used_are_an_error_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "receipts.jsonl"
    path.write_text(receipt(1, "economy"))
    assert main(["train", "--receipts", str(path), "--out", str(tmp_path)]) == 2
    assert "at least 30" in capsys.readouterr().err
