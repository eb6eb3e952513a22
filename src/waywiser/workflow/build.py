"""From a workflow file to an ordinary LangGraph graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Checkpointer, Command

from waywiser.config.objects import load_object
from waywiser.config.shapes import suggest
from waywiser.config.source import Source
from waywiser.errors import ConfigError, Problem
from waywiser.langgraph.context import CALLS_KEY, KIND_KEY
from waywiser.workflow import nodes, prompts
from waywiser.workflow.asking import Body, Update, as_node
from waywiser.workflow.checks import check_workflow
from waywiser.workflow.edges import add_edges
from waywiser.workflow.execution import Execution
from waywiser.workflow.loop import Loop
from waywiser.workflow.objects import load_tools, named
from waywiser.workflow.spec import (
    ExecuteNode,
    GraphNode,
    Node,
    PlanNode,
    PythonNode,
    ReflectNode,
    SynthesisNode,
    TriageNode,
    WorkflowSpec,
    WorkNode,
    kind_of,
)
from waywiser.workflow.state import ROUNDS, Builder, Compiled, has_rounds, keys_of, one_run, part_of, piece, state_of

Models = BaseChatModel | Mapping[str, BaseChatModel]
Tools = Sequence[BaseTool] | Mapping[str, BaseTool]


def read_workflow(path: str | Path) -> tuple[WorkflowSpec, Source]:
    """Read and check a workflow file without importing or building anything. Raises `ConfigError`."""
    source = Source.read(path)
    spec = source.validate(WorkflowSpec, {})
    check_workflow(spec, source)
    return spec, source


def load_graph(
    path: str | Path,
    models: Models,
    tools: Tools = (),
    *,
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    interrupt_before: Sequence[str] = (),
    interrupt_after: Sequence[str] = (),
) -> Compiled:
    """Make the graph that a workflow file describes.

    `models` is the chat model of all nodes, or chat models by name: a node's `model`, else `default`. `tools` replace
    those that the file names. The rest is LangGraph's `compile`. Raises `ConfigError` with file, line and hint.
    """
    spec, source = read_workflow(path)
    return build_graph(
        spec, source, models, tools,
        checkpointer=checkpointer, store=store, interrupt_before=interrupt_before, interrupt_after=interrupt_after,
    )  # fmt: skip


def build_graph(
    spec: WorkflowSpec,
    source: Source,
    models: Models,
    tools: Tools = (),
    *,
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    interrupt_before: Sequence[str] = (),
    interrupt_after: Sequence[str] = (),
) -> Compiled:
    """Make the graph of a checked workflow; see `load_graph`."""
    build = _Build(spec, source, models, _tools(spec, source, tools))
    graph = build.graph().compile(
        checkpointer=checkpointer,
        store=store,
        interrupt_before=list(interrupt_before) or None,
        interrupt_after=list(interrupt_after) or None,
        name=spec.name,
    )
    return _limited(graph, spec)


def _limited(graph: Compiled, spec: WorkflowSpec) -> Compiled:
    return graph if spec.supersteps is None else graph.with_config(recursion_limit=spec.supersteps)


def _tools(spec: WorkflowSpec, source: Source, given: Tools) -> dict[str, BaseTool]:
    """The tools of a workflow: those given, else those its file names."""
    try:
        if given:
            return named(given.values() if isinstance(given, Mapping) else given)
        found: list[BaseTool] = []
        for index, name in enumerate(spec.tools):
            try:
                found += load_tools(name, source.folder)
            except ValueError as error:
                raise ConfigError(source.problem(("tools", index), str(error))) from error
        return named(found)
    except ValueError as error:
        raise ConfigError(source.problem(("tools",), str(error))) from error


@dataclass(slots=True)
class _Build:
    """One file being built. `above` are the files that include it, to notice one that includes itself."""

    spec: WorkflowSpec
    source: Source
    models: Models
    tools: Mapping[str, BaseTool]
    above: tuple[Path, ...] = ()
    state: type = field(init=False)

    def __post_init__(self) -> None:
        self.state = state_of(self.spec)

    def graph(self) -> Builder:
        output = part_of(self.state, self.spec.output or list(keys_of(self.spec)), "Output")
        graph: Builder = StateGraph(self.state, output_schema=output)
        problems: list[Problem] = []
        for name, node in self.spec.nodes.items():
            try:
                self._add(graph, name, node)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        add_edges(graph, self.spec)
        return graph

    def _add(self, graph: Builder, name: str, node: Node) -> None:
        metadata: dict[str, Any] = {KIND_KEY: kind_of(node), CALLS_KEY: 1}
        if isinstance(node, TriageNode | ReflectNode):
            body = nodes.choosing(node, self._model(name, node))
            graph.add_node(name, self._asking(name, node, body), metadata=metadata)
        elif isinstance(node, PlanNode):
            metadata[CALLS_KEY] = node.attempts
            body = nodes.planning(node, self._model(name, node), self._offered(name, node.tools))
            graph.add_node(name, self._asking(name, node, body), metadata=metadata)
        elif isinstance(node, SynthesisNode):
            body = nodes.synthesis(node, self._model(name, node))
            graph.add_node(name, self._asking(name, node, body), metadata=metadata)
        elif isinstance(node, WorkNode):
            offered, prompt = self._offered(name, node.tools), node.prompt or prompts.WORK
            loop = Loop(name, self._model(name, node), offered, node.turns, kind_of(node), prompt)
            graph.add_node(name, loop.compiled(self.state))
        elif isinstance(node, ExecuteNode):
            execution = Execution(name, node, self._model(name, node), self._offered(name, node.tools))
            output = part_of(self.state, [node.writes], "Results")
            graph.add_node(name, execution.compiled(self.state, output))
        elif isinstance(node, PythonNode):
            metadata[CALLS_KEY] = node.calls
            graph.add_node(name, self._python(name, node), metadata=metadata)
        else:
            graph.add_node(name, self._subgraph(name, node))

    def _asking(self, name: str, node: Node, body: Body) -> Any:
        """Make a node of a body. Its runs are counted where a way on closes after some."""
        if not has_rounds(node):
            return as_node(name, body)

        def counted_body(state: Mapping[str, object]) -> Any:
            update = yield from body(state)
            return {**update, ROUNDS: one_run(name, state)}

        return as_node(name, counted_body)

    def _model(self, name: str, node: Any) -> BaseChatModel:
        if isinstance(self.models, BaseChatModel):
            return self.models
        wanted = node.model or "default"
        if wanted in self.models:
            return self.models[wanted]
        hint = suggest(wanted, self.models) or f"models given: {', '.join(self.models) or 'none'}"
        path = ("nodes", name, "model") if node.model else ("nodes", name)
        raise ConfigError(self.source.problem(path, f"no model named `{wanted}` was given", hint))

    def _offered(self, name: str, wanted: list[str] | None) -> list[BaseTool]:
        if wanted is None:
            return list(self.tools.values())
        problems = [
            self.source.problem(
                ("nodes", name, "tools", index),
                f"there is no tool `{tool}`",
                suggest(tool, self.tools) or f"known: {', '.join(self.tools) or 'none'}",
            )
            for index, tool in enumerate(wanted)
            if tool not in self.tools
        ]
        if problems:
            raise ConfigError(problems)
        return [self.tools[tool] for tool in dict.fromkeys(wanted)]

    def _python(self, name: str, node: PythonNode) -> Callable[..., object]:
        path = ("nodes", name, "call")
        try:
            call = load_object(node.call, self.source.folder)
        except ValueError as error:
            raise ConfigError(self.source.problem(path, str(error))) from error
        if not callable(call):
            raise ConfigError(self.source.problem(path, f"`{node.call}` can't be called"))
        return _python_node(name, node, call)

    def _subgraph(self, name: str, node: GraphNode) -> Compiled:
        path = ("nodes", name, "graph")
        if ":" in node.graph:
            try:
                found = load_object(node.graph, self.source.folder)
            except ValueError as error:
                raise ConfigError(self.source.problem(path, str(error))) from error
            if isinstance(found, StateGraph):
                found = found.compile(name=name)
            if not isinstance(found, CompiledStateGraph):
                raise ConfigError(self.source.problem(path, f"`{node.graph}` is not a LangGraph graph"))
            return found
        file = (self.source.folder or Path.cwd()) / node.graph
        here = (*self.above, Path(self.source.name).resolve())
        if file.resolve() in here:
            raise ConfigError(self.source.problem(path, f"`{node.graph}` includes itself"))
        spec, source = read_workflow(file)
        tools = self.tools if self.tools else _tools(spec, source, ())
        return _limited(_Build(spec, source, self.models, tools, here).graph().compile(name=spec.name), spec)


def _python_node(name: str, node: PythonNode, call: Callable[..., object]) -> Callable[..., object]:
    """Wrap a function so that what it returns updates the state. Its signature stays: LangGraph looks at it."""

    def update(state: Mapping[str, object], result: object) -> object:
        if isinstance(result, Command):
            return result
        made: Update = {ROUNDS: one_run(name, state)} if has_rounds(node) else {}
        if node.writes:
            return {**made, node.writes: piece(state, result) if node.for_each else result}
        if result is not None and not isinstance(result, Mapping):
            raise TypeError(f"`{node.call}` returned {type(result).__name__}, not an update of the state")
        return {**made, **(result or {})}

    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def anode(state: Mapping[str, object], *args: object, **kwargs: object) -> object:
            return update(state, await call(state, *args, **kwargs))

        return anode

    @functools.wraps(call)
    def sync_node(state: Mapping[str, object], *args: object, **kwargs: object) -> object:
        return update(state, call(state, *args, **kwargs))

    return sync_node
