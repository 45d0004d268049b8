r"""Parse the operands of LaTeX expressions: numbers, symbols, functions, brackets, sets, matrices and arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from .expressions import Node, UnreadError, number
from .latex_tokens import Token, TokenStream

_OPENING = {"(": ")", "[": "]"}
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "vmatrix", "smallmatrix", "array"))
ACCENTS = frozenset(
    (r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\overrightarrow", r"\widehat", r"\underline")
)
"""Commands that make a symbol of their argument."""

PAIRED = {r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil"), "|": ("|", "abs"), r"\|": (r"\|", "norm")}
"""Signs of functions around their argument: the closing sign and the function."""

_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_WITHOUT_PARENTHESES = _TRIGONOMETRIC | {"log", "ln", "lg", "exp"}


class Atoms(TokenStream, ABC):
    """Parses operands; `latex_parser` parses the operators between them."""

    def __init__(self, token_list: list[Token], tight: bool) -> None:
        super().__init__(token_list)
        self.tight = tight
        self.bars = 0  # number of |…| that are open

    @abstractmethod
    def item(self) -> Node:
        """A chain of relations, or a single side."""

    @abstractmethod
    def sum(self) -> Node:
        """Terms, with + or - between them."""

    @abstractmethod
    def term(self) -> Node:
        """Factors, with a sign of multiplication or division between them, or side by side."""

    @abstractmethod
    def postfix(self) -> Node:
        """An operand with the signs behind it: powers, indices, factorials."""

    @abstractmethod
    def starts_factor(self) -> bool:
        """Whether the next token starts an operand."""

    def argument(self, *, whole: bool = False) -> Node:
        """A group in braces, or one token. With `whole`, a number without braces has all its digits and its sign."""
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
            other_digits = digits[1:]
            if other_digits:  # they go back as the next token
                if digits[0] == "." or other_digits[0] == ".":
                    raise UnreadError
                self.position -= 1
                self.tokens[self.position] = Token("num", other_digits, True, True)
            return number(digits[0])
        if self.kind() == "func" and self.tokens[self.position].text not in ("sqrt", "cbrt"):
            raise UnreadError
        return self.atom()

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
                raise UnreadError  # words side by side are no product
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
        if sign in ACCENTS:
            return self.accented(sign)
        if sign in (r"\angle", r"\triangle"):
            return Node("sym", name=f"{sign}{spelled(self.term())}")
        if sign in PAIRED:
            closing, name = PAIRED[sign]
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect(closing)
            return Node("call", (node,), name)
        raise UnreadError

    def number(self, token: Token) -> Node:
        """A number; the digits under \\overline repeat."""
        if "." in token.text and self.peek() == r"\overline":
            self.take()
            self.expect("{")
            digits = self.take()
            if digits.kind != "num" or not digits.text.isdecimal():
                raise UnreadError
            self.expect("}")
            start = number(token.text)
            decimals = len(token.text.partition(".")[2])
            repeated = Fraction(int(digits.text), (10 ** len(digits.text) - 1) * 10**decimals)
            return Node("num", name="", value=start.value + repeated)  # type: ignore[operator]
        return number(token.text)

    def accented(self, sign: str) -> Node:
        node = self.argument()
        if sign == r"\underline":
            return node
        return Node("sym", name=f"{sign}{spelled(node)}")

    def item_or_list(self, closing: str) -> Node:
        elements = [self.item()]
        while self.accept(","):
            elements.append(self.item())
        if self.peek() != closing:
            raise UnreadError
        return elements[0] if len(elements) == 1 else Node("list", tuple(elements))

    def elements(self, closing: str) -> list[Node]:
        """The elements between commas or semicolons, up to a closing sign."""
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
        """A group, a tuple or an interval. The two brackets of an interval may be of different kinds."""
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
        return Node("matrix", tuple(rows), "det" if name == "vmatrix" else "")

    def environment(self) -> str:
        self.expect("{")
        letters = []
        while not self.accept("}"):
            token = self.take()
            if token.kind not in ("word", "sym"):
                raise UnreadError
            letters.append(token.text)
        return "".join(letters)

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
                if sign == "!" or name not in _WITHOUT_PARENTHESES:
                    raise UnreadError
                if power is not None:
                    raise UnreadError
                # sin(x)^2 is (sin x)^2
                power = self.argument(whole=True)
        else:
            operand = self.operand()
        inverse = power is not None and power.op == "neg" and power.args[0].value == 1
        if inverse and name in _TRIGONOMETRIC:
            return Node("call", (operand,), "arc" + name)
        if base is not None and name != "log":
            raise UnreadError
        node = Node("call", (operand,) if base is None else (operand, base), name)
        return node if power is None else Node("pow", (node, power))

    def operand(self) -> Node:
        """The operand of a function without parentheses: the factors up to the next function, as in `sin 2x cos x`."""
        self.deeper()
        if self.peek() == "-":
            self.take()
            node = Node("neg", (self.operand(),))
        else:
            node = self.postfix()
            while self.longer() and self.starts_factor() and self.kind() not in ("func", "num", "word"):
                if self.peek() in ("(", "["):
                    break
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


def spelled(node: Node) -> str:
    """A node written as a name, for indices and accents."""
    inside = ",".join(spelled(argument) for argument in node.args)
    name = node.name if node.op in ("num", "sym", "word") else f"{node.op}{node.name}"
    return f"{name}({inside})" if inside and node.op != "mul" else inside.replace(",", "") if inside else name
