"""Statements of Python in postfix form: operands first, then the operator, or the call with its number of arguments.

    default = defaults.get(option.dest)   →   defaults .get option .dest call1 default =
    return not self.closed                →   self .closed not return

A task in which the prompt decides the response: given the statement, there is one right answer and no freedom. In
docstrings and continuations, other responses to a prompt are as new to a student as other prompts are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.MatMult: "@", ast.LShift: "<<", ast.RShift: ">>", ast.BitOr: "|", ast.BitXor: "^", ast.BitAnd: "&",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is",
    ast.IsNot: "is-not", ast.In: "in", ast.NotIn: "not-in", ast.And: "and", ast.Or: "or",
    ast.Not: "not", ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "~",
}  # fmt: skip


_AMBIGUOUS = re.compile(r"(call|list|tuple|set|dict|and|or)\d+|neg|pos")  # names that would read as operators


class _NoForm(Exception):
    """The statement holds something without a postfix form here, such as a lambda or a comprehension."""


def postfix(statement: ast.stmt) -> str | None:
    """The postfix form of an assignment, return, call, raise, assert or del; None for everything else.

    Args:
        statement: parsed.

    Returns:
        Words separated by blanks. Words that end in a number say how many operands they take.

    Example:
        >>> postfix(ast.parse("x = f(a, b[0], key=-1)").body[0])
        'f a b 0 [] 1 neg key: call3 x ='
    """
    try:
        return " ".join(_statement(statement))
    except _NoForm:
        return None


def _statement(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.Assign(targets=[target], value=value):
            yield from _words(value, target)
            yield "="
        case ast.AugAssign(target=target, op=op, value=value):
            yield from _words(value, target)
            yield f"{_OPERATORS[type(op)]}="
        case ast.Return(value=ast.expr() as value):
            yield from _words(value)
            yield "return"
        case ast.Raise(exc=ast.expr() as value, cause=None):
            yield from _words(value)
            yield "raise"
        case ast.Assert(test=test, msg=None):
            yield from _words(test)
            yield "assert"
        case ast.Delete(targets=[target]):
            yield from _words(target)
            yield "del"
        case ast.Expr(value=ast.Call() as value):
            yield from _words(value)
        case _:
            raise _NoForm


def _words(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        yield from _expression(node)


def _expression(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Name(id=name) if not _AMBIGUOUS.fullmatch(name):
            yield name
        case ast.Constant(value=value):
            yield _constant(value)
        case ast.Attribute(value=value, attr=name):
            yield from _words(value)
            yield f".{name}"
        case ast.Call(func=function, args=arguments, keywords=keywords):
            yield from _words(function, *arguments)
            for keyword in keywords:
                yield from _words(keyword.value)
                yield f"{keyword.arg}:" if keyword.arg else "**:"
            yield f"call{len(arguments) + len(keywords)}"
        case ast.Subscript(value=value, slice=index):
            yield from _words(value, index)
            yield "[]"
        case ast.Slice(lower=lower, upper=upper, step=None):
            yield from _words(*(part for part in (lower, upper) if part is not None))
            yield f"{'from' if lower else ''}{'to' if upper else ''}:"
        case _:
            yield from _operation(node)


def _operation(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            yield from _words(left, right)
            yield _OPERATORS[type(op)]
        case ast.UnaryOp(op=op, operand=operand):
            yield from _words(operand)
            yield _OPERATORS[type(op)]
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield from _words(left, right)
            yield _OPERATORS[type(op)]
        case ast.BoolOp(op=op, values=values):
            yield from _words(*values)
            yield f"{_OPERATORS[type(op)]}{len(values)}"
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            yield from _words(test, body, otherwise)
            yield "if-else"
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            yield from _words(*items)
            yield f"{type(node).__name__.lower()}{len(items)}"
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            yield from _words(*(part for pair in zip(keys, values, strict=True) for part in pair if part is not None))
            yield f"dict{len(values)}"
        case ast.Starred(value=value):
            yield from _words(value)
            yield "*:"
        case _:
            raise _NoForm


def _constant(value: object) -> str:
    text = "..." if value is ... else repr(value)
    if " " in text:  # words are separated by blanks
        raise _NoForm
    return text
