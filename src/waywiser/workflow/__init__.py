"""Workflows: `graphs/*.yaml` compiled to ordinary LangGraph graphs, and plans run as DAGs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from waywiser.workflow.build import build_graph, load_graph, read_workflow
from waywiser.workflow.spec import WorkflowSpec

if TYPE_CHECKING:
    from waywiser.core.calls import JSON

__all__ = ["WorkflowSpec", "build_graph", "load_graph", "read_workflow", "workflow_schema"]


def workflow_schema() -> dict[str, JSON]:
    """Return the JSON schema of workflow files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **WorkflowSpec.model_json_schema()}
