r"""Rewrite LaTeX answers in one form: signs, spaces, fonts and digit groups. Also compare answers in words.

`plain_latex` changes how an answer is written and never what it means. It leaves a sign that it does not know. The
manuals of LaTeX and amsmath list the commands. The forms are taken from MATH's solutions (Hendrycks et al., arXiv
2103.03874) and from the output of models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_FONTS_TEXT = """
    bf bm boldsymbol emph hbox mathbb mathbf mathcal mathit mathnormal mathrm mathsf mathtt mbox operatorname rm
    text textbf textit textnormal textrm textsc textsf texttt textup underline
"""
FONTS = frozenset(_FONTS_TEXT.split())
FONT_COMMAND = re.compile(r"\\(?:" + "|".join(sorted(FONTS, key=len, reverse=True)) + r")(?![A-Za-z])\*?")
_RAISED = "[⁰¹²³⁴-⁹⁻]+"
_LOWERED = "[₀-₉]+"


def _fraction_sign(match: re.Match[str]) -> str:
    return r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", match[0]).split("\u2044"))


def _raised(match: re.Match[str]) -> str:
    return f"^{{{unicodedata.normalize('NFKC', match[0]).replace(chr(0x2212), '-')}}}"


# Signs that people type instead of commands. Digits of other scripts are not replaced, so they are not parsed.
_SIGNS: dict[str, str] = {
    **dict.fromkeys("−–—‒﹣－➖", r"-"),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("×✕", r"\times "),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **dict.fromkeys("′’", r"'"),
    **dict.fromkeys("∕⁄", r"/"),
    **dict.fromkeys("\u00b0º", r"^\circ "),
    **dict.fromkeys("≤⩽", r"\le "),
    **dict.fromkeys("≥⩾", r"\ge "),
    **dict.fromkeys("\u03bcµ", r"\mu "),
    "÷": r"\div ",
    "∗": "*",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∞": r"\infty ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "∖": r"\setminus ",
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "σ": r"\sigma ",
    "ω": r"\omega ",
    "δ": r"\delta ",
    "ε": r"\epsilon ",
    "ρ": r"\rho ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}",
    "¬": r"\neg ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "％": r"\%",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "→": r"\to ",
    "…": r"\ldots ",
}
_SIGN_TABLE = str.maketrans(_SIGNS)

_Replacement = str | Callable[[re.Match[str]], str]
_RENAMED: tuple[tuple[re.Pattern[str], _Replacement], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[¼-¾⅐-⅞]", _fraction_sign),
        (_RAISED, _raised),
        (_LOWERED, lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}"),
        # The ends of formulas; the end of a matrix row (`\\[4pt]`) is not one.
        (r"(\\\\)\s*(?:\[\s*-?[0-9.]+\s*(?:pt|ex|em|mm|cm|in)\s*\])?", r"\1 "),
        (r"(\\\\)|\\[()\[\]]|(?<!\\)\$", r"\1"),
        (r"\\(?:left|right|middle)\s*\.", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut|nonumber|null)(?![A-Za-z])", " "),
        (r"\\(?:[dtcs]|nice)frac(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"(?<=[0-9.])\\(?:bar|dot)\s*\{(?=[0-9])", r"\\overline{"),
        (r"(?<=[0-9])\s*o'clock$", ""),
        (r"\{\s*([:=<>])\s*\}", r"\1"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\(?:varnothing|empty|O)(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:leqslant|leq|leqq)(?![A-Za-z])", r"\\le"),
        (r"\\(?:geqslant|geq|geqq)(?![A-Za-z])", r"\\ge"),
        (r"\\(?:neq|not\s*=|not\s*\\eq)(?![A-Za-z])|!=(?!=)", r"\\ne "),
        (r"\\not\s*\\in(?![A-Za-z])", r"\\notin"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:degree|degrees)(?![A-Za-z])", r"^\\circ"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\^\s*o(?![A-Za-z])(?=\s*$)", r"^\\circ "),
        (r"\\(?:textdegree|textdollar)(?![A-Za-z])", lambda match: r"^\circ " if "degree" in match[0] else r"\$"),
        (r"\\(?:cdotp|centerdot|ast|bullet)(?![A-Za-z])", r"\\cdot"),
        (r"\\(?:lnot)(?![A-Za-z])", r"\\neg"),
        (r"\\(?:wedge)(?![A-Za-z])", r"\\land"),
        (r"\\(?:imath|jmath)(?![A-Za-z])", lambda match: f" {match[0][1]} "),
        (r"\\(?:pounds|textsterling)(?![A-Za-z])", "£"),
        (r"\\(?:euro|texteuro|EUR)(?![A-Za-z])", "€"),
        (r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus"),
        (r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])", r"\\ldots"),
        (r"(?<=[0-9])((?: |\\text ?\{)*) ?([apAP])\. ?[mM]\b\.?", lambda match: f"{match[1]} {match[2].lower()}m"),
        (r"(?<![0-9])\.(?=\s*\\overline)", "0."),
        (r"\*\*(?=\s*[-(0-9A-Za-z{])", "^"),
    )
)

# The separators between the digits of one number: 8,400, 8{,}400, 8,\!400, 8\,400, 8 400, 8'400.
_GROUP = r"(?:,\s?\\!|\\!,?|\{,\}|\{\\,\}|\\[,;: ]|~|\\thinspace\s?| |')"
_GROUPED = re.compile(rf"(?<![0-9.,'])([0-9]{{1,3}}(?:{_GROUP}[0-9]{{3}})+)(?![0-9]|{_GROUP}[0-9])")
_SPACE = re.compile(
    r"(\\\\)|\\[,;:!> ~]|~|\\(?:quad|qquad|enspace|enskip|thinspace|medspace|thickspace|"
    r"negthinspace|space|newline|par|hfill)"
    r"(?![A-Za-z])|\\(?:hspace|vspace|mspace|kern|phantom|hphantom|vphantom)\*?\s*\{[^{}]*\}|\s+"
)
_ENDING = re.compile(r"[.,;:\s]+$|(?<!\\)\\$")
_SHORT_WORDS = frozenset(("no", "am", "pm", "on", "in", "at", "of", "to", "or", "is", "it", "st", "nd", "rd", "th"))
_MARKS = ("```", "**", "__", "`", "*")


def plain_latex(latex: str) -> str:
    """An answer with one form for each sign, and without spacing, delimiters, marks and styles."""
    text = latex.strip()
    for _ in range(2):
        text = text.rstrip(" .\n") if not text.endswith((r"\right.", r"\left.")) else text
        for mark in _MARKS:
            if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
                text = text[len(mark) : -len(mark)].strip()
    text = _GROUPED.sub(
        lambda match: re.sub(r"[^0-9]", "", match[1]), text.replace("\u202f", " ").replace("\u00a0", " ")
    )
    for pattern, replacement in _RENAMED[:3]:
        text = pattern.sub(replacement, text)
    text = text.translate(_SIGN_TABLE)
    for pattern, replacement in _RENAMED[3:]:
        text = pattern.sub(replacement, text)
    text = _GROUPED.sub(lambda match: re.sub(r"[^0-9]", "", match[1]), text)
    text = _SPACE.sub(lambda match: match[1] or " ", text)
    return _ENDING.sub("", _SPACE.sub(lambda match: match[1] or " ", text).strip()).strip()


# Words.

_MONTHS_TEXT = """
    january february march april may june july august september october november december
"""
_MONTHS = _MONTHS_TEXT.split()
_SHORT_MONTHS = {month[:3]: month for month in _MONTHS} | {"sept": "september"}
_MONTH = rf"({'|'.join(_MONTHS)}|{'|'.join(_SHORT_MONTHS)})\.?"
_DAY = r"([0-9]{1,2})(?:st|nd|rd|th)?"
_DAY_FIRST = re.compile(rf"\b{_DAY} (?:of )?{_MONTH}(?![a-z])")
_MONTH_FIRST = re.compile(rf"\b{_MONTH} (?:the )?{_DAY}(?![0-9a-z:])")
_WEEKDAYS = re.compile(r"\b(mon|tue|tues|wed|thu|thur|thurs|fri|sat|sun)\b\.?")
_WEEKDAY = {
    "mon": "monday",
    "tue": "tuesday",
    "tues": "tuesday",
    "wed": "wednesday",
    "thu": "thursday",
    "thur": "thursday",
    "thurs": "thursday",
    "fri": "friday",
    "sat": "saturday",
    "sun": "sunday",
}
_HALF_DAY = re.compile(r"(?<=[0-9]) ?([ap])\.? ?m(?![a-z])\.?")
_CLOCK = re.compile(r"\b0?([0-9]{1,2}):([0-9]{2})(?![0-9])")
_WORD_OR_SIGN = re.compile(r"\\[A-Za-z]+|[^\W\d_]{2,}|[^\W\d_]|[0-9]+(?:\.[0-9]+)?|\\.|\S", re.UNICODE)
_CHOICE = re.compile(r"\( ?([A-Z]) ?\)|([A-Z])\)|\[([A-Z])\]")
_LEADING = re.compile(r"^(?:on|at|in|the|an|a) (?=[a-z]{2})")


def without_fonts(text: str) -> str:
    r"""A plain LaTeX text without font commands and the braces of their groups: `\text{ km}^2` becomes ` km^2`."""
    if "\\" not in text:
        return text
    flat, depths, depth, position = [], [], 0, 0
    marked = FONT_COMMAND.sub("\x00", text.replace("\x00", ""))
    while position < len(marked):
        sign = marked[position]
        if sign == "\\" and position + 1 < len(marked):
            flat.append(marked[position : position + 2])
            position += 2
            continue
        if sign == "\x00":  # a font: the group that follows loses its braces
            opening = re.match(r" *\{", marked[position + 1 :])
            if opening:
                depth += 1
                depths.append(depth)
                position += 1 + opening.end()
                flat.append(" ")
                continue
        elif sign == "{":
            depth += 1
            flat.append(sign)
        elif sign == "}":
            if depths and depths[-1] == depth:
                depths.pop()
            else:
                flat.append(sign)
            depth -= 1
        else:
            flat.append(sign)
        position += 1
    return re.sub(r" +(?=\^)", "", "".join(flat))


def words(text: str) -> str:
    """A plain LaTeX answer as words and signs with one space between them, without fonts and in lower case.

    Dates and times of day get one form ("5 March" and "March 5th", "1:03 p.m." and "1:03 PM"). Days of the week and
    months get their full names. A choice becomes its letter ("(C)" is C). A single letter keeps its case.
    """
    text = without_fonts(text).strip()
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:]:
        text = text[1:-1].strip()
    choice = _CHOICE.fullmatch(text.strip())
    if choice:
        return choice[1] or choice[2] or choice[3]
    text = re.sub(r"(?<=[A-Za-z]{3})\. ?(?=[0-9])", " ", text)
    tokens = [token.lower() if _has_no_case(token) else token for token in _WORD_OR_SIGN.findall(text)]
    text = " ".join(tokens)
    text = re.sub(r"(?<=[0-9]) (?=(?:st|nd|rd|th)\b)|(?<=[0-9]) (?=:)|(?<=:) (?=[0-9])", "", text)
    text = re.sub(r"\b([aApP]) ?\. ?[mM]\b ?\.?", lambda match: f"{match[1].lower()}m", text)
    text = _HALF_DAY.sub(lambda match: f" {match[1]}m", text)
    text = _CLOCK.sub(lambda match: match[1] + (f":{match[2]}" if match[2] != "00" else ""), text)
    text = _DAY_FIRST.sub(lambda match: f"{_month(match[2])} {int(match[1])}", text)
    text = _MONTH_FIRST.sub(lambda match: f"{_month(match[1])} {int(match[2])}", text)
    text = re.sub(r"(?<=[0-9]) ?, ?(?=[0-9]{4}$)", " ", text)
    text = _WEEKDAYS.sub(lambda match: _WEEKDAY[match[1]], text) if len(text) < 12 or "," in text else text
    text = text.strip(" .")
    return _SHORT_MONTHS.get(text) or _LEADING.sub("", text)


def _has_no_case(token: str) -> bool:
    """Whether the case of a token has no meaning. It has one in a command and in a name such as AB."""
    return token[0] != "\\" and (len(token) > 2 or token.lower() in _SHORT_WORDS)


def _month(name: str) -> str:
    return _SHORT_MONTHS.get(name, name)
