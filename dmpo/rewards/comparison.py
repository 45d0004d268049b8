r"""Whether two parsed answers are the same: numbers, relations, intervals, tuples, sets, matrices.

The table in docs/rewards.md lists what counts as equal. `number_comparison` compares single values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .evaluation import near
from .expressions import Node, UndecidedError, symbols
from .number_comparison import VALUES, has_no_value, same_number
from .numeric import Numeric

_ROUNDED = 0.05  # the largest relative difference of the two sides of ≈
_COLLECTIONS = frozenset(("list", "set", "tuple", "union", "intersection", "difference", "matrix"))
_REVERSED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_MOST_MATCHED = 40  # the most elements of a list whose order is free


def same(answer: Node, gold: Node) -> bool:
    """Whether an answer equals the right answer."""
    if answer == gold:
        return not has_no_value(answer)
    answer, gold = _without_assignment(answer, gold), _without_assignment(gold, answer)
    if answer.op == gold.op == "relation":
        return _same_relation(answer, gold)
    if answer.op == gold.op == "bound":
        return answer.name == gold.name and _same_all(answer.args, gold.args)
    if gold.op in ("tuple", "union") and answer.op == "relation":
        interval = _interval(answer)
        return interval is not None and same(interval, gold)
    if answer.op in ("tuple", "union") and gold.op == "relation":
        interval = _interval(gold)
        return interval is not None and same(answer, interval)
    if answer.op == "mod" and gold.op == "mod":
        return _same_all(answer.args, gold.args)
    if answer.op in _COLLECTIONS or gold.op in _COLLECTIONS:
        return _same_collection(answer, gold)
    if answer.op in VALUES and gold.op in VALUES:
        return same_number(answer, gold)
    return False


def same_unordered(answers: Sequence[Node], golds: Sequence[Node], equal: Callable[[Node, Node], bool] = same) -> bool:
    """Whether two lists have the same elements, in any order and each equally often."""
    if len(answers) != len(golds) or len(golds) > _MOST_MATCHED:
        return False
    unmatched = list(answers)
    for gold in golds:
        index = next((index for index, answer in enumerate(unmatched) if equal(answer, gold)), None)
        if index is None:
            return False
        unmatched.pop(index)
    return True


def distinct(nodes: Sequence[Node]) -> list[Node]:
    """The nodes without repeats: a node that equals an earlier one is left out."""
    result: list[Node] = []
    for node in nodes[:_MOST_MATCHED]:
        if not any(same(node, other) for other in result):
            result.append(node)
    return [*result, *nodes[_MOST_MATCHED:]]


def _same_all(answers: Sequence[Node], golds: Sequence[Node]) -> bool:
    return len(answers) == len(golds) and all(same(a, b) for a, b in zip(answers, golds, strict=True))


# Equations and inequalities.


def _without_assignment(node: Node, other: Node) -> Node:
    """The value of an equation that names the answer (`x = 5`, `f(x) = 2x`) or is true (`2 + 3 = 5`); else the node."""
    if node.op != "relation":
        return node
    signs = node.name.split()
    if signs[-1] == r"\in":
        return node.args[-1] if len(signs) == 1 else node
    if other.op == "list" and node.name == "=" and node.args[0].op == node.args[1].op == "tuple":  # (x, y) = (1, 2)
        pairs = zip(node.args[0].args, node.args[1].args, strict=False)
        return Node("list", tuple(Node("relation", pair, "=") for pair in pairs))
    if other.op == "relation" or (other.op == "list" and all(argument.op == "relation" for argument in other.args)):
        same_left = other.op == "relation" and set(signs) == {"="} and other.name.split() == ["="]
        if same_left and len(signs) > 1 and same(node.args[0], other.args[0]):
            return Node("relation", (node.args[0], node.args[-1]), "=")  # x = 2 + 3 = 5
        return node
    if r"\approx" in signs:  # sqrt(2) ≈ 1.41: the exact side is the answer, unless it is only a name
        exact = signs.index(r"\approx")
        if exact == 0:
            if _is_unknown(node.args[0]):
                return node.args[-1] if len(signs) == 1 else node
            return node.args[0] if near(node.args[0], node.args[1], _ROUNDED) else node
        return _without_assignment(Node("relation", node.args[: exact + 1], " ".join(signs[:exact])), other)
    if set(signs) != {"="}:
        return node
    first, last = node.args[0], node.args[-1]
    if len(signs) == 1 and last.op == "sym" and not symbols(first):  # 5 = x
        return first
    sides = node.args[1:] if _is_unknown(first) else node.args
    return last if all(same(side, last) for side in sides[:-1]) else node


def _is_unknown(node: Node) -> bool:
    """Whether a side of an equation only names the answer: it has symbols and no numbers."""
    if node.op in ("sym", "word"):
        return True
    if node.op not in ("add", "mul", "div", "call", "tuple") or node.name in ("root", "cbrt", "log", "ln", "lg", "exp"):
        return False  # in -x = 5 and in ln x = 5 the answer is not 5
    if node.op == "add":
        return all(_is_unknown(term.args[0] if term.op == "neg" else term) for term in node.args)
    return bool(node.args) and all(_is_unknown(argument) for argument in node.args)


def _pairs(node: Node) -> list[tuple[str, Node, Node]]:
    """A chain of relations as pairs of sides; > and ≥ are turned into < and ≤."""
    pairs = []
    for sign, left, right in zip(node.name.split(), node.args, node.args[1:], strict=False):
        pairs.append((sign, left, right) if sign not in (">", ">=") else (_REVERSED[sign], right, left))
    return pairs


def _same_relation(answer: Node, gold: Node) -> bool:
    intervals = _interval(answer), _interval(gold)
    if intervals[0] and intervals[1] and symbols(answer) == symbols(gold):
        return same(intervals[0], intervals[1])
    answers, golds = _pairs(answer), _pairs(gold)
    if len(answers) != len(golds):
        return False
    unmatched = list(answers)
    for pair in golds:
        index = next((index for index, other in enumerate(unmatched) if _same_pair(other, pair)), None)
        if index is None:
            return False
        unmatched.pop(index)
    return True


def _same_pair(answer: tuple[str, Node, Node], gold: tuple[str, Node, Node]) -> bool:
    r"""Whether two relations are equivalent.

    They are if the differences of their sides have a constant quotient, which is positive for < and ≤.
    """
    sign, left, right = answer
    if sign != gold[0]:
        return False
    if same(left, gold[1]) and same(right, gold[2]):
        return True
    if sign in ("=", "!=") and same(left, gold[2]) and same(right, gold[1]):
        return True
    if sign not in _REVERSED or not all(node.op in VALUES for node in (*answer[1:], *gold[1:])):
        return False
    differences = [Node("add", (a, Node("neg", (b,)))) for _, a, b in (answer, gold)]
    names = symbols(differences[0])
    if not names or names != symbols(differences[1]):
        return False
    quotient = Node("div", (differences[0], differences[1]))
    try:
        values = []
        for point in (0, 1, 2):
            numeric = Numeric(point, 60)
            value = numeric.value(quotient)
            if numeric.is_zero(value) or numeric.mp.im(value):
                return False
            values.append(numeric.mp.re(value))
    except UndecidedError:
        return False
    constant = all(abs(value - values[0]) <= abs(values[0]) / 10**30 for value in values)
    return constant and (sign in ("=", "!=") or values[0] > 0)


def _interval(node: Node) -> Node | None:
    """The interval of an inequality between one symbol and numbers; None if the node is no such inequality."""
    names = {argument.name for argument in node.args if argument.op == "sym"}
    if len(names) != 1 or not all(argument.op == "sym" or not symbols(argument) for argument in node.args):
        return None
    low, high, opening, closing = Node("neg", (Node("inf"),)), Node("inf"), "(", ")"
    pairs = _pairs(node)
    if len(pairs) > 2 or any(sign not in ("<", "<=") for sign, _, _ in pairs):
        return None
    for sign, left, right in pairs:
        if left.op == "sym":
            high, closing = right, ")" if sign == "<" else "]"
        else:
            low, opening = left, "(" if sign == "<" else "["
    return Node("tuple", (low, high), opening + closing)


# Lists, sets, intervals, matrices.


def _same_collection(answer: Node, gold: Node) -> bool:
    if "matrix" in (answer.op, gold.op):
        return answer.op == gold.op and answer.name == gold.name and _same_matrix(answer, gold)
    if "union" in (answer.op, gold.op):
        return _same_union(answer, gold)
    if answer.op in ("intersection", "difference") or gold.op in ("intersection", "difference"):
        return answer.op == gold.op and _same_all(answer.args, gold.args)
    kinds = {answer.op, gold.op}
    if kinds == {"tuple"}:
        return answer.name == gold.name and _same_all(answer.args, gold.args)
    if kinds == {"set"}:
        return same_unordered(distinct(answer.args), distinct(gold.args))
    if kinds == {"list"}:
        return same_unordered(answer.args, gold.args)
    if kinds == {"list", "set"}:
        return same_unordered(distinct(answer.args), distinct(gold.args))
    if kinds == {"list", "tuple"}:  # in the order of the tuple, as in (x, y) = (1, 2) for x = 1, y = 2
        ordered, listed = (answer, gold) if answer.op == "tuple" else (gold, answer)
        return ordered.name == "()" and _same_all(
            tuple(_without_assignment(node, Node("num")) for node in listed.args), ordered.args
        )
    one, many = (answer, gold) if answer.op in VALUES else (gold, answer)
    if many.op in ("set", "list") and len(many.args) == 1 and one.op in VALUES:
        return same(one, many.args[0])
    return False


def _same_matrix(answer: Node, gold: Node) -> bool:
    return len(answer.args) == len(gold.args) and all(
        _same_all(a.args, b.args) for a, b in zip(answer.args, gold.args, strict=True)
    )


def _same_union(answer: Node, gold: Node) -> bool:
    def members(node: Node) -> list[Node]:
        if node.op in ("union", "list"):
            return [member for argument in node.args for member in members(argument)]
        interval = _interval(node) if node.op == "relation" else None
        return [interval or node]

    return same_unordered(members(answer), members(gold))
