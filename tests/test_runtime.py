"""The composition root: stores by name, models handed over, keys that are missing."""

from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from waywiser import ConfigError, Router, StoreError
from waywiser.config.source import Source
from waywiser.core.calls import Tool
from waywiser.core.classification import Head
from waywiser.core.messages import ToolCall, assistant, tool_result, user
from waywiser.runtime import LazyClassifier, build, load, open_existing, open_store
from waywiser.stores.memory import MemoryStore
from waywiser.stores.redis import RedisStore
from waywiser.stores.sqlite import SqliteStore
from waywiser.testing.redis_server import RedisServer

OWN = """
version: 1
name: own
tiers: {only: [mine/model]}
models: {mine/model: {api: langchain, context: 8000, price: {input: 1, output: 2}}}
"""


def test_a_store_by_name(tmp_path: Path) -> None:
    assert isinstance(open_store(":memory:"), MemoryStore)
    path = tmp_path / "s.sqlite"
    open_store(path).close()
    store = open_existing(path)
    assert isinstance(store, SqliteStore)
    assert open_store(store) is store
    with pytest.raises(StoreError, match="no such store"):
        open_existing(tmp_path / "other.sqlite")


def test_a_redis_by_url(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        store = open_store(f"{server.url}?away=local")
        assert isinstance(store, RedisStore)
        assert store.receipts("nobody") == []
        store.close()
    finally:
        server.kill()
    with pytest.raises(ConfigError, match="not understood"):
        open_store("redis://127.0.0.1:1/0?away=perhaps")


def test_a_model_of_ones_own_has_to_be_handed_over() -> None:
    loaded = load(Source.parse(OWN, "own.yaml"))
    with pytest.raises(ConfigError, match=r"own\.yaml:4:16: `mine/model` answers through LangChain"):
        build(loaded, store=":memory:")
    runtime = build(loaded, store=":memory:", models={"mine/model": FakeListChatModel(responses=["mine"])})
    assert Router(runtime).chat_model().invoke("hello").text == "mine"


def test_a_model_in_no_tier_is_not_taken() -> None:
    loaded = load(Source.parse(OWN, "own.yaml"))
    with pytest.raises(ConfigError, match="your/model: in no tier"):
        build(loaded, store=":memory:", models={"your/model": FakeListChatModel(responses=["mine"])})


CHECKED = """
version: 1
name: checked
tiers: {low: [simulated/economy], high: [simulated/premium]}
steps: {synthesis: {tier: low, accept: [not_empty, "own:premium"]}}
"""


def test_checks_of_ones_own_escalate(tmp_path: Path) -> None:
    asked = []

    def premium(_: object, reply: object) -> str:
        asked.append(reply)
        return "" if len(asked) > 1 else "not good enough"

    loaded = load(Source.parse(CHECKED, "checked.yaml"))
    with Router(build(loaded, store=":memory:", checks={"own:premium": premium})) as router:
        with router.session("s") as session:
            router.chat_model().invoke("hello")
        (receipt,) = session.receipts()
    assert [attempt.failure for attempt in receipt.attempts] == ["not_accepted", ""]
    assert receipt.model == "simulated/premium"
    with pytest.raises(ConfigError, match=r"checked\.yaml:5:52: there is no module `own`"):
        build(loaded, store=":memory:")
    with pytest.raises(ConfigError, match="no such check"):
        build(loaded, store=":memory:", checks={"own:premium": premium, "own:other": premium})


def test_a_check_may_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mychecks.py").write_text("def fine(call, reply):\n    return ''\nnumber = 7\n")
    monkeypatch.chdir(tmp_path)
    policy = tmp_path / "p.yaml"
    policy.write_text(CHECKED.replace("own:premium", "mychecks:fine"))
    with Router.from_policy(policy, store=":memory:") as router:
        assert router.chat_model().invoke("hello").text
    policy.write_text(CHECKED.replace("own:premium", "mychecks:number"))
    with pytest.raises(ConfigError, match="is not a function"):
        Router.from_policy(policy, store=":memory:")


@pytest.mark.parametrize("live", [True, False])
def test_what_agents_do_is_remembered_in_live_calls_only(live: bool) -> None:
    """The first step of an agent's second session is told by the first one, unless decisions are to be reproduced."""
    asked = user("Where is my parcel?")
    looked = [assistant("", [ToolCall("c1", "get_parcel", "{}")]), tool_result("c1", "moving")]
    tools = (Tool("get_parcel", "Find a parcel"),)
    classifier = LazyClassifier()
    build(load("policies/simulated.yaml"), store=":memory:", classifier=classifier, live=live).close()
    heads = frozenset({Head.KIND})
    for history in ([asked], [asked, *looked], [user("Where is the other one?")]):
        told = classifier.classify(history, tools, 3, heads)
    assert ("the agent is known from earlier sessions" in told.why) == live
