"""The readable text of an HTML page: headings, paragraphs, list items, table cells and preformatted blocks.

Written for documentation (Sphinx, DocBook, LibreOffice help): navigation, what is hidden and lines that are nothing but
a link go, the rest stays in reading order. lxml does the parsing and the walking; Python touches only block elements,
which makes about a thousand pages a second. Not a general boilerplate remover: a page of a news site keeps its clutter.
"""

import re
from collections import Counter
from collections.abc import Iterable

from lxml import etree

EXTRACTION_VERSION = 1
"""Counts changes of what is extracted; texts cached under another number are extracted again."""

_DROPPED_TAGS = (
    "header", "footer", "nav", "aside", "script", "style", "noscript", "template", "button", "form", "svg", "math",
    "select", "input", "label", "iframe", "object", "head",
)  # fmt: skip
_DROPPED_CLASSES = frozenset({
    "navheader", "navfooter", "docnav", "toc", "related", "sphinxsidebar", "headerlink", "indexterm", "contents",
    "MAC", "breadcrumbs", "toctree-wrapper", "linenos",
})  # fmt: skip
_LINE_TAGS = frozenset({"li", "td", "th", "dt", "dd", "tr", "br", "caption", "figcaption", "option"})
_PARAGRAPH_TAGS = frozenset({
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "div", "pre", "blockquote", "table", "ul", "ol", "dl", "section", "article",
})  # fmt: skip
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_INLINE = frozenset({"span", "code", "em", "strong", "b", "i", "tt", "cite"})
_BLOCKS = tuple(_LINE_TAGS | _PARAGRAPH_TAGS)

# Marks put into the tree where text is to be broken. HTML text may hold any of them only by accident: they are from
# Unicode's private use area.
_PARAGRAPH, _LINE, _NEWLINE, _SPACE = "\ue000", "\ue001", "\ue002", "\ue003"
_KEPT_LAYOUT = str.maketrans({"\n": _NEWLINE, " ": _SPACE, "\t": _SPACE * 4})
_LAYOUT_BACK = str.maketrans({_NEWLINE: "\n", _SPACE: " "})


_SUSPECTS = etree.XPath("//*[@class or @hidden or @role]")
_CONTENT = etree.XPath("(//*[@id='DisplayArea']|//*[@role='main']|//main|//article)[1]")
_LINKS = etree.XPath(".//a[@href]")


def extract(page: bytes) -> str:
    """Text of a page in UTF-8, its title first, blocks separated by one or two newlines; empty for a bare list of links.

    Raises UnicodeDecodeError for anything that is not UTF-8.
    """
    page.decode("utf-8")
    root = etree.fromstring(page, etree.HTMLParser(encoding="utf-8", huge_tree=True))
    if root is None:
        return ""
    title = " ".join("".join(root.xpath("string(//title)")).split())
    etree.strip_elements(root, *_DROPPED_TAGS, etree.Comment, etree.PI, with_tail=False)
    for element in _SUSPECTS(root):
        if _is_clutter(element):
            _remove(element)
    found = _CONTENT(root)
    content = found[0] if found else root
    content.tail = None
    _drop_link_lines(content)
    headed = _first_block_is_heading(content)
    for element in content.iter(*_BLOCKS):
        _mark(element)
    text = _joined("".join(content.itertext()))
    return text if headed or not text or not title else f"{title}\n\n{text}"


def without_boilerplate(pages: Iterable[str]) -> list[str]:
    """The pages of one package without the longer lines that stand on many of them (notices, access instructions)."""
    split = [page.split("\n") for page in pages]
    counts = Counter(line for lines in split for line in set(lines) if len(line.encode()) >= 30)
    bound = max(10, len(split) // 200)
    return [re.sub(r"\n{3,}", "\n\n", "\n".join(x for x in lines if counts[x] <= bound)).strip() for lines in split]


def _is_clutter(element: etree._Element) -> bool:
    if not _DROPPED_CLASSES.isdisjoint((element.get("class") or "").split()):
        return True
    if element.get("role") in ("navigation", "search"):
        return True
    # LibreOffice writes one hidden variant per system and application; the default one is what a reader sees.
    return element.get("hidden") is not None and not (element.get("id") or "").startswith("default")


def _remove(element: etree._Element) -> None:
    """Take an element out and leave the text behind it where it is."""
    parent = element.getparent()
    if parent is None:
        return
    tail = element.tail
    if tail:
        before = element.getprevious()
        if before is None:
            parent.text = (parent.text or "") + tail
        else:
            before.tail = (before.tail or "") + tail
    parent.remove(element)


def _drop_link_lines(content: etree._Element) -> None:
    """Remove list items, paragraphs and cells whose whole text is one link: contents, related topics, navigation."""
    for link in _LINKS(content):
        block = link.getparent()
        while block is not None and block.tag in _INLINE:
            block = block.getparent()
        if block is None or block is content or block.tag not in ("li", "p", "td", "dt", "dd"):
            continue
        if "".join(block.itertext()).strip(" \n\t•–-|") == "".join(link.itertext()).strip():
            _remove(block)


def _first_block_is_heading(content: etree._Element) -> bool:
    for element in content.iter("p", "pre", "li", "td", *_HEADINGS):
        if element.tag in _HEADINGS or (element.get("class") or "") == "title":
            return True
        if "".join(element.itertext()).strip():
            return False
    return False


def _mark(element: etree._Element) -> None:
    tag = element.tag
    if tag == "pre":
        for part in element.iter():
            part.text = part.text.translate(_KEPT_LAYOUT) if part.text else part.text
            if part is not element and part.tail:
                part.tail = part.tail.translate(_KEPT_LAYOUT)
    parent = element.getparent()
    inside_line = tag == "p" and parent is not None and parent.tag in _LINE_TAGS
    mark = _LINE if inside_line or tag in _LINE_TAGS else _PARAGRAPH
    if tag != "br":
        element.text = mark + (element.text or "")
    element.tail = mark + (element.tail or "")


def _joined(marked: str) -> str:
    paragraphs = []
    for paragraph in marked.split(_PARAGRAPH):
        lines = [" ".join(line.split()) for line in paragraph.split(_LINE)]
        whole = "\n".join(line for line in lines if line)
        if whole:
            paragraphs.append(whole.translate(_LAYOUT_BACK).strip("\n").rstrip())
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())
