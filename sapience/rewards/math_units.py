"""Units at the end of an answer, and money: `15 cm^2`, `3 square feet`, `60 km/h`, `$18.90`, `20个`, `5平方厘米`.

Only units of a list are known. An unknown word behind a number is not taken for one: it may be `dozen`, `thousand` or
`not`, and change what the number says. A unit that is not the expected one is wrong even where the amounts agree
(500 cm for 5 m), since nothing here converts. The percent sign is not a unit but part of the number.
"""

from __future__ import annotations

import re

_ENGLISH = """
mm: mm millimeter millimetre; cm: cm centimeter centimetre; dm: dm decimeter decimetre; m: m meter metre; km: km
kilometer kilometre; in: in inch inche; ft: ft foot feet; yd: yd yard; mi: mi mile; acre: acre; mg: mg milligram; g: g
gram; kg: kg kilogram kilo; t: t ton tonne; lb: lb pound; oz: oz ounce; ml: ml mL milliliter millilitre; l: L l liter
litre; gal: gal gallon; qt: quart; pt: pint; cup: cup; s: s sec second; min: min minute; h: h hr hour; day: day; week:
week; month: month; year: year yr; mph: mph; km/h: kph kmh; dollar: dollar USD; cent: cent ¢; euro: euro EUR; yuan:
yuan RMB CNY; gbp: GBP; degree: degree deg °; C: °C; F: °F; K: kelvin; rad: radian rad; unit: unit; point: point pts;
people: people person; student: student; child: child children kid; boy: boy; girl: girl; friend: friend; man: man
men; woman: woman women; team: team; apple: apple; orange: orange; egg: egg; book: book; page: page; ball: ball;
marble: marble; card: card; coin: coin; pen: pen; pencil: pencil; flower: flower; tree: tree; car: car; dog: dog; cat:
cat; bird: bird; fish: fish; cow: cow; sheep: sheep; chicken: chicken; house: house; room: room; ticket: ticket;
bottle: bottle; box: box boxe; bag: bag; piece: piece; slice: slice; cookie: cookie; cake: cake; candy: candy candie;
sticker: sticker; stamp: stamp; way: way; time: time; step: step; game: game; bolt: bolt; item: item; toy: toy;
question: question; problem: problem; member: member; seat: seat; lap: lap; hertz: Hz; newton: N newton; joule: J
joule; watt: W watt; volt: V volt
"""
_CHINESE = """
mm: 毫米; cm: 厘米 公分; dm: 分米; m: 米 公尺; km: 千米 公里; mg: 毫克; g: 克; kg: 千克 公斤;
jin: 斤; t: 吨; ml: 毫升; l: 升; s: 秒 秒钟; min: 分钟; h: 小时 时; day: 天 日; week: 周
星期; month: 个月 月; year: 年; age: 岁; yuan: 元 块 块钱 元钱 人民币; jiao: 角 毛; cent-of-
yuan: 分; dollar: 美元; euro: 欧元; degree: 度; C: 摄氏度; mu: 亩; hectare: 公顷;
people: 人 名 位; time: 次 遍; piece: 个 只 条 头 匹 张 支 枝 件 颗 粒 棵 株 朵 片 架 辆 艘 座 栋 间
根 本 册 把 台 部 幅 盏 枚 道 面 种; pair: 双 对; box: 盒; crate: 箱; packet: 包; bag: 袋;
bottle: 瓶; cup: 杯; row: 行 排; group: 组; set: 套; class: 班; basket: 筐 篮; page:
页; floor: 层; step: 步; section: 段; times: 倍
"""


def _table(lines: str, plural: bool) -> dict[str, str]:
    table: dict[str, str] = {}
    for entry in lines.replace("\n", " ").split(";"):
        name, _, spellings = entry.strip().partition(":")
        for spelling in spellings.split():
            table[spelling] = name
            if plural and len(spelling) > 1 and spelling.isalpha():
                table[spelling + "s"] = name
    return table


_UNITS = {**_table(_ENGLISH, plural=True), **_table(_CHINESE, plural=False)}
_PLAIN = {name.lower(): unit for name, unit in _UNITS.items() if len(name) > 2 and name.isascii()}
"""Long names are known however they are capitalised; mL and ML are not the same."""
_MONEY = {"$": "dollar", "US$": "dollar", "¥": "yuan", "€": "euro", "£": "gbp", "RMB": "yuan", "USD": "dollar"}
_LENGTHS = frozenset("mm cm dm m km in ft yd mi unit".split())
_POWER = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_ASCII_NAMES = "|".join(sorted((re.escape(name) for name in _UNITS if name.isascii()), key=len, reverse=True))
_OTHER_NAMES = "|".join(sorted((re.escape(name) for name in _UNITS if not name.isascii()), key=len, reverse=True))
_NAMES = f"{_ASCII_NAMES}|{_OTHER_NAMES}"
_ONE = (
    rf"(?:(?:square|sq\.?|cubic|cu|平方|立方)\s*)?(?:{_NAMES})"
    r"(?:\s*\^\s*(?:\{\s*[23]\s*\}|[23])|\s+squared|\s+cubed)?\.?"
)
_PHRASE = re.compile(rf"({_ONE})(?:\s*(?:/|\bper\b|每)\s*({_ONE}))?(?:钱)?$", re.IGNORECASE)
_ONE_PARTS = re.compile(
    rf"(square|sq\.?|cubic|cu|平方|立方)?\s*({_NAMES})"
    r"\s*(?:\^\s*\{?\s*([23])\s*\}?|(squared|cubed))?\.?",
    re.IGNORECASE,
)
_BEFORE_A_UNIT = re.compile(r"(?:[\d)}\]°!]|\\pi|[A-Za-z](?=\s))\s*$")


def without_money_sign(text: str) -> tuple[str, str]:
    """The text without a currency sign in front of its number (a sign may stand on either side), and the currency."""
    found = re.match(r"\s*([+-]?)\s*(US\$|\$|¥|€|£|RMB|USD)\s*([+-]?)\s*(?=[\d.\\(])", text)
    if not found or (found[1] and found[3]):
        return text, ""
    return found[1] + found[3] + text[found.end() :], _MONEY[found[2]]


def split_unit(text: str) -> tuple[str, str, bool]:
    """(amount, unit, told): the amount alone and its unit, empty without one.

    `told` is false for a single Latin letter with no quotes around it, which may be a variable as well.
    """
    plain = text.replace('"', " ").rstrip()
    for found in _phrases(plain):
        amount = plain[: found.start()].rstrip()
        names = [_canonical(part) for part in (found[1], found[2]) if part]
        if None in names or not _BEFORE_A_UNIT.search(plain[: found.start()]):
            continue
        told = '"' in text or not re.fullmatch(r"[A-Za-z]", found[0].strip())
        return amount, "/".join(str(name) for name in names), told
    return text, "", True


def _phrases(text: str) -> list[re.Match[str]]:
    """Every way to see a unit at the end, the longest first; a name never begins in the middle of a word."""
    starts = [at for at in range(max(0, len(text) - 60), len(text)) if not _inside_word(text, at)]
    return [found for found in (_PHRASE.match(text, at) for at in starts) if found]


def _inside_word(text: str, at: int) -> bool:
    return at > 0 and text[at].isascii() and text[at].isalpha() and (text[at - 1].isalpha() or text[at - 1] == "\\")


def _canonical(phrase: str) -> str | None:
    found = _ONE_PARTS.fullmatch(phrase.strip())
    if not found:
        return None
    name = _UNITS.get(found[2]) or _PLAIN.get(found[2].lower())
    if name is None:
        return None
    powers = [_POWER[found[1].lower()]] if found[1] else []
    powers += [int(found[3])] if found[3] else []
    powers += [2 if found[4].lower() == "squared" else 3] if found[4] else []
    if len(powers) > 1 or (powers and name not in _LENGTHS):
        return None
    return f"{name}^{powers[0]}" if powers else name
