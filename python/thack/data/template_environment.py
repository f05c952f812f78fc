"""Jinja's own classes, changed so that a template's growth is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from thack.data.template_meter import Meter, TemplateExhausted, meter, spans


class Generation(Extension):
    """`{% generation %}` marks what the assistant writes. It changes no text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

    def _generated(self, caller: Callable[[], str]) -> str:
        text, found, metered = caller(), spans.get(), meter.get()
        if found is not None and metered is not None:
            found.append((metered.written, metered.written + len(text)))
        return text


class PublicNamespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __setitem__(self, name: str, value: object) -> None:
        if str(name).startswith("_"):
            raise TemplateError(f"a template may not set {name}")
        super().__setitem__(name, value)


class ToCalls(NodeTransformer):
    """What Jinja compiles to plain Python, as calls of methods of `Metered`."""

    def _call(self, name: str, *arguments: Any) -> Any:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)

    def visit_For(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._call("step")))
        return node

    def visit_Concat(self, node: Any) -> Any:
        self.generic_visit(node)
        return self._call("joined", *node.nodes)

    def visit_Getitem(self, node: Any) -> Any:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return self._call("sliced", node.node, *(nodes.Const(None) if one is None else one for one in bounds))

    def visit_List(self, node: Any) -> Any:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        is_constant = all(isinstance(item, nodes.Const) for item in node.iter_child_nodes())
        return node if is_target or is_constant else self._call("built", node)

    visit_Tuple = visit_Dict = visit_List


class Metered(ImmutableSandboxedEnvironment):
    """Counts what templates make."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def _generate(self, source: Any, *arguments: Any, **options: Any) -> Any:
        tree = ToCalls().visit(source)
        tree.set_environment(self)
        for node in tree.find_all(nodes.Node):
            node.lineno = getattr(node, "lineno", None) or 1
        return super()._generate(tree, *arguments, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        metered = meter.get()
        if metered is None:
            return super().call_binop(context, operator, left, right)
        metered.before_operator(operator, left, right)
        found = super().call_binop(context, operator, left, right)
        if isinstance(found, str | bytes | list | tuple):
            metered.spend(len(found) * (1 if isinstance(found, str | bytes) else 8))
        return found

    def call(self, context: Any, called: Any, *arguments: Any, **options: Any) -> Any:
        metered = meter.get()
        if metered is None:
            return super().call(context, called, *arguments, **options)
        metered.step()
        if getattr(called, "__self__", None) is self:
            return called(*arguments)
        before_call(metered, called, arguments, options)
        found = super().call(context, called, *arguments, **options)
        metered.made(found)
        return found

    def step(self) -> None:
        """Stands in the body of every loop; `call` counts it."""

    def joined(self, *parts: object) -> str:
        """`a ~ b`."""
        return self.concat(map(as_text, parts))

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> object:
        """`value[start:stop:step]`."""
        if (metered := meter.get()) is not None and isinstance(value, str | list | tuple):
            metered.spend(len(value) * (1 if isinstance(value, str) else 8))
        return value[start:stop:step]

    def built(self, value: object) -> object:
        """A list, tuple or dictionary that is written out."""
        if (metered := meter.get()) is not None:
            metered.made(value)
        return value

    def concat(self, parts: Iterable[str]) -> str:
        """Captured text: of a block, a macro, a call."""
        found = list(parts)
        if (metered := meter.get()) is not None:
            metered.spend(sum(map(len, found)))
        return "".join(found)


def as_text(value: object) -> str:
    """`str(value)`, counted."""
    if not isinstance(value, str) and (metered := meter.get()) is not None:
        metered.spend(metered.characters(value))
    return str(value)


def before_call(metered: Meter, called: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Count what a call is about to make."""
    name, owner = getattr(called, "__name__", ""), getattr(called, "__self__", None)
    if name in ("format", "format_map") and hasattr(called, "__wrapped__"):
        values = [*arguments, *options.values()]
        metered.before_format(called.__wrapped__.__self__, values)
    elif isinstance(owner, str):
        if name == "join" and not isinstance(arguments[0], str | list | tuple):
            raise TemplateExhausted("it joins what is no list")
        metered.before_method(owner, name, [*arguments, *options.values()])
