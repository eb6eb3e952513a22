"""Training the prompt heads: reproducible to the byte, honest about what it lacks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from waywiser.classifier.corpus import Example, read
from waywiser.classifier.fit import bulk, calibrate_sigmoid, calibration_error, crossed
from waywiser.classifier.heads import save
from waywiser.classifier.lexicon import concepts, lone_words, written
from waywiser.classifier.text import BUCKETS, WORD_BUCKETS
from waywiser.classifier.train import fit_timely, train
from waywiser.core.classification import TASKS
from waywiser.errors import ConfigError

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [row for row in written(0) if row.timely is not None][::6]
    for name in ("one", "two"):
        part = fit_timely(rows, 0)
        save(tmp_path / f"{name}.npz", {"w": part.margins.weights, "s": part.slope, "o": part.offset})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_written_prompts_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert written(1) == written(1)
    assert written(1) != written(2)


@pytest.mark.parametrize("name", ["time_sensitive.jsonl", "self_harm.jsonl"])
def test_the_prompts_of_the_benchmarks_are_not_in_the_training_set(name: str) -> None:
    with (BENCHMARKS / "data" / name).open(encoding="utf-8") as lines:
        asked = [json.loads(line)["text"] for line in lines]
    texts = sorted({row.text for row in written(0)})
    grams = bulk([Example(text, "s") for text in (*asked, *texts)]).matrix[:, WORD_BUCKETS:BUCKETS] > 0
    shared = (grams[: len(asked)].astype(np.float32) @ grams[len(asked) :].astype(np.float32).T).toarray()
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    alike = shared / (sizes[: len(asked), None] + sizes[None, len(asked) :] - shared)
    assert alike.max() < 0.7, (asked[int(alike.max(axis=1).argmax())], texts[int(alike.max(axis=0).argmax())])


def test_written_tasks_are_filled_with_passages_and_programs() -> None:
    rows = [row for row in written(0) if row.source == "written:task"]
    assert {row.task for row in rows} == set(TASKS)
    assert not [row.text for row in rows if "<passage>" in row.text or "<code>" in row.text or "{a|" in row.text]
    assert any("\n" in row.text and len(row.text) > 800 for row in rows)
    assert all(0 < row.weight < 1 for row in rows)


def test_lone_words_are_no_risk_unless_a_concept_knows_them() -> None:
    texts = ["My invoice and the umbrella", "The invoice, an umbrella and suicide", "umbrella suicide invoice weather"]
    rows = {row.text: row for row in lone_words([Example(text, "s") for text in 2 * texts], 0)}
    assert rows["umbrella"].risk == ()
    assert rows["umbrella"].timely is False
    assert rows["suicide"].risk is None


def test_sums_that_ask_for_a_program_are_believed_little(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    table = [
        {"prompt": "Write a python program for the sum", "subcategory": "math"},
        {"prompt": "How large is the angle?", "subcategory": "math"},
        {"prompt": "Centre it", "subcategory": "coding"},
        {"prompt": "Scrape it", "subcategory": None, "cluster": "Python Web Scraping"},
        {"prompt": "Hm", "subcategory": None, "cluster": "Chess Strategy"},
    ]
    with gzip.open(tmp_path / "prompts" / "arena_hard.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.write("\n".join(map(json.dumps, table)))
    rows = read(tmp_path, 0)
    assert [row.task for row in rows] == ["maths", "maths", "code", "code", ""]
    assert rows[0].weight < rows[1].weight == rows[2].weight == 1


def test_a_section_that_is_no_label_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("risk_prompts.txt", "timely_prompts.txt", "fillers.txt", "task_prompts.txt"):
        (tmp_path / name).write_text("[cooking]\nBoil an egg\n" if name == "task_prompts.txt" else "", encoding="utf-8")
    monkeypatch.setattr("waywiser.classifier.lexicon._FOLDER", tmp_path)
    with pytest.raises(ConfigError, match="cooking"):
        written(0)


def test_near_duplicates_and_rows_of_a_template_share_a_fold() -> None:
    rows = [
        Example("Please write a long story about the old lighthouse keeper and his black cat, number 1", "s"),
        Example("Please write a long story about the old lighthouse keeper and his black cat, number 2", "s"),
        Example("Compare heat pumps with gas boilers", "s", template="t"),
        Example("Was ist ein Elektron?", "s", template="t"),
        Example("Which rivers run through Vienna?", "s"),
    ]
    groups = bulk(rows).groups
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups.tolist())) == 3


def test_margins_of_a_fold_come_from_a_fit_that_did_not_see_it() -> None:
    # Words of their own: nothing learned from other rows can tell them apart, so held-out margins cannot be right.
    rows = [Example(f"{'abcdefghij'[n % 10]}{n}x{n * 7919 % 9973}", "s") for n in range(60)]
    truth = np.random.default_rng(0).random((60, 1)) < 0.5
    features = bulk(rows)
    margins = crossed(features.matrix, truth, np.arange(60) % 3, 1.0, 0)
    assert ((margins[:, 0] > 0) == truth[:, 0]).mean() < 0.75


def test_calibration_turns_margins_into_frequencies() -> None:
    chance = np.random.default_rng(0)
    margins = chance.normal(size=4000)
    truth = chance.random(4000) < 1 / (1 + np.exp(-3 * margins))
    slope, offset = calibrate_sigmoid(margins, truth)
    said = 1 / (1 + np.exp(-(slope * margins + offset)))
    assert calibration_error(np.maximum(said, 1 - said), (said > 0.5) == truth) < 0.03


def test_every_concept_has_words_of_many_languages() -> None:
    known = concepts()
    assert len(known.names) <= 64
    counts = [(known.masks & np.uint64(1 << bit) != 0).sum() for bit in range(len(known.names))]
    assert min(counts) > 30


def test_no_labelled_rows_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="difficulty"):
        train(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mgsm.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="mgsm"):
        read(tmp_path, 0)


def test_a_passage_does_not_give_the_category_away(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    table = [
        {"instruction": f"instruction {n}", "context": f"passage {n}" if n % 2 else "", "category": category}
        for n, category in enumerate(["open_qa", "closed_qa"] * 300)
    ]
    with gzip.open(tmp_path / "prompts" / "dolly15k.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.write("\n".join(map(json.dumps, table)))
    texts = [row.text for row in read(tmp_path, 0)]
    assert any("passage" in text for text in texts[::2])
    assert any("passage" not in text for text in texts[1::2])
    assert any(text.startswith("passage") for text in texts)
    assert any(text.startswith("instruction") and "passage" in text for text in texts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled sets are not here")
def test_the_public_sets_are_read_and_mapped() -> None:
    examples = read(SHARED, 0)
    assert {row.task for row in examples} >= {"chat", "code", "maths", "extraction", "translation", "tool_use"}
    assert {row.task for row in examples if row.source == "arena_hard"} == {"", "code", "maths", "creative"}
    assert {row.difficulty for row in examples} == {"", "simple", "medium", "complex", "reasoning"}
    assert examples == read(SHARED, 0)
