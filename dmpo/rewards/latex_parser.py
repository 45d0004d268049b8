r"""A parser of the LaTeX of answers. It parses the whole text, or refuses it: it skips nothing.

It works by recursive descent, with a bounded depth and a bounded number of tokens. The grammar, without brackets,
matrices and functions, is:

    item     = [sign] sum (sign sum)*              sign: = < > ≤ ≥ ≠ ∈
    sum      = term (("+" | "-") term)*
    term     = unary (("*" | "/" | juxtaposed) unary)*
    unary    = ("-" | "+") unary | postfix
    postfix  = atom ("^" argument | "!" | "%" | degree)*

As in TeX, an argument without braces is one sign or command (`\frac12`, `\frac \pi4`). After ^, _ and \sqrt it is a
whole number. `1/2x` is (1/2)x, or 1/(2x) if `tight` is set, because people use it for both.
"""

from __future__ import annotations

from .expressions import Node, UnreadError
from .latex_atoms import ACCENTS, PAIRED, Atoms, spelled
from .latex_tokens import LONGEST_CHAIN, tokens

_RELATIONS = frozenset(("=", "<", ">", "<=", ">=", "!=", r"\in", r"\approx", r"\equiv"))
_SETS = frozenset((r"\cup", r"\cap", r"\setminus"))
_MOST_ENDINGS = 6  # the most signs behind an operand
_STARTS = frozenset(
    ("(", "[", "{", r"\{", r"\frac", r"\binom", r"\infty", r"\emptyset", r"\begin", r"\langle", r"\angle", r"\triangle")
)


def parse(text: str, *, tight: bool = False) -> Node:
    """The tree of a plain LaTeX text (see `latex_text.plain_latex`).

    Raises:
        UnreadError: the grammar does not have all of the text, or the text is too long or too deeply nested.
    """
    parser = _Parser(tokens(text), tight)
    node = parser.item()
    if parser.peek() is not None:
        raise UnreadError
    return node


class _Parser(Atoms):
    def item(self) -> Node:
        """A chain of relations, or a single side. Without a left side it is a bound."""
        self.accept("=")
        first = None if self.peek() in _RELATIONS else self.sets()
        sides, signs = [] if first is None else [first], []
        while self.peek() in _RELATIONS:
            signs.append(self.take().text)
            sides.append(self.sets())
        if first is None:
            return Node("bound", tuple(sides), " ".join(signs))
        return Node("relation", tuple(sides), " ".join(signs)) if signs else first

    def sets(self) -> Node:
        node = self.ratio()
        for _ in range(LONGEST_CHAIN):
            if self.peek() not in _SETS:
                return node
            op = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "difference"}[self.take().text]
            node = Node(op, (node, self.ratio()))
        raise UnreadError

    def ratio(self) -> Node:
        node = self.sum()
        if self.peek() == "mod":
            self.take()
            braced = self.peek() in ("(", "{")
            node = Node("mod", (node, self.atom() if braced else self.sum()))
        elif self.peek() == "(" and self.peek(1) == "mod":
            self.position += 2
            node = Node("mod", (node, self.sum()))
            self.expect(")")
        terms = [node]
        while self.accept(":"):
            terms.append(self.sum())
        return terms[0] if len(terms) == 1 else Node("ratio", tuple(terms))

    def sum(self) -> Node:
        self.deeper()
        terms = [self.term()]
        while self.peek() in ("+", "-"):
            sign = self.take().text
            term = self.term()
            terms.append(Node("neg", (term,)) if sign == "-" else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def term(self) -> Node:
        node = self.unary()
        for _ in range(LONGEST_CHAIN):
            sign = self.peek()
            if sign == "*":
                self.take()
                node = Node("mul", (node, self.unary()))
            elif sign == "/":
                self.take()
                divisor = self.unary()
                while self.tight and self.starts_factor() and self.longer():
                    divisor = Node("mul", (divisor, self.postfix()))
                node = Node("div", (node, divisor))
            elif self.starts_factor():
                if self.kind() == "num" and self.tokens[self.position - 1].kind == "num":
                    raise UnreadError  # `1 23` is no product
                node = self.juxtaposed(node)
            else:
                return node
        raise UnreadError

    def juxtaposed(self, node: Node) -> Node:
        """A product without a sign, or a mixed number: a whole number before a proper fraction."""
        negative = node.op == "neg"
        whole = node.args[0] if negative else node
        is_fraction = self.peek() == r"\frac"
        is_plain = self.kind() == "num" and self.tokens[self.position - 1].text not in ("!", ")")
        factor = self.postfix()
        suffix = factor.op if factor.op in ("percent", "degree") else ""  # as in 33\frac{1}{3}\%
        fraction = factor.args[0] if suffix else factor
        over, under = fraction.args if fraction.op == "div" else (None, None)
        integers = all(side is not None and side.op == "num" and side.name.isdecimal() for side in (whole, over, under))
        if is_fraction and integers and over and under and int(over.name) < int(under.name):
            total = Node("add", (whole, fraction))
            total = Node("neg", (total,)) if negative else total
            return Node(suffix, (total,)) if suffix else total
        if is_plain:
            raise UnreadError
        return Node("mul", (node, factor))

    def unary(self) -> Node:
        self.deeper()
        if self.peek() in ("-", "+"):
            sign = self.take().text
            node = self.unary()
            node = Node("neg", (node,)) if sign == "-" else node
        else:
            node = self.postfix()
        self.depth -= 1
        return node

    def starts_factor(self) -> bool:
        sign = self.peek()
        if sign is None:
            return False
        if sign == "":
            return True
        if sign == "(" and self.peek(1) == "mod":
            return False
        if sign == "|" or sign == r"\|":
            return self.bars == 0
        return sign in _STARTS or sign in ACCENTS or sign in PAIRED

    def postfix(self) -> Node:
        node = self.atom()
        for _ in range(_MOST_ENDINGS):
            sign = self.peek()
            if sign == "^":
                self.take()
                node = self.raised(node)
            elif sign == "!":
                self.take()
                node = Node("fact", (node,))
            elif sign == "%":
                self.take()
                node = Node("percent", (node,))
            elif sign == "'":
                self.take()
                if node.op != "sym":
                    raise UnreadError
                node = Node("sym", name=node.name + "'")
            elif sign == "_":
                self.take()
                node = self.lowered(node)
            else:
                return node
        raise UnreadError

    def raised(self, node: Node) -> Node:
        if self.accept(r"\circ"):
            return Node("degree", (node,))
        if self.peek() == "{" and self.peek(1) == r"\prime" and self.peek(2) == "}":
            self.position += 3
            return Node("sym", name=node.name + "'")
        return Node("pow", (node, self.argument(whole=True)))

    def lowered(self, node: Node) -> Node:
        """A symbol with an index is a symbol."""
        if node.op != "sym":
            raise UnreadError
        return Node("sym", name=f"{node.name}_{spelled(self.argument(whole=True))}")
