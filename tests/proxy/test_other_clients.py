"""LangChain's OpenAI client, and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

if TYPE_CHECKING:
    from conftest import Proxy


class Ticket(BaseModel):
    """What a message is about."""

    category: str
    urgent: bool


@tool
def get_order(order_id: str) -> str:
    """Look up an order by its number."""
    return order_id


@pytest.fixture
def chat(proxy: Proxy) -> ChatOpenAI:
    return ChatOpenAI(base_url=proxy.base_url, api_key="unused", model="auto", max_retries=0)


def test_langchain(chat: ChatOpenAI) -> None:
    assert chat.invoke("Hello").text
    assert len([piece for piece in chat.stream("Hello, how are you today?") if piece.text]) > 1
    (call,) = chat.bind_tools([get_order]).invoke("Where is order W0001234?").tool_calls
    assert call["name"] == "get_order"
    assert isinstance(chat.with_structured_output(Ticket).invoke("My parcel is lost"), Ticket)


def test_langchain_over_responses(proxy: Proxy) -> None:
    chat = ChatOpenAI(base_url=proxy.base_url, api_key="unused", model="auto", max_retries=0, use_responses_api=True)
    assert chat.invoke("Hello").text
    (call,) = chat.bind_tools([get_order]).invoke("Where is order W0001234?").tool_calls
    assert call["name"] == "get_order"


async def test_langchain_async(chat: ChatOpenAI) -> None:
    assert (await chat.ainvoke("Hello")).text
    assert "".join([piece.text async for piece in chat.astream("Hello there")])


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("stream", [False, True])
def test_curl(proxy: Proxy, stream: bool) -> None:
    body = json.dumps({"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]})
    command = ["curl", "-sSN", f"{proxy.base_url}/chat/completions", "-H", "content-type: application/json", "-d", body]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    if stream:
        assert said.endswith("data: [DONE]\n\n")
        assert ': waywiser {"receipt":' in said
    else:
        assert json.loads(said)["choices"][0]["message"]["content"]
