r"""A parser of the LaTeX of answers. It reads a text as a whole or not at all: nothing is left unread.

Recursive descent, bounded in depth and in tokens. Grammar, besides brackets, matrices and functions:

    item     = [sign] sum (sign sum)*              sign: = < > ≤ ≥ ≠ ∈
    sum      = term (("+" | "-") term)*
    term     = unary (("*" | "/" | juxtaposed) unary)*
    unary    = ("-" | "+") unary | postfix
    postfix  = atom ("^" argument | "!" | "%" | degree)*

As in TeX, an argument without braces is one sign or command (`\frac12`, `\frac \pi4`); after ^, _ and \sqrt it is a
whole number. `1/2x` is (1/2)x, or 1/(2x) where `tight` is set: people mean either.
"""

from __future__ import annotations

from fractions import Fraction

from .expressions import Node, Token, UnreadError, number, tokens

_DEEPEST = 40
_LONGEST_CHAIN = 60  # factors of a product, signs after an atom: each is one level of the tree
_RELATIONS = frozenset(("=", "<", ">", "<=", ">=", "!=", r"\in", r"\approx", r"\equiv"))
_OPENING = {"(": ")", "[": "]"}
_SETS = frozenset((r"\cup", r"\cap", r"\setminus"))
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array"))
_ACCENTS = frozenset(
    (r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\overrightarrow", r"\widehat", r"\underline")
)
_PAIRED = {r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil"), "|": ("|", "abs"), r"\|": (r"\|", "norm")}
_STARTS = frozenset(("(", "[", "{", r"\{", r"\frac", r"\binom", r"\infty", r"\emptyset", r"\begin", r"\langle"))
_NO_MORE_ARGUMENT = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "lg", "exp"))


def parse(text: str, *, tight: bool = False) -> Node:
    """The tree of a plain LaTeX text (see `latex_text.plain_latex`).

    Raises:
        UnreadError: the grammar does not hold all of the text, or it is too long or too deep.
    """
    parser = _Parser(tokens(text), tight)
    node = parser.item()
    if parser.peek() is not None:
        raise UnreadError
    return node


class _Parser:
    def __init__(self, read: list[Token], tight: bool) -> None:
        self.tokens = read
        self.tight = tight
        self.place = self.depth = self.chained = 0
        self.bars = 0  # |…| that are open

    # Tokens.

    def peek(self, ahead: int = 0) -> str | None:
        """The sign that comes, "" for a number, symbol, function or word, None at the end."""
        place = self.place + ahead
        if place >= len(self.tokens):
            return None
        return self.tokens[place].text if self.tokens[place].kind == "sign" else ""

    def kind(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].kind if place < len(self.tokens) else ""

    def take(self) -> Token:
        if self.place >= len(self.tokens):
            raise UnreadError
        self.place += 1
        return self.tokens[self.place - 1]

    def accept(self, sign: str) -> bool:
        if self.peek() == sign:
            self.place += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise UnreadError

    # Grammar.

    def item(self) -> Node:
        """A chain of relations, or one side alone; a side that is missing on the left makes a bound."""
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
        for _ in range(_LONGEST_CHAIN):
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
            self.place += 2
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
        for _ in range(_LONGEST_CHAIN):
            sign = self.peek()
            if sign == "*":
                self.take()
                node = Node("mul", (node, self.unary()))
            elif sign == "/":
                self.take()
                divisor = self.unary()
                while self.tight and self.starts_factor() and self.deeper_chain():
                    divisor = Node("mul", (divisor, self.postfix()))
                node = Node("div", (node, divisor))
            elif self.starts_factor():
                if self.kind() == "num" and self.tokens[self.place - 1].kind == "num":
                    raise UnreadError  # 1 23
                node = self.juxtaposed(node)
            else:
                return node
        raise UnreadError

    def juxtaposed(self, node: Node) -> Node:
        """A product without a sign; a whole number before a proper fraction is a mixed number."""
        mixed = node
        negative = mixed.op == "neg" and len(mixed.args) == 1
        whole = mixed.args[0] if negative else mixed
        is_fraction = self.peek() == r"\frac"
        is_plain = self.kind() == "num" and self.tokens[self.place - 1].text not in ("!", ")")
        factor = self.postfix()
        over, under = factor.args if factor.op == "div" else (None, None)
        if is_fraction and over and under and whole.op == over.op == under.op == "num":
            if whole.name.isdecimal() and over.name.isdecimal() and under.name.isdecimal() and over.value < under.value:  # type: ignore[operator]
                total = Node("add", (whole, factor))
                return Node("neg", (total,)) if negative else total
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
        return (
            sign in _STARTS
            or sign in _ACCENTS
            or sign in _PAIRED
            or sign in (r"\angle", r"\triangle", r"\sqrt", r"\sqrt")
        )

    def postfix(self) -> Node:
        node = self.atom()
        for _ in range(_LONGEST_CHAIN // 10):
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
            self.place += 3
            return Node("sym", name=node.name + "'")
        return Node("pow", (node, self.argument(whole=True)))

    def lowered(self, node: Node) -> Node:
        """A symbol with an index is a symbol."""
        if node.op != "sym":
            raise UnreadError
        return Node("sym", name=f"{node.name}_{_spelled(self.argument(whole=True))}")

    def argument(self, *, whole: bool = False) -> Node:
        """What is in braces, or one token; `whole`: all digits of a number, with its sign."""
        if self.accept("{"):
            node = self.item()
            self.expect("}")
            return node
        if whole and self.peek() in ("-", "+"):
            sign = self.take().text
            node = self.argument(whole=True)
            return Node("neg", (node,)) if sign == "-" else node
        if self.kind() == "num" and not whole:
            digits = self.take().text
            rest = digits[1:]
            if rest:  # the other digits are what follows
                if digits[0] == "." or rest[0] == ".":
                    raise UnreadError
                self.place -= 1
                self.tokens[self.place] = Token("num", rest, True, True)
            return number(digits[0])
        if self.kind() == "func" and self.tokens[self.place].text not in ("sqrt", "cbrt"):
            raise UnreadError
        return self.atom()

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > 2 * _DEEPEST:
            raise UnreadError

    def deeper_chain(self) -> bool:
        """Count a factor that a loop adds to a tree, over all of the text."""
        self.chained += 1
        if self.chained > 2 * _LONGEST_CHAIN:
            raise UnreadError
        return True

    def atom(self) -> Node:
        self.deeper()
        token = self.take()
        node = self._atom(token)
        self.depth -= 1
        return node

    def _atom(self, token: Token) -> Node:
        if token.kind == "num":
            return self.number(token)
        if token.kind == "sym":
            return Node("sym", name=token.text)
        if token.kind == "word":
            if self.kind() == "word":
                raise UnreadError  # a phrase is no product
            return Node("word", name=token.text)
        if token.kind == "func":
            return self.function(token)
        sign = token.text
        if sign in _OPENING:
            return self.bracketed(sign)
        if sign == "{":
            node = self.item_or_list("}")
            self.expect("}")
            return node
        if sign == r"\{":
            elements = self.elements(r"\}")
            return Node("set", tuple(elements))
        if sign == r"\langle":
            return Node("tuple", tuple(self.elements(r"\rangle")), "()")
        if sign == r"\frac":
            over = self.argument()
            return Node("div", (over, self.argument()))
        if sign == r"\binom":
            over = self.argument()
            return Node("call", (over, self.argument()), "binom")
        if sign == r"\infty":
            return Node("inf")
        if sign == r"\emptyset":
            return Node("set")
        if sign == r"\begin":
            return self.matrix()
        if sign in _ACCENTS:
            return self.accented(sign)
        if sign in (r"\angle", r"\triangle"):
            return Node("sym", name=f"{sign}{_spelled(self.term())}")
        if sign in _PAIRED:
            closing, name = _PAIRED[sign]
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect(closing)
            return Node("call", (node,), name)
        raise UnreadError

    def number(self, token: Token) -> Node:
        """A number, with the digits that repeat under \\overline."""
        if "." in token.text and self.peek() == r"\overline":
            self.take()
            self.expect("{")
            digits = self.take()
            if digits.kind != "num" or not digits.text.isdecimal():
                raise UnreadError
            self.expect("}")
            start = number(token.text)
            places = len(token.text.partition(".")[2])
            repeated = Fraction(int(digits.text), (10 ** len(digits.text) - 1) * 10**places)
            return Node("num", name="", value=start.value + repeated)  # type: ignore[operator]
        return number(token.text)

    def accented(self, sign: str) -> Node:
        node = self.argument()
        if sign == r"\underline":
            return node
        return Node("sym", name=f"{sign}{_spelled(node)}")

    def item_or_list(self, closing: str) -> Node:
        elements = [self.item()]
        while self.accept(","):
            elements.append(self.item())
        if self.peek() != closing:
            raise UnreadError
        return elements[0] if len(elements) == 1 else Node("list", tuple(elements))

    def elements(self, closing: str) -> list[Node]:
        """What stands between commas (or semicolons) up to a closing sign."""
        bars, self.bars = self.bars, 0
        elements: list[Node] = []
        if not self.accept(closing):
            elements.append(self.item())
            while self.accept(",") or self.accept(";"):
                elements.append(self.item())
            self.expect(closing)
        self.bars = bars
        return elements

    def bracketed(self, sign: str) -> Node:
        """A group, a tuple or an interval; the closing bracket of an interval may be of the other kind."""
        bars, self.bars = self.bars, 0
        elements = [self.item()]
        while self.accept(",") or self.accept(";"):
            elements.append(self.item())
        closing = self.take().text
        self.bars = bars
        if closing not in (")", "]") or (len(elements) == 1 and closing != _OPENING[sign]):
            raise UnreadError
        return elements[0] if len(elements) == 1 else Node("tuple", tuple(elements), sign + closing)

    def matrix(self) -> Node:
        name = self.environment()
        if name not in _MATRICES:
            raise UnreadError
        if name == "array" and self.accept("{"):
            while not self.accept("}"):
                self.take()
        rows: list[Node] = []
        cells: list[Node] = []
        while True:
            cells.append(self.item())
            if self.accept("&"):
                continue
            rows.append(Node("row", tuple(cells)))
            cells = []
            ended = not self.accept(r"\\")
            if self.peek() == r"\end":
                break
            if ended:
                raise UnreadError
        self.expect(r"\end")
        if self.environment() != name or len({len(row.args) for row in rows}) != 1:
            raise UnreadError
        return Node("matrix", tuple(rows), "det" if name == "vmatrix" else "norm" if name == "Vmatrix" else "")

    def environment(self) -> str:
        self.expect("{")
        letters = []
        while not self.accept("}"):
            token = self.take()
            if token.kind not in ("word", "sym"):
                raise UnreadError
            letters.append(token.text)
        return "".join(letters).replace("bmatrix", "bmatrix")

    def function(self, token: Token) -> Node:
        name = token.text
        if name == "sqrt":
            return self.root()
        base = None
        if self.accept("_"):
            base = self.argument(whole=True)
        power = None
        if self.accept("^"):
            power = self.argument(whole=True)
        if name in ("max", "min", "gcd", "lcm"):
            self.expect("(")
            return Node("call", tuple(self.elements(")")), name)
        if self.peek() == "(":
            operand = self.atom()
            if operand.op == "tuple":
                raise UnreadError
            while self.peek() in ("!", "^"):
                sign = self.take().text
                if sign == "!" or name not in _NO_MORE_ARGUMENT:
                    raise UnreadError
                if power is not None:
                    raise UnreadError
                # sin(x)^2 is (sin x)^2
                power = self.argument(whole=True)
        else:
            operand = self.operand()
        inverse = power is not None and power.op == "neg" and power.args[0].value == 1
        if inverse and name in ("sin", "cos", "tan", "cot", "sec", "csc"):
            return Node("call", (operand,), "arc" + name)
        if base is not None and name != "log":
            raise UnreadError
        node = Node("call", (operand,) if base is None else (operand, base), name)
        return node if power is None else Node("pow", (node, power))

    def operand(self) -> Node:
        """What a function without parentheses takes: factors side by side, as in `sin 2x cos x`, up to a function."""
        self.deeper()
        if self.peek() == "-":
            self.take()
            node = Node("neg", (self.operand(),))
        else:
            node = self.postfix()
            while self.deeper_chain() and self.starts_factor() and self.kind() not in ("func", "num", "word") and self.peek() not in ("(", "["):
                node = Node("mul", (node, self.postfix()))
            if self.peek() == "/" and self.tight and self.kind(1) in ("num", "sym"):
                self.take()
                node = Node("div", (node, self.postfix()))
        self.depth -= 1
        return node

    def root(self) -> Node:
        index: Node | None = None
        if self.peek() == "[":
            self.take()
            index = self.sum()
            self.expect("]")
        operand = self.argument(whole=True)
        if operand.op in ("tuple", "list", "relation", "bound"):
            raise UnreadError
        return Node("call", (operand,) if index is None else (operand, index), "root")


def _spelled(node: Node) -> str:
    """A node as a name, for indices and accents."""
    inside = ",".join(_spelled(argument) for argument in node.args)
    name = node.name if node.op in ("num", "sym", "word") else f"{node.op}{node.name}"
    return f"{name}({inside})" if inside and node.op != "mul" else inside.replace(",", "") if inside else name
