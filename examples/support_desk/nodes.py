"""Nodes of the shop's workflows that are plain Python: no model is called here."""

from __future__ import annotations

import os
from collections.abc import Mapping

from langchain_core.messages import HumanMessage

from .documents import search_documents
from .make_shop import demo_shop


def retrieve(state: Mapping[str, object]) -> dict[str, object]:
    """Find the handbook's documents about what the customer asked last: `documents`, best first, as title and text."""
    messages = state.get("messages")
    asked = [message for message in messages if isinstance(message, HumanMessage)] if isinstance(messages, list) else []
    question = str(asked[-1].text) if asked else ""
    found = search_documents(os.environ.get("SUPPORT_DESK_DB") or demo_shop(), question)
    return {"documents": [f"{passage.title}\n{passage.text}" for passage in found]}
