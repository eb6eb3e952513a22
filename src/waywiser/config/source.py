"""A configuration file as read: plain data, and the place of every key and value in it.

Reading finds what is wrong with the text; `validate` finds what is wrong against a pydantic schema. Both report all
they find at once, as `ConfigError`, each problem with file, line, column and what was probably meant.

`${NAME}` stands for an environment variable, and only in a field typed `Secret`. Anywhere else it's an error: a
policy that changes its meaning with the environment can't be reviewed.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from waywiser.config.complaints import problems_of
from waywiser.config.located import Located, read_yaml
from waywiser.config.shapes import Path as DataPath
from waywiser.config.shapes import SchemaWalk, suggest
from waywiser.core.calls import JSON
from waywiser.errors import ConfigError, Place, Problem

MAX_BYTES = 1_000_000
Secret = SecretStr
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source:
    """One configuration file. `name` is what its places call it; `data` is a mapping with text keys."""

    name: str
    data: Mapping[str, JSON]
    root: Located
    folder: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> Source:
        """Read a YAML file (JSON will do). Raises `ConfigError` for a file that can't be read or understood."""
        file = Path(path)
        name = str(path)
        if file.suffix == ".py":
            hint = "a graph in it is named `module:object`"
            raise ConfigError(Problem(Place(name), "this is Python, not YAML", hint))
        try:
            with file.open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise ConfigError(Problem(Place(name), "no such file", _neighbours(file))) from None
        except IsADirectoryError:
            raise ConfigError(Problem(Place(name), "this is a folder, not a file")) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(Problem(Place(name), f"can't be read: {reason}")) from error
        parsed = cls.parse(_decoded(raw, name), name)
        return cls(parsed.name, parsed.data, parsed.root, file.resolve().parent)

    @classmethod
    def parse(cls, text: str, name: str = "text") -> Source:
        """Read YAML text. Raises `ConfigError`."""
        if len(text) > MAX_BYTES:
            raise ConfigError(Problem(Place(name), f"larger than {MAX_BYTES:,} bytes", "is it the right file?"))
        root = read_yaml(text.removeprefix("\ufeff"), name)
        data = root.plain()
        if not isinstance(data, dict):  # read_yaml saw to it
            raise TypeError(name)
        return cls(name, data, root)

    def place(self, path: DataPath = ()) -> Place:
        """Where the value at `path` stands; for a path that leads nowhere, its nearest existing ancestor."""
        return self._find(path).place

    def key_place(self, path: DataPath) -> Place:
        """Where the key that ends `path` stands, for complaints about the key itself."""
        if not path:
            return self.root.place
        return self._find(path[:-1]).keys.get(str(path[-1])) or self.place(path)

    def problem(self, path: DataPath, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """Make a problem about the value at `path`, or about its key."""
        return Problem(self.key_place(path) if key else self.place(path), message, hint)

    def validate(self, model: type[M], environment: Mapping[str, str] | None = None) -> M:
        """Make a `model` of the data, its secrets filled in from the environment (default: the process's).

        Raises `ConfigError` with every problem, in the order of the file. A validator of the model that raises
        `PydanticCustomError` may put a `hint`, and under `at` a path below its field, in the error's context.
        """
        if mistaken := _mistaken(self.data, model.model_config.get("title")):
            raise ConfigError(self.problem((), *mistaken))
        problems: list[Problem] = []
        data = self._filled(self.data, (), model, os.environ if environment is None else environment, problems)
        try:
            made = model.model_validate(data)
        except ValidationError as error:
            problems.extend(problems_of(error, self, _walk(model)))
        else:
            if not problems:
                return made
        raise ConfigError(in_order(problems))

    def _find(self, path: DataPath) -> Located:
        node = self.root
        for step in path:
            child = node.child(step)
            if child is None:
                break
            node = child
        return node

    def _filled(
        self,
        data: object,
        path: DataPath,
        model: type[BaseModel],
        environment: Mapping[str, str],
        problems: list[Problem],
    ) -> object:
        """Copy the data, `${NAME}` replaced where a secret is expected, refused elsewhere."""
        if isinstance(data, Mapping):
            problems += [self.problem((*path, key), "`${…}` can't be a key", key=True) for key in data if "${" in key]
            return {key: self._filled(value, (*path, key), model, environment, problems) for key, value in data.items()}
        if isinstance(data, list):
            return [self._filled(item, (*path, index), model, environment, problems) for index, item in enumerate(data)]
        if not isinstance(data, str) or "${" not in data:
            return data
        if not _walk(model).is_secret(path, self.data):
            hint = "environment variables are for secrets only, such as `api_key`; write the value out"
            problems.append(self.problem(path, "`${…}` is not allowed here", hint))
            return data
        return self._secret(data, path, environment, problems)

    def _secret(self, text: str, path: DataPath, environment: Mapping[str, str], problems: list[Problem]) -> str:
        def value(match: re.Match[str]) -> str:
            name = match.group(1)
            if not _NAME.fullmatch(name):
                problems.append(self.problem(path, "`${…}` must hold the name of one environment variable"))
            elif not environment.get(name):
                what = "is empty" if name in environment else "is not set"
                problems.append(self.problem(path, f"the environment variable `{name}` {what}", f"export {name}=…"))
            return environment.get(name, "")

        if "${" in _VARIABLE.sub("", text):
            problems.append(self.problem(path, "`${` without its `}`"))
        return _VARIABLE.sub(value, text)


@functools.cache
def _walk(model: type[BaseModel]) -> SchemaWalk:
    """The schema of a model, made when it's first needed: most files are right, and it takes longer than they do."""
    return SchemaWalk(model.model_json_schema())


def _mistaken(data: Mapping[str, JSON], title: str | None) -> tuple[str, str] | None:
    """Tell a policy from a graph: what to say when one was given for the other, instead of all that does not fit."""
    nodes = data.get("nodes")
    is_graph = isinstance(nodes, dict) and any(isinstance(node, dict) and "type" in node for node in nodes.values())
    is_policy = "tiers" in data
    if title == "Waywiser policy" and is_graph and not is_policy:
        return "this is a graph, not a policy", "a policy has `tiers`, and its `nodes` are patterns with a kind"
    if title == "Waywiser workflow" and is_policy and not is_graph:
        return "this is a policy, not a graph", "a graph has `nodes`, each with its `type`"
    return None


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems as a reader meets them in the file, each once."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.place.line, problem.place.column))


def _decoded(raw: bytes, name: str) -> str:
    if len(raw) > MAX_BYTES:
        raise ConfigError(Problem(Place(name), f"larger than {MAX_BYTES:,} bytes", "is it the right file?"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        raise ConfigError(
            Problem(Place(name, line, column), f"not UTF-8: byte 0x{raw[error.start]:02x}", "save the file as UTF-8")
        ) from None


def _neighbours(file: Path) -> str:
    """Suggest a file of nearly the same name in the same folder."""
    try:
        names = [entry.name for entry in file.parent.iterdir() if entry.suffix in {".yaml", ".yml", ".json"}]
    except OSError:
        return f"there is no folder {file.parent}" if not file.parent.exists() else ""
    return suggest(file.name, names)
