"""`waywiser schema`: print the JSON schema of a policy or a graph, for editors."""

from __future__ import annotations

import argparse
import json

from waywiser.config.policy_schema import PolicySpec


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("schema", help="print the JSON schema of a policy or a graph")
    parser.add_argument("of", nargs="?", choices=["policy", "graph"], default="policy")
    parser.add_argument("--json", action="store_true", help="accepted for symmetry: a schema is always JSON")
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Print the schema."""
    print(schema_text(args.of), end="")
    return 0


def schema_text(of: str) -> str:
    """Return the schema of a `policy` or a `graph` as it is kept in the repository."""
    if of == "policy":
        schema = PolicySpec.model_json_schema(by_alias=True)
    else:
        from waywiser.workflow import workflow_schema  # noqa: PLC0415 - LangGraph is slow to import

        schema = workflow_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
