"""Workflows: `graphs/*.yaml` compiled to ordinary LangGraph graphs, plans run as DAGs, and the shape of any graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from waywiser.workflow.build import build_graph, load_graph, read_workflow
from waywiser.workflow.planning import PlanRefused
from waywiser.workflow.shape import shape_of
from waywiser.workflow.spec import WorkflowSpec

if TYPE_CHECKING:
    from waywiser.core.calls import JSON

__all__ = ["PlanRefused", "WorkflowSpec", "build_graph", "load_graph", "read_workflow", "shape_of", "workflow_schema"]


def workflow_schema() -> dict[str, JSON]:
    """Return the JSON schema of workflow files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **WorkflowSpec.model_json_schema()}
