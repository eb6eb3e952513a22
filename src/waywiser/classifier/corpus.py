"""Labelled prompts for training: the public sets a data folder holds, each mapped to the words of the heads.

Training only. Every row becomes an `Example` that says what its source teaches and is silent about the rest. What a
set does not settle is left out rather than guessed: the map of a label to a task is one table below each reader.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from waywiser.errors import ConfigError, Place, Problem


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt. An empty `task` or `difficulty`, `risk` None or `timely` None: this source doesn't say.

    Rows made from one `template` never part in a split. `weight` is how much a fit should believe the row.
    """

    text: str
    source: str
    task: str = ""
    difficulty: str = ""
    risk: tuple[str, ...] | None = None
    timely: bool | None = None
    language: str = "en"
    template: str = ""
    weight: float = 1.0


WRITTEN_TASK = "written:task"
"""The source of prompts whose request is written by the authors: trained on, and not counted."""

SENTENCES = "lingua"
"""The source of sentences that are no request at all."""


def rows(path: Path) -> list[dict[str, object]]:
    """Read gzip JSON lines; a missing file is an empty set, a broken one a `ConfigError`."""
    if not path.exists():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(Problem(Place(str(path)), f"not gzip JSON lines ({error})")) from None


def read(data: Path, seed: int) -> list[Example]:
    """Read every known set below `data`, in a fixed order; `seed` decides only how passages are joined."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible shuffle, nothing secret
    prompts = data / "prompts"
    return [
        *_uncommonroute(prompts),
        *_dolly(prompts, chance),
        *_llmrouter(prompts),
        *_clinc(prompts),
        *_banking(prompts),
        *_medquad(prompts),
        *_mgsm(prompts),
        *_self_instruct(prompts, chance),
        *_arena(prompts),
        *_mmlu(data / "correctness"),
        *_lingua(data / "language"),
    ]


_UNCOMMONROUTE = {
    "factual-qa": "question",
    "definition": "question",
    "explanation": "question",
    "comparison": "question",
    "code-snippet-qa": "code",
    "simple-code": "code",
    "complex-code": "code",
    "code-review": "code",
    "debugging": "code",
    "testing": "code",
    "formal-proof": "reasoning",
    "algorithm-proof": "reasoning",
    "game-theory": "reasoning",
    "formal-logic": "reasoning",
    "logic-puzzle": "reasoning",
    "math-derivation": "maths",
    "math-word-problem": "maths",
    "summary": "summarisation",
    "translation": "translation",
    "greeting": "chat",
    "extraction": "extraction",
    "classification": "classification",
    "creative": "creative",
    "brainstorming": "creative",
}


def _uncommonroute(folder: Path) -> Iterator[Example]:
    """Difficulty of hand-written prompts. Designs and plans are none of the tasks: they teach difficulty only."""
    for row in rows(folder / "uncommonroute.jsonl.gz"):
        yield Example(
            str(row["prompt"]),
            "uncommonroute",
            task=_UNCOMMONROUTE.get(str(row["category"]), ""),
            difficulty=str(row["expected_tier"]).lower(),
            language=str(row["lang"]),
        )


_DOLLY = {
    "open_qa": "question",
    "general_qa": "question",
    "closed_qa": "question",
    "information_extraction": "extraction",
    "summarization": "summarisation",
    "classification": "classification",
    "creative_writing": "creative",
    "brainstorming": "creative",
}
_JOINS = ("{0}\n\n{1}", "{1}\n\n{0}", "{0}\n{1}", "{1}\n{0}", "{0} {1}", 'Text: "{1}"\n\n{0}', "{0}\n\n###\n{1}\n###")


def joined(instruction: str, passage: str, chance: random.Random) -> str:
    """Join an instruction and its passage in one of several ways; long passages are cut at a random length."""
    return chance.choice(_JOINS).format(instruction.strip(), passage.strip()[: chance.choice((300, 700, 1500, 4000))])


def _dolly(folder: Path, chance: random.Random) -> Iterator[Example]:
    """Read Dolly. Passages come with three categories only: drop some, and give strangers' passages to the others."""
    table = rows(folder / "dolly15k.jsonl.gz")
    passages = [str(row["context"]) for row in table if row.get("context")]
    for row in table:
        category, instruction, passage = (str(row.get(key) or "") for key in ("category", "instruction", "context"))
        if not passage and passages and chance.random() < 0.15:
            passage = chance.choice(passages)
        keep = passage and chance.random() < 0.95
        yield Example(joined(instruction, passage, chance) if keep else instruction, "dolly", task=_DOLLY[category])


_LLMROUTER = {
    "agentverse-logicgrid": "reasoning",
    "gsm8k": "maths",
    "agentverse-mgsm": "maths",
    "math": "maths",
    "mbpp": "code",
    "human_eval": "code",
    "commongen": "creative",
}


def _llmrouter(folder: Path) -> Iterator[Example]:
    """Read queries of fourteen benchmarks; those that ask for a fact are questions. GPQA and MMLU mix: not settled."""
    for row in rows(folder / "llmrouter_queries.jsonl.gz"):
        name = str(row["task_name"])
        task = "" if name in ("gpqa", "mmlu") else _LLMROUTER.get(name, "question")
        yield Example(str(row["query"]), "llmrouter:" + name, task=task)


_CLINC = {
    "translate": "translation",
    "calculator": "maths",
    "definition": "question",
    **dict.fromkeys(("yes", "no", "maybe", "cancel", "repeat"), "chat"),
    **dict.fromkeys(
        (
            "ingredient_substitution", "ingredients_list", "cook_time", "food_last", "nutrition_info", "calories",
            "recipe", "plug_type", "vaccines", "international_visa", "carry_on", "oil_change_how", "jump_start",
            "tire_change", "improve_credit_score", "gas_type", "spelling", "travel_suggestion", "meal_suggestion",
            "restaurant_reviews", "travel_alert", "timezone", "measurement_conversion", "exchange_rate",
        ),
        "",
    ),
}  # fmt: skip
CLINC_TIMELY = frozenset(
    ("weather", "exchange_rate", "traffic", "flight_status", "travel_alert", "how_busy", "next_holiday")
)
_CLINC_MONEY = frozenset(
    ("taxes", "w2", "rollover_401k", "direct_deposit", "income", "insurance", "insurance_change", "payday")
)
_CLINC_UNSURE = frozenset(("date", "time", "gas", "directions", "distance", "travel_suggestion", "order_status"))


def _clinc(folder: Path) -> Iterator[Example]:
    """Commands and small talk to an assistant. What an assistant must look up or do is tool use."""
    for row in rows(folder / "clinc150_train.jsonl.gz"):
        label, domain = str(row["label"]), str(row["domain"])
        money = domain in ("banking", "credit_cards")
        yield Example(
            str(row["text"]),
            f"clinc:{domain}",
            task=_CLINC.get(label, "chat" if domain == "small_talk" else "tool_use"),
            risk=("financial",) if money else None if label in _CLINC_MONEY | {"vaccines"} else (),
            timely=None if label in _CLINC_UNSURE else label in CLINC_TIMELY,
        )


def _banking(folder: Path) -> Iterator[Example]:
    """Customers of a bank: a financial matter each, and something only the bank's systems can settle."""
    for row in rows(folder / "banking77_train.jsonl.gz"):
        timely = None if row["label"] in ("exchange_rate", "exchange_charge") else False
        yield Example(str(row["text"]), "banking77", task="tool_use", risk=("financial",), timely=timely)


def _medquad(folder: Path) -> Iterator[Example]:
    """Questions of patients."""
    for row in rows(folder / "medquad_sample.jsonl.gz"):
        yield Example(str(row["question"]), "medquad", task="question", risk=("medical",), timely=False)


def _mgsm(folder: Path) -> Iterator[Example]:
    """School sums in eleven languages: none is a matter of risk, whatever it says of money or pills."""
    for row in rows(folder / "mgsm.jsonl.gz"):
        language = str(row["lang"])
        yield Example(str(row["question"]), "mgsm", task="maths", risk=(), timely=False, language=language, weight=0.5)


_SELF_INSTRUCT = {
    "code": (
        "write_comments_in_python", "complete_python_code", "regular_expression_generation", "text_to_sql",
        "python_code_generation", "python_sorting", "code_for_bitcoin_price", "python_leetcode",
    ),
    "maths": ("solving_equation", "math_word_problem_with_reasoning", "word_math_with_algebra"),
    "creative": (
        "english_haiku_generation", "horror_movie_opening", "story_composition", "joke_about_phd", "new_ice_cream",
        "complete_the_lyrics", "question-answer_jokes", "dad_joke_intensified", "metaphor_for_a_situation",
        "paper_title_generation", "refuse_invitation_email", "decline_a_job_offer_email", "recommendation_letter",
        "writing_article_from_outline", "workout_motivation", "complete_paragraph", "fact_to_conversation",
    ),
    "extraction": ("extract_country_names", "place_extraction"),
    "summarisation": ("summarizing_news", "paper_summarization"),
    "translation": ("dialect_translation",),
    "question": ("question_answering", "word_definition", "national_dishes", "explain_like_i_am_5"),
}  # fmt: skip


def _self_instruct(folder: Path, chance: random.Random) -> Iterator[Example]:
    """Instructions for many applications: those marked as classification, and those whose name settles their task."""
    named = {name: task for task, names in _SELF_INSTRUCT.items() for name in names}
    for row in rows(folder / "self_instruct.jsonl.gz"):
        instances = row.get("instances")
        first = str(instances[0].get("input") or "") if isinstance(instances, list) and instances else ""
        text = joined(str(row["instruction"]), first, chance) if first else str(row["instruction"])
        marked = row.get("is_classification") in (True, "True")
        task = "classification" if marked else named.get(str(row.get("name")), "")
        yield Example(text, "self_instruct", task=task)


_ARENA = {"coding": "code", "math": "maths", "creative_writing": "creative"}
# Of the older rows only the cluster is known; these words in its name settle the task.
_ARENA_CLUSTERS = {
    "code": re.compile(
        r"Python|TypeScript|JavaScript|Node\.js|C\+\+|Rust|Kotlin|PHP|Laravel|Django|Flask|React |Next\.js|PyTorch|CUDA"
        r"|Regex|VBA|SQL|Docker|Kubernetes|NixOS|Cron|FFmpeg|Code |Coding|Scripting|Scripts|Web Scraping|Web Dev"
        r"|Android Dev|Browser Extensions|Discord Bot|Streamlit|Tkinter|Shiny|Tidyverse|HLSL|Monads|Symfony|Odoo|JAX"
        r"|Sockets|Mocking|Reverse Engineering|Assembly|Random Number Tech|Swift|Linux Package|VB6"
    ),
    "maths": re.compile(
        r"Algebra|Mathemati|Math |Probability|Triangle|Standard Deviation|Investment Growth C|Train Time|Real Analysis"
        r"|Sample Size|Ticket Pricing|Circular Motion"
    ),
}


_PROGRAM = re.compile(
    r"```|\bdef \w+\(|\bimport \w|#include|\breturn\b.*;|\w\(\)|[{};]\s*\n|time limit|memory limit|函数|代码|编程"
    r"|\b(python|java|javascript|c\+\+|matlab|haskell|sql|pandas|function|array|program|code|script|algorithm)\b",
    re.IGNORECASE,
)
_DOUBTED = 0.2


def _arena(folder: Path) -> Iterator[Example]:
    """Hard prompts of real users, long and untidy as they come.

    A model labelled them, and many of its sums ask for a program: such a row keeps its label and is believed little.
    """
    for row in rows(folder / "arena_hard.jsonl.gz"):
        cluster, text = str(row.get("cluster") or ""), str(row["prompt"])
        found = [task for task, words in _ARENA_CLUSTERS.items() if words.search(cluster)]
        task = _ARENA.get(str(row.get("subcategory")), found[0] if found else "")
        doubted = task == "maths" and _PROGRAM.search(text) is not None
        yield Example(text, "arena_hard", task=task, weight=_DOUBTED if doubted else 1.0)


_MMLU_RISK = {
    **dict.fromkeys(("clinical_knowledge", "college_medicine", "professional_medicine", "anatomy"), "medical"),
    **dict.fromkeys(("medical_genetics", "virology", "nutrition"), "medical"),
    **dict.fromkeys(("international_law", "jurisprudence", "professional_law"), "legal"),
    **dict.fromkeys(("professional_accounting",), "financial"),
}
_MMLU_UNSURE = frozenset(
    (
        "business_ethics", "econometrics", "high_school_macroeconomics", "high_school_microeconomics", "human_aging",
        "human_sexuality", "management", "marketing", "college_biology", "high_school_biology",
        "high_school_psychology", "professional_psychology", "security_studies", "us_foreign_policy",
        "high_school_government_and_politics", "high_school_us_history", "computer_security", "miscellaneous",
    )
)  # fmt: skip


def _mmlu(folder: Path) -> Iterator[Example]:
    """Exam questions by subject: some subjects are a risk, some surely none, some may be either."""
    for row in rows(folder / "routellm_mmlu.jsonl.gz"):
        subject, text = str(row["subject"]), str(row["prompt"])
        stem = text.split("\nA. ", maxsplit=1)[0]
        found = _MMLU_RISK.get(subject)
        risk = (found,) if found else None if subject in _MMLU_UNSURE else ()
        # Half of the rows lose their lettered choices: people ask without them.
        kept = stem if len(stem) % 2 else text.removesuffix("\nAnswer:")
        yield Example(
            kept, f"mmlu:{subject}", task="maths" if "mathematics" in subject else "", risk=risk, timely=False
        )


_SENTENCES = 45
_ABOUT = {
    "translation": ("Translate into English:\n{0}", "{0}\n\nWhat does this mean in English?", "Please translate: {0}"),
    "summarisation": ("Summarise this in a few words: {0}", "{0}\n\ntl;dr"),
    "classification": ("What is the sentiment of this sentence?\n{0}", "Classify as fact or opinion: {0}"),
    "creative": ("Continue this story: {0}", "Write a poem that begins like this:\n{0}"),
}


def _lingua(folder: Path) -> Iterator[Example]:
    """Sentences of 75 languages, as they are and in a few requests of ours: text in no matter which language is no sum.

    The first `_SENTENCES` of a language are read, the others are kept for checks.
    """
    requests = [(task, form) for task, forms in _ABOUT.items() for form in forms]
    seen: dict[str, int] = {}
    for row in rows(folder / "lingua_lid.jsonl.gz"):
        language, text = str(row["lang"]), str(row["text"])
        place = seen[language] = seen.get(language, 0) + (row["kind"] == "sentences")
        if row["kind"] != "sentences" or place > _SENTENCES:
            continue
        yield Example(text, SENTENCES, language=language, weight=0.5)
        if place % 4 == 0:
            task, form = requests[(place // 4) % len(requests)]
            yield Example(form.format(text), WRITTEN_TASK, task=task, language=language, weight=0.5, template=form)
