"""What our code uses of TensorRT, read from its source, and whether bindings have it.

Types follow from the signatures of the bindings: `builder = trt.Builder(log)` is a `Builder`,
and `network = builder.create_network(flags)` what its docstring returns. A name has one type
in all files; one that is used with two is an error.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MODULE = "module"
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.+)$", re.MULTILINE)
_RETURNED = re.compile(r"(?:tensorrt_bindings\.tensorrt\.|nvonnxparser::)(\w+)$")
_RENAMED = {"IParserError": "ParserError"}  # in docstrings


class Bindings(NamedTuple):
    """TensorRT's Python API: by class, its attributes and their docstrings."""

    version: str
    classes: Mapping[str, Mapping[str, str]]
    names: frozenset[str]  # of the module

    def signatures(self, owner: str, method: str) -> list[tuple[list[str], int, str]]:
        """Of each overload: its parameters, how many are required, and what it returns."""
        found = []
        for name, inside, returned in _SIGNATURE.findall(self.classes[owner][method]):
            parts = [part for part in _split(inside) if part and not part.startswith("self:")]
            if name != method or parts == ["*args", "**kwargs"]:
                continue
            required = sum("=" not in part for part in parts)
            result = _RETURNED.search(returned.strip())
            kind = result[1] if result else ""
            parameters = [part.partition(":")[0].strip() for part in parts]
            found.append((parameters, required, _RENAMED.get(kind, kind)))
        return found


def _split(inside: str) -> list[str]:
    """The parameters of a signature; a comma within brackets does not end one."""
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


class Use(NamedTuple):
    """An attribute of TensorRT's that is used, and how it is called."""

    where: str  # file and line
    owner: str  # a class, or MODULE
    name: str
    arguments: tuple[int, tuple[str, ...]] | None  # positional, keywords; None: not called


class Uses:
    """Everything that sources use of the module that they call `trt`."""

    def __init__(self, sources: Iterable[Path], bindings: Bindings) -> None:
        self._bindings = bindings
        self._trees = {path: ast.parse(path.read_text()) for path in sources}
        self._types: dict[str, str] = {"trt": MODULE, "tensorrt": MODULE}
        while self._learn():
            pass

    def all(self) -> list[Use]:
        """The uses, in the order of the sources."""
        return [use for path, tree in self._trees.items() for use in self._of(path, tree)]

    def overrides(self) -> Iterator[tuple[str, str, list[str]]]:
        """Methods of classes derived from TensorRT's: base, name, parameters."""
        for node in self._nodes(ast.ClassDef):
            bases = [self._class_of(base) for base in node.bases]
            for function in (each for each in node.body if isinstance(each, ast.FunctionDef)):
                names = [arg.arg for arg in function.args.args[1:]]
                if bases and bases[0] and not function.name.startswith("_"):
                    yield bases[0], function.name, names

    def unresolved(self) -> list[str]:
        """Calls of what TensorRT has a method of that name for, on an unknown object."""
        methods = {
            name for use in self.all() if use.owner != MODULE
            for name in self._bindings.classes.get(use.owner, ()) if not name.startswith("_")
        }  # fmt: skip
        return [
            f"{path.name}:{node.lineno}: {ast.unparse(node.func)}"
            for path, tree in self._trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in methods
            and not self._owner(node.func)
            and not self._is_ours(node.func.value)
        ]

    def _is_ours(self, value: ast.expr) -> bool:
        """Whether it is an object of Python's or ours, by how it is written."""
        return isinstance(value, ast.Constant) or ast.unparse(value).startswith(
            ("self._bound", "self._cuda", "job.", "file", "kept", "package", "np")
        )

    def _nodes(self, kind: Any) -> Iterator[Any]:
        for tree in self._trees.values():
            yield from (node for node in ast.walk(tree) if isinstance(node, kind))

    def _of(self, path: Path, tree: ast.AST) -> Iterator[Use]:
        calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not (owner := self._owner(node)):
                continue
            call, arguments = calls.get(id(node)), None
            if call is not None:
                keywords = tuple(word.arg or "**" for word in call.keywords)
                arguments = len(call.args), keywords
            yield Use(f"{path.name}:{node.lineno}", owner, node.attr, arguments)

    def _owner(self, node: ast.Attribute) -> str:
        """The class whose attribute it is, MODULE, or "" if it is none of TensorRT's."""
        return self._class_of(node.value) or self._type(node.value)

    def _class_of(self, node: ast.expr) -> str:
        """The class that an expression such as `trt.ILogger.Severity` names."""
        if not isinstance(node, ast.Attribute):
            return ""
        outer = self._class_of(node.value)
        name = f"{outer}.{node.attr}" if outer else node.attr
        is_named = outer or self._type(node.value) == MODULE
        return name if is_named and name in self._bindings.classes else ""

    def _type(self, node: ast.expr | None) -> str:
        """The class of an expression's value, "list of X", MODULE or ""."""
        match node:
            case ast.Name(id=name):
                return self._types.get(name, "")
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._types.get(name, "")
            case ast.IfExp(body=body, orelse=orelse):
                return self._type(body) or self._type(orelse)
            case ast.ListComp(elt=element):
                return f"list of {kind}" if (kind := self._type(element)) else ""
            case ast.Call(func=function):
                return self._returned(function)
        return ""

    def _returned(self, function: ast.expr) -> str:
        if isinstance(function, ast.Name):
            return self._types.get(f"{function.id}()", "")
        if not isinstance(function, ast.Attribute):
            return ""
        if made := self._class_of(function):
            return made
        owner = self._type(function.value)
        if function.attr not in self._bindings.classes.get(owner, ()):
            return ""
        kinds = {kind for *_, kind in self._bindings.signatures(owner, function.attr)}
        return kinds.pop() if len(kinds) == 1 else ""

    def _learn(self) -> bool:
        """Types of more names, by what is assigned and returned; whether there were any."""
        found: list[tuple[str, str]] = []
        for node in self._nodes(ast.Assign):
            for target in node.targets:
                found += self._assigned(target, node.value)
        for node in self._nodes(ast.comprehension):
            element = self._type(node.iter).removeprefix("list of ")
            if element != self._type(node.iter) and isinstance(node.target, ast.Name):
                found.append((node.target.id, element))
        for node in self._nodes(ast.FunctionDef):
            returns = [each for each in ast.walk(node) if isinstance(each, ast.Return)]
            found += [(f"{node.name}()", self._type(each.value)) for each in returns]
        new = {name: kind for name, kind in found if kind and name not in self._types}
        for name, kind in found:
            known = self._types.get(name) or new.get(name, "")
            if kind and kind != known:
                raise ValueError(f"{name} is used as {known} and as {kind}: give it two names")
        self._types |= new
        return bool(new)

    def _assigned(self, target: ast.expr, value: ast.expr) -> list[tuple[str, str]]:
        match target, value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values):
                pairs = zip(targets, values, strict=True)
                return [each for pair in pairs for each in self._assigned(*pair)]
            case ast.Name(id=name), _:
                return [(name, self._type(value))]
            case ast.Attribute(value=ast.Name(id="self"), attr=name), _:
                return [(name, self._type(value))]
        return []


def problems(uses: Uses, bindings: Bindings) -> list[str]:
    """What the bindings lack, or take with other arguments: one line each."""
    found = []
    for use in uses.all():
        shown = f"{use.where}: {use.owner}.{use.name}"
        if use.owner == MODULE:
            if use.name not in bindings.names:
                found.append(f"{shown} is missing")
            elif use.name in bindings.classes and use.arguments is not None:
                found += _call_problems(bindings, use.name, "__init__", use.arguments, shown)
        elif use.name not in bindings.classes.get(use.owner, ()):
            found.append(f"{shown} is missing")
        elif use.arguments is not None and use.name != "__init__":
            found += _call_problems(bindings, use.owner, use.name, use.arguments, shown)
    for base, name, parameters in uses.overrides():
        if name not in bindings.classes.get(base, ()):
            found.append(f"{base}.{name}, which is overridden, is missing")
        elif parameters not in [each for each, *_ in bindings.signatures(base, name)]:
            found.append(f"{base}.{name} is overridden with {parameters}")
    return found


def _call_problems(
    bindings: Bindings,
    owner: str,
    method: str,
    arguments: tuple[int, tuple[str, ...]],
    shown: str,
) -> list[str]:
    positional, keywords = arguments
    for parameters, required, _ in bindings.signatures(owner, method):
        given = positional + len(keywords)
        if required <= given <= len(parameters) and set(keywords) <= set(
            parameters[positional:]
        ):
            return []
    return [f"{shown} does not take {positional} arguments and {list(keywords)}"]
