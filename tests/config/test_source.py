"""Reading YAML with places, and saying plainly what is wrong with it."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from waywiser.config.source import Secret, Source, suggest
from waywiser.errors import ConfigError, Place


class Base(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Work(Base):
    type: Literal["work"]
    turns: int = Field(3, ge=1, le=50)


class Plan(Base):
    type: Literal["plan"]
    plan: float = Field(0.5, ge=0, le=1)


class Upstream(Base):
    url: str
    key: Secret | None = None


Name = Annotated[str, Field(pattern="^[a-z]+$")]


class Policy(Base):
    version: Literal[1]
    tiers: dict[str, list[str]] = Field(min_length=1)
    quality: float = Field(1.0, ge=0, le=1)
    nodes: dict[Name, Annotated[Work | Plan, Field(discriminator="type")]] = {}
    upstream: Upstream | None = None
    many: str | list[str] | Work = "a"
    mode: Literal["ask", "stop", "conclude"] = "ask"

    @model_validator(mode="after")
    def _checked(self) -> "Policy":
        if "banned" in self.tiers:
            context = {"hint": "rename it", "at": ("tiers", "banned")}
            raise PydanticCustomError("banned", "this tier is banned", context)
        return self


GOOD = "version: 1\ntiers: {a: [b]}\n"


def complaints(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Source.parse(text, "p.yaml").validate(Policy, environment or {})
    return [str(problem) for problem in caught.value.problems]


def test_a_good_file_becomes_the_model() -> None:
    policy = Source.parse(GOOD + "nodes: {x: {type: work, turns: 4}}").validate(Policy, {})
    assert policy.nodes["x"] == Work(type="work", turns=4)


def test_every_value_and_key_has_its_place() -> None:
    source = Source.parse("a: 1\nb:\n  - x\n  - {c: 2}\n", "f.yaml")
    assert source.place(("b", 1, "c")) == Place("f.yaml", 4, 9)
    assert source.key_place(("b", 1, "c")) == Place("f.yaml", 4, 6)
    assert source.place(("b", 7, "nowhere")) == Place("f.yaml", 3, 3)
    assert str(source.problem(("a",), "odd", "why?")) == "f.yaml:1:4: odd — why?"


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = complaints(
        "version: 1\ntiers_: {}\nquality: abc\nnodes:\n  a: {type: wrk}\n  b: {type: work, turns: 0, tunrs: 3}\n"
        "  c: {type: plan, plan: 3}\n  d: {}\n  e: 3\nmode: sotp\nmany: 3\n"
    )
    assert found == [
        "p.yaml:1:1: `tiers` is missing — expected a mapping",
        "p.yaml:2:1: unknown key `tiers_` — did you mean `tiers`?",
        "p.yaml:3:10: expected a number from 0 to 1, got 'abc'",
        "p.yaml:5:13: unknown type 'wrk' — did you mean `work`?",
        "p.yaml:6:26: expected a whole number from 1 to 50, got 0",
        "p.yaml:6:29: unknown key `tunrs` — did you mean `turns`?",
        "p.yaml:7:25: expected a number from 0 to 1, got 3",
        "p.yaml:8:6: `type` is missing — expected `plan` or `work`",
        "p.yaml:9:6: expected a mapping, got 3",
        "p.yaml:10:7: expected `ask`, `stop` or `conclude`, got 'sotp' — did you mean `stop`?",
        "p.yaml:11:7: expected text, a list or a mapping, got 3",
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: b: c", "p.yaml:1:5: broken YAML: mapping values"),
        ("a:\n\t- b", "p.yaml:2:1: broken YAML: found a tab where only spaces are allowed — indent with spaces"),
        ("a:\r\n  b: 1\r\n\tc: 2", "p.yaml:3:1: broken YAML: found a tab where"),
        ("a: @x", "p.yaml:1:4: broken YAML: a text can't begin with the character `@` — put the text in quotes"),
        ("a: [", "p.yaml:2:1: broken YAML"),
        ("", "p.yaml:1:1: the file is empty"),
        ("# only a remark\n", "p.yaml:1:1: the file is empty"),
        ("[1, 2]", "p.yaml:1:1: expected a mapping, got a list"),
        ("just text", "p.yaml:1:1: expected a mapping, got 'just text'"),
        ("a: 1\nb: 2\na: 3", "p.yaml:3:1: the key `a` is here twice — the first is on line 1"),
        ("1: 2", 'p.yaml:1:1: a key must be text, not 1 — write "1"'),
        ("? [a]\n: b", "p.yaml:1:3: a key must be text, not a list or a mapping"),
        ("a: &x [*x]", "p.yaml:1:8: `*x` names nothing that is complete before it"),
        ("a: !!python/object:os.system x", "p.yaml:1:4: the tag"),
        ("a: \x00", "p.yaml:1:4: the character U+0000"),
        ("a: '\ud800'", "p.yaml:1:5: the character U+D800"),
        ("a: 1\n---\nb: 2", "p.yaml:2:1: a second document"),
        ("a: 1e999", "p.yaml:1:4: the number 1e999… is too large"),
        ("a: " + "[" * 5000, "p.yaml:1:67: nested more than 64 levels deep"),
        ("a: " + "x" * 1_000_001, "p.yaml: larger than"),
    ],
)
def test_what_is_wrong_with_the_text_has_its_place(text: str, start: str) -> None:
    assert complaints(text)[0].startswith(start)


def test_an_alias_bomb_is_refused_and_an_honest_alias_is_not() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases expand" in complaints(bomb)[0]
    chain = "a: &x0 [1]\n" + "".join(f"b{i}: &x{i} [*x{i - 1}]\n" for i in range(1, 200))
    assert "nested more than 64" in complaints(chain)[0]
    assert Source.parse("a: &t [b]\nc: *t").data == {"a": ["b"], "c": ["b"]}


def test_scalars_follow_yaml_1_2() -> None:
    data = Source.parse(
        "{a: no, b: on, c: 2024-01-01, d: 1:30, e: 012, f: true, g: ~, h: '1', i: .5, j: -3, k: .inf}"
    ).data
    assert data == {
        "a": "no", "b": "on", "c": "2024-01-01", "d": "1:30", "e": 12,
        "f": True, "g": None, "h": "1", "i": 0.5, "j": -3, "k": ".inf",
    }  # fmt: skip


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"no such file — did you mean `good.yaml`\?"):
        Source.read(tmp_path / "godo.yaml")
    with pytest.raises(ConfigError, match="a folder"):
        Source.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: né".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.yaml:2:5: not UTF-8: byte 0xe9"):
        Source.read(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert Source.read(tmp_path / "bom.yaml").data == {"a": 1}
    assert Source.read(tmp_path / "bom.yaml").folder == tmp_path.resolve()


def test_secrets_come_from_the_environment_and_nothing_else_does() -> None:
    text = GOOD + "upstream: {url: u, key: 'Bearer ${KEY}'}\n"
    policy = Source.parse(text).validate(Policy, {"KEY": "s3cret"})
    assert policy.upstream is not None
    assert policy.upstream.key is not None
    assert policy.upstream.key.get_secret_value() == "Bearer s3cret"
    assert "s3cret" not in repr(policy)
    assert complaints(text) == ["p.yaml:3:25: the environment variable `KEY` is not set — export KEY=…"]
    assert "is empty" in complaints(text, {"KEY": ""})[0]
    assert complaints(GOOD + "mode: ${MODE}", {"MODE": "ask"})[0].startswith("p.yaml:3:7: `${…}` is not allowed here")
    assert complaints(GOOD + "upstream: {url: u, key: '${A B}'}")[0].startswith("p.yaml:3:25: `${…}` must hold")
    assert complaints(GOOD + "upstream: {url: u, key: '${A'}")[0].startswith("p.yaml:3:25: `${` without")


def test_a_secret_is_never_shown() -> None:
    found = complaints(GOOD + "upstream: {url: u, key: [sk-abc]}\nmode: x\n", {"KEY": "sk-abc"})
    assert "sk-abc" not in "".join(found)


def test_a_union_reports_only_its_best_branch() -> None:
    assert complaints(GOOD + "many: {type: work, turns: 99}") == [
        "p.yaml:3:27: expected a whole number from 1 to 50, got 99"
    ]


def test_a_validator_can_point_and_hint() -> None:
    assert complaints("version: 1\ntiers: {banned: [x]}") == ["p.yaml:2:17: this tier is banned — rename it"]


def test_suggest_says_nothing_when_nothing_is_close() -> None:
    assert suggest("teirs", ["tiers", "models"]) == "did you mean `tiers`?"
    assert suggest("zzz", ["tiers", "models"]) == ""


def refused(text: str) -> list[str]:
    try:
        Source.parse(text, "p.yaml").validate(Policy, {})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n\tab1~.", max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    assert all(complaint.startswith("p.yaml:") for complaint in refused(text))


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab1~ ", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "a", "turns", "url"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(Policy.model_fields)), JSONISH, min_size=1, max_size=5))
def test_any_shape_of_data_is_refused_in_words(data: dict[str, object]) -> None:
    for complaint in refused(json.dumps(data)):
        assert complaint.startswith("p.yaml:1:")
        assert "Input should" not in complaint
        assert "valid" not in complaint
