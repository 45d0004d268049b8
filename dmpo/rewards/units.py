r"""Units and other words beside a number: `10 \text{ feet}`, `864 in^2`, `40 km/h`, `\$18`, `21 dogs`.

A unit is a product of powers of names. Different spellings of a name are the same unit, and no unit is converted. Names
and signs are from the SI brochure (9th edition) and from the problems of MATH and GSM8K.
"""

from __future__ import annotations

import re
from collections import Counter

from .latex_text import without_fonts

# A name and its other spellings; the code removes a plural s.
_SPELLINGS: dict[str, str] = {
    "meter": "m metre",
    "centimeter": "cm centimetre",
    "millimeter": "mm millimetre",
    "kilometer": "km kilometre",
    "micrometer": "um micrometre",
    "inch": "in inches",
    "foot": "ft feet",
    "yard": "yd",
    "mile": "mi",
    "gram": "g gm gramme",
    "kilogram": "kg kilo",
    "milligram": "mg",
    "pound": "lb lbs",
    "ounce": "oz",
    "ton": "tonne",
    "liter": "l L litre",
    "milliliter": "ml mL millilitre",
    "gallon": "gal",
    "quart": "qt",
    "pint": "pt",
    "cup": "",
    "second": "s sec secs",
    "minute": "min mins",
    "hour": "h hr hrs",
    "millisecond": "ms",
    "day": "",
    "week": "wk",
    "month": "mo",
    "year": "yr yrs",
    "degree": "deg",
    "celsius": "C",
    "fahrenheit": "F",
    "kelvin": "K",
    "radian": "rad",
    "dollar": "usd buck USD",
    "cent": "¢",
    "euro": "EUR",
    "gbp": "GBP",
    "yen": "JPY",
    "rupee": "Rs INR",
    "percent": "pct",
    "unit": "",
    "newton": "N",
    "joule": "J",
    "watt": "W",
    "volt": "V",
    "ampere": "A amp",
    "hertz": "Hz",
    "pascal": "Pa",
    "mole": "mol",
    "acre": "",
    "hectare": "ha",
    "person": "people persons",
    "child": "children kid",
    "man": "men",
    "woman": "women",
    "fish": "",
    "sheep": "",
    "mouse": "mice",
    "die": "dice",
    "mph": "",
    "kph": "kmh kmph",
    "rpm": "",
    "dozen": "",
    "am": "AM",
    "pm": "PM",
}
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in (name, *spellings.split())}
_COMPOUND = {"mph": Counter({"mile": 1, "hour": -1}), "kph": Counter({"kilometer": 1, "hour": -1})}
_SHORT = frozenset(name for name in _NAMES if len(name) == 1)
CURRENCIES = {r"\$": "dollar", "$": "dollar", "€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee", "¢": "cent"}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

# Words that make another number, or another answer, of the number before them.
_NO_UNIT_TEXT = """
    about above all almost and any approximately are around at base below billion billions but cubed cubes divided
    eight eighth eighths equal equals except factorial fewer fifth fifths five for four fourth fourths greater half
    halves hundred hundreds hundredth hundredths i if infinity is least less million millions minus mod modulo more
    most multiplied n nearly negative never nine ninth ninths no none nor not one only or over per pi plus positive
    power quarter quarters root roughly seven seventh sevenths six sixth sixths smaller squared squares ten tenth
    tenths than third thirds thousand thousands thousandth thousandths three times to trillion twenty two under up
    was were when where without tens ones x y z zero
"""
_NO_UNIT = frozenset(_NO_UNIT_TEXT.split())
_MOST_PIECES = 8  # the most words and slashes of a unit
_FILLER = frozenset(("of", "the", "a", "an", "each", "in", "total", "long", "old", "per"))

_POWER = r"(?: ?\^ ?(?:\{ ?-?[1-4] ?\}|-?[1-4]))?"
_TERM = rf"(?:[A-Za-z¢]+|\\mu ?[A-Za-z]+)\.?{_POWER}"
_UNIT = re.compile(rf" ?(?:/ ?)?{_TERM}(?: ?(?:/|\\cdot|\*|-| ) ?{_TERM})*")
_UNIT_FRACTION = re.compile(rf"\\frac ?\{{ ?({_TERM}) ?\}} ?\{{ ?({_TERM}) ?\}}$")
_PIECE = re.compile(r"(/)|([A-Za-z¢]+)\.?(?: ?\^ ?\{? ?(-?[1-4]) ?\}?)?")
_CURRENCY = re.compile(
    r"^([-+]?) ?(?:(?:US|AU|CA|A|C)? ?(\\\$|[€£¥₹$])|(USD|EUR|GBP|INR|JPY|Rs\.?) ?(?=[-+.0-9])) ?([-+]?)"
)
_CURRENCY_AFTER = re.compile(r" ?(\\\$|[€£¥₹¢])$")
_VALUE_END = re.compile(r"[0-9)}\]!.]$|\\(?:pi|circ)$|(?:^|[^A-Za-z\\])[a-z]$")
_BREAK = re.compile(r"(?<![A-Za-z\\])(?=[A-Za-z/¢]|\\mu|\\frac)")


def split_unit(text: str) -> tuple[str, Counter[str] | None]:
    r"""The number and the unit of a plain LaTeX text; (text, None) if it has no unit.

    A scale ("2 million") becomes a power of ten in the number. Words that make another number
    ("5 squared", "5 or more") are no unit.
    """
    whole, text = text, re.sub(r" +", " ", without_fonts(text)).strip()
    sign = _CURRENCY.match(text)
    unit: Counter[str] | None = None
    if sign and sign.end() < len(text):
        name = CURRENCIES.get(sign[2] or "") or _NAMES.get((sign[3] or "").rstrip("."), "dollar")
        unit = Counter({name: 1})
        text = f"{sign[1] or sign[4]}{text[sign.end() :]}"
    after = _CURRENCY_AFTER.search(text)
    if after and after.start():
        unit = Counter({CURRENCIES[after[1]]: 1})
        text = text[: after.start()]
    for boundary in _BREAK.finditer(text):
        value, following = text[: boundary.start()].rstrip(" ~"), text[boundary.start() :]
        if not value or not _VALUE_END.search(value) or not re.search(r"[0-9]|\\pi", value):
            continue
        spaced = text[boundary.start() - 1] == " " or text[boundary.start()] == "/"
        parsed = _parsed_unit(following, spaced=spaced)
        if parsed is None:
            continue
        scale, unit_after = parsed
        value = f"({value}) \\cdot 10^{{{scale}}}" if scale else value
        if unit and unit_after and unit != unit_after:
            return whole, None
        return value, unit_after or unit or Counter()
    return (whole, None) if unit is None else (text, unit)


def _parsed_unit(text: str, *, spaced: bool) -> tuple[int, Counter[str]] | None:
    """The power of ten of a scale, and the unit; None if the text as a whole is no unit."""
    fraction = _UNIT_FRACTION.fullmatch(text)
    if fraction:
        text = f"{fraction[1]}/{fraction[2]}"
    text = text.strip()
    if not _UNIT.fullmatch(text):
        return None
    unit: Counter[str] = Counter()
    scale, direction, power, last = 0, 1, 1, ""
    pieces = list(_PIECE.finditer(text.replace(r"\mu ", "u").replace(r"\mu", "u")))
    if len(pieces) > _MOST_PIECES:
        return None
    for index, piece in enumerate(pieces):
        name = piece[2]
        if piece[1]:
            direction = -1
            continue
        lower = name.lower()
        if lower in _SCALES and index == 0:
            scale = _SCALES[lower]
        elif lower in ("square", "sq", "squared"):
            power, last = _shaped(unit, last, lower == "squared", 2, power)
        elif lower in ("cubic", "cu", "cubed"):
            power, last = _shaped(unit, last, lower == "cubed", 3, power)
            if lower == "cubed" and not last:
                return None
        elif lower == "per" and unit:
            direction = -1
        elif lower in _FILLER and 0 < index < len(pieces) - 1:
            continue
        elif lower in _NO_UNIT and (len(name) > 1 or name == lower):
            return None
        else:
            unit_name = _NAMES.get(name) or _NAMES.get(lower if len(name) > 1 else name)
            singular = lower[:-1] if lower.endswith("s") and len(lower) > 2 else None
            unit_name = unit_name or (_NAMES.get(singular) if singular else None)
            if unit_name is None and (len(name) < 3 or not lower.isascii()):
                return None
            if name in _SHORT and not spaced and len(pieces) == 1 and not piece[3]:
                return None  # `2m` is a product
            last = unit_name or singular or lower
            times = direction * power * int(piece[3] or 1)
            for base, count in _COMPOUND.get(last, Counter({last: 1})).items():
                unit[base] += count * times
            power = 1
    if power != 1 or (not unit and not scale):
        return None
    return scale, _simplified(unit)


def _shaped(unit: Counter[str], last: str, after: bool, exponent: int, power: int) -> tuple[int, str]:
    """Apply "squared" to the last name, or return the power that "square" gives to the next name."""
    if not after:
        return exponent, last
    if last in unit:
        unit[last] *= exponent
    return power, last


def _simplified(unit: Counter[str]) -> Counter[str]:
    """The unit without "degree" beside Celsius or Fahrenheit, without "unit" beside another name, and without zeros."""
    if len(unit) > 1:
        for name in ("degree", "unit"):
            if name == "degree" and not (unit.keys() & {"celsius", "fahrenheit"}):
                continue
            unit.pop(name, None)
    return Counter({name: count for name, count in unit.items() if count})


def same_unit(a: Counter[str] | None, b: Counter[str] | None) -> bool:
    """Whether two units are the same. A number without a unit, or in "units", agrees with every unit."""
    first, second = ({name for name in unit or () if name != "unit"} for unit in (a, b))
    return not first or not second or a == b
