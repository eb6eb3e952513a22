"""The policy file: every mistake with its place and a hint, and nothing accepted that has no effect."""

from pathlib import Path

import pytest

from waywiser.cli.schema import schema_text
from waywiser.config.policy import LoadedPolicy
from waywiser.config.source import Source
from waywiser.core.models import Ability
from waywiser.core.policy import UnsureRule
from waywiser.core.steps import StepKind
from waywiser.errors import ConfigError
from waywiser.runtime import load
from waywiser.workflow.spec import WorkflowSpec

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
version: 1
name: test
tiers:
  low: [simulated/economy]
  high: [simulated/premium]
steps:
  tool_call: {tier: low, accept: [tool_arguments], escalate: high}
"""


def loaded(text: str) -> LoadedPolicy:
    return load(Source.parse(text, "policy.yaml"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policies_load_without_warnings(path: Path) -> None:
    assert load(path).warnings == ()


def test_the_schema_in_the_repository_is_the_one_in_the_code() -> None:
    assert (ROOT / "policies/schema.json").read_text("utf-8") == schema_text("policy")


def test_a_policy_becomes_core_types() -> None:
    policy = loaded(GOOD + "budget: {session: {usd: 0.30}, keep: {synthesis: 20%}}\nnodes: {plan*: planning}").policy
    assert [tier.name for tier in policy.tiers] == ["low", "high"]
    assert policy.budget.session.nanos == 300_000_000
    assert policy.budget.keep == {"synthesis": 0.2}
    assert policy.step_rule(StepKind.TOOL_CALL).escalate == "high"
    assert policy.step_rule(StepKind.OTHER).tier == ""
    assert policy.declared("planner") == "planning"
    assert policy.declared("work") == ""


def test_rules_become_core_types() -> None:
    text = GOOD + (
        "rules:\n"
        "  - {when: {language: {not: en}}, floor: high}\n"
        "  - {when: {language: {not: [en, de]}, tag: vip}, require: [vision], exclude: 'simulated/e*'}\n"
    )
    first, second = loaded(text).policy.rules
    assert (first.floor, first.when.language_not) == ("high", {"en"})
    assert second.require == {Ability.VISION}
    assert second.exclude == ("simulated/e*",)
    assert second.when.tag == ("vip",)


@pytest.mark.parametrize(
    ("change", "place", "says", "hint"),
    [
        (("tier: low", "tier: lo"), "policy.yaml:7:21", "no tier `lo`", "did you mean `low`?"),
        (("steps:", "step:"), "policy.yaml:6:1", "unknown key `step`", "did you mean `steps`?"),
        (("simulated/economy", "simulated/econmy"), "policy.yaml:4:9", "unknown model", "`simulated/economy`"),
        (("[simulated/premium]", "[]"), "policy.yaml:5:9", "at least 1", ""),
        (("version: 1", "version: 2"), "policy.yaml:1:10", "1", ""),
        (("escalate: high", "sufficiency: 120%"), "policy.yaml:7:", "1", ""),
        (("accept: [tool_arguments], ", ""), "policy.yaml:7:", "`escalate` without `accept`", ""),
        (("name: test", "name: ${HOME}"), "policy.yaml:2:7", "not allowed here", "secrets only"),
        (("name: test", "name: test\nname: twice"), "policy.yaml:3:1", "name", ""),
    ],
)
def test_a_mistake_is_told_with_its_place(change: tuple[str, str], place: str, says: str, hint: str) -> None:
    (first, *_) = problems(GOOD.replace(*change))
    assert first.startswith(place)
    assert says in first
    assert hint in first


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("budget: {keep: {synthesis: 20%}}", "`keep` is a part of `session: usd` or `llm_calls`"),
        ("budget: {session: {usd: 1}, keep: {synthesis: 60%, planning: 60%}}", "more than 100%"),
        ("budget: {pressure: [{at: 60%, ceiling: top}]}", "no tier `top`"),
        ("rules: [{when: {node: x}}]", "the rule has no effect"),
        ("rules: [{when: {}, floor: low}]", "always holds"),
        ("rules: [{when: {node: x}, models: 'openai/*'}]", "matches no model"),
        ("models: {local/x: {base_url: 'http://127.0.0.1:1/v1'}}", "in no tier"),
        ("loops: {ladder: [stop, hint]}", "in the order"),
        ("rules: [{when: {node: x}, floor: high, ceiling: low}]", "the floor `high` is above the ceiling `low`"),
        ("budget: {on_exhausted: shrug}", "conclude"),
        ("fallback: {attempts: 0}", "from 1 to 20"),
    ],
)
def test_settings_that_could_not_work_are_refused(extra: str, says: str) -> None:
    assert any(says in problem for problem in problems(GOOD + extra + "\n")), problems(GOOD + extra + "\n")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("nodes: {a: synthsis}", "12: expected `triage`, `planning`, "),
        ("budget: {keep: {sythesis: 20%}}", "17: unknown kind `sythesis` — did you mean `synthesis`?"),
        ("budget: {keep: {zzz: 20%}}", "17: unknown kind `zzz` — known here: triage, planning, "),
        ("budget: {keep: {synthesis: 20}}", "28: expected a share from 0 to 1, such as `20%` or 0.2, got 20"),
        ("budget: {keep: {synthesis: 120%}}", "28: expected a share from 0 to 1, such as `20%` or 0.2, got '120%'"),
        ("budget: {keep: {synthesis: much}}", "28: expected a share from 0 to 1, such as `20%` or 0.2, got 'much'"),
        ("switching: {min_saving: -0.1}", "25: expected a share from 0 to 1, such as `20%` or 0.2, got -0.1"),
        ("budget: {session: {usd: -1}}", "25: expected a number from 0 to 1,000,000,000, got -1"),
        ("budget: {session: {usd: '-1'}}", "25: expected a number from 0 to 1,000,000,000, got '-1'"),
        ("models: {m: {base_url: ftp}}", "24: 'ftp' does not have the form ^https?://"),
        ("rules: [{when: {node: []}, floor: low}]", "23: expected at least 1 item"),
    ],
)
def test_a_mistake_is_told_in_words(extra: str, says: str) -> None:
    (found,) = problems(GOOD + extra + "\n")
    assert found.startswith(f"policy.yaml:8:{says}"), found
    assert not found.endswith("items")


def test_a_kind_that_is_none_is_told_at_its_key() -> None:
    assert problems(GOOD.replace("tool_call:", "toolcall:")) == [
        "policy.yaml:7:3: unknown kind `toolcall` — did you mean `tool_call`?"
    ]


def test_quotes_that_make_a_text_of_a_number_are_told() -> None:
    assert problems(GOOD.replace("version: 1", 'version: "1"')) == [
        "policy.yaml:1:10: expected `1`, got the text '1' — write it without quotes"
    ]


def test_a_graph_is_not_taken_for_a_policy_nor_a_policy_for_a_graph() -> None:
    graph = Source.read(ROOT / "graphs" / "support_desk.yaml")
    with pytest.raises(ConfigError) as caught:
        load(graph)
    (problem,) = caught.value.problems
    assert problem.message == "this is a graph, not a policy"
    with pytest.raises(ConfigError) as caught:
        Source.parse(GOOD, "policy.yaml").validate(WorkflowSpec)
    (problem,) = caught.value.problems
    assert problem.message == "this is a policy, not a graph"


def test_every_problem_is_told_at_once() -> None:
    text = GOOD.replace("tier: low", "tier: lo").replace("simulated/economy", "nobody/knows") + "wheels: 4\n"
    assert len(problems(text.replace("wheels: 4\n", ""))) == 2
    assert "wheels" in problems(text)[0]


def test_a_model_of_ones_own_needs_what_the_catalogue_cannot_know() -> None:
    text = GOOD.replace("simulated/economy", "local/mine")
    own = (
        "models:\n  local/mine: {base_url: 'http://127.0.0.1:1/v1', context: 4096, price: {input: 0.1, output: 0.4}}\n"
    )
    (model,) = loaded(text + own).policy.tiers[0].models
    assert (model.remote, model.context_tokens, model.prices[0].input_picos) == ("mine", 4096, 100_000)
    assert "needs `base_url`" in problems(text + own.replace(", context: 4096", ""))[0]


def test_a_secret_comes_from_the_environment_and_stays_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "{base_url: 'http://x/v1', context: 4096, price: {input: 1, output: 1}, api_key: '${MINE}'}"
    own = f"models:\n  local/mine: {row}\n"
    text = GOOD.replace("simulated/economy", "local/mine") + own
    assert "`MINE` is not set" in problems(text)[0]
    monkeypatch.setenv("MINE", "s3cret")
    found = loaded(text)
    assert found.keys == {"local/mine": "s3cret"}
    assert "s3cret" not in repr(found.policy)


def test_what_is_legal_but_unwise_is_a_warning() -> None:
    upside_down = GOOD.replace("simulated/economy", "simulated/x").replace("simulated/premium", "simulated/economy")
    warnings = [str(warning) for warning in loaded(upside_down.replace("simulated/x", "simulated/premium")).warnings]
    assert any("cheaper than the one before it" in warning for warning in warnings)
    assert any("nothing limits" in warning for warning in warnings)


def test_a_model_in_two_tiers_is_a_warning() -> None:
    twice = GOOD.replace("[simulated/premium]", "[simulated/premium, simulated/economy]")
    (warning,) = [str(found) for found in loaded(twice).warnings if "too:" in found.message]
    assert warning.startswith("policy.yaml:5:29: `simulated/economy` is in tier `low` too")
    assert not any("too:" in found.message for found in loaded(GOOD).warnings)


def test_what_becomes_of_a_cut_answer_is_up_to_the_policy() -> None:
    assert loaded(GOOD).policy.fallback.cut_stream == "fail"
    rule = loaded(GOOD + "fallback: {cut_stream: resume, cut_repetition: false}").policy.fallback
    assert (rule.cut_stream, rule.cut_repetition) == ("resume", False)
    assert "expected `resume` or `fail`" in problems(GOOD + "fallback: {cut_stream: retry}")[0]


def test_a_hedge_that_could_never_happen_is_refused() -> None:
    hedged = GOOD.replace("tool_call: {tier: low,", "tool_call: {tier: low, hedge: true,")
    assert hedged != GOOD
    assert loaded(hedged).policy.step_rule(StepKind.TOOL_CALL).hedge
    (once,) = problems(hedged + "fallback: {attempts: 1}")
    assert "`hedge` never happens: `fallback: attempts` allows one request" in once
    alone = hedged.replace("tier: low, hedge: true", "tier: high, hedge: true")
    assert "there is no second model in its tier or above" in problems(alone)[0]


MIXED = """\
version: 1
name: mixed
tiers:
  low: [openai/gpt-4o-mini]
  high: [anthropic/claude-opus-4-7]
steps:
  tool_call: {tier: low, accept: [tool_arguments, {min_logprob: -0.8}], escalate: high}
budget: {session: {usd: 1}, keep: {synthesis: 20%}}
"""


def test_confidence_becomes_a_check_and_a_watch() -> None:
    policy = loaded(MIXED + "fallback: {cut_unsure: {below: -1.5}}").policy
    assert policy.step_rule(StepKind.TOOL_CALL).accept == ("tool_arguments", "min_logprob=-0.8")
    assert policy.fallback.cut_unsure == UnsureRule(-1.5, 40)
    assert loaded(MIXED).policy.fallback.cut_unsure is None


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("{min_logprb: -1}", "unknown key `min_logprb` — did you mean `min_logprob`?"),
        ("{min_logprob: 0.8}", "expected a number above -20 and below 0, got 0.8"),
        ("{min_logprob: 0}", "expected a number above -20 and below 0, got 0"),
        ("{min_logprob: -20}", "expected a number above -20 and below 0, got -20"),
        ("{min_logprob: .nan}", "expected a number above -20 and below 0"),
        ("{min_logprob: -1, over: 5}", "unknown key `over`"),
        ("min_logprob", "expected `tool_arguments`"),
        ("min_logprob=-0.8", "expected `tool_arguments`"),
    ],
)
def test_a_bound_that_makes_no_sense_is_told_with_its_place(check: str, said: str) -> None:
    found = problems(MIXED.replace("{min_logprob: -0.8}", check))
    assert any(said in problem and problem.startswith("policy.yaml:7:") for problem in found), found


def test_models_whose_confidence_nobody_could_judge_are_named() -> None:
    def warned(text: str) -> list[str]:
        return [str(warning) for warning in loaded(text).warnings if "log-prob" in str(warning)]

    (one,) = warned(MIXED)
    assert one.startswith("policy.yaml:7:51: `min_logprob` judges nothing where `anthropic/claude-opus-4-7` answers")
    checked, watched = warned(MIXED + "fallback: {cut_unsure: {below: -1.5, over: 20}}")
    assert checked == one
    assert watched.startswith("policy.yaml:9:12: `cut_unsure` stops nothing where `anthropic/claude-opus-4-7` answers")
    (never,) = warned(MIXED.replace("openai/gpt-4o-mini", "simulated/economy"))
    assert "judges nothing anywhere: no model of this policy tells log-probabilities" in never
    assert warned(MIXED.replace("anthropic/claude-opus-4-7", "openai/gpt-4.1")) == []
    own = "models: {anthropic/claude-opus-4-7: {abilities: [tools, logprobs]}}\n"
    assert warned(MIXED + own) == []


def test_a_watch_with_nothing_above_is_unwise() -> None:
    watched = MIXED.replace("tier: low", "tier: high") + "fallback: {cut_unsure: {below: -1.5}}"
    said = "`cut_unsure` can only end a step of tool_call with an error"
    assert not any(said in warning.message for warning in loaded(watched).warnings), "its model tells nothing"
    telling = watched.replace("anthropic/claude-opus-4-7", "openai/gpt-4.1")
    assert any(said in warning.message for warning in loaded(telling).warnings)


def test_a_bound_on_what_is_shown_as_it_comes_is_unwise() -> None:
    text = MIXED.replace("steps:\n", "steps:\n  synthesis: {tier: low, accept: [{min_logprob: -0.8}]}\n")
    said = "`min_logprob` does not judge a streamed synthesis"
    assert any(said in warning.message for warning in loaded(text).warnings)
    watched = loaded(text + "fallback: {cut_unsure: {below: -1.5}}").warnings
    assert not any(said in warning.message for warning in watched)
    assert not any("does not judge a streamed" in warning.message for warning in loaded(MIXED).warnings)
