"""libvirt's XML, read without trust: no entities, no network, bounded size and depth.

Definitions hold secrets (VNC passwords), so no error here quotes the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from thinsync_virt.errors import StreamError
from thinsync_virt.units import MIB, format_size

Element = etree._Element

# libvirt itself moves no longer string between its processes (REMOTE_STRING_MAX).
MAX_XML = 4 * MIB
# Only before the root element it is one: libvirt keeps what CDATA and comments in metadata hold, HTML for example.
_DOCUMENT_TYPE = re.compile(rb"(?:\xef\xbb\xbf)?(?>\s|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)


def parse(text: str | bytes, what: str) -> Element:
    """The root element. ``what`` names the text for people. Raises StreamError for anything but plain XML."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_XML:
        raise StreamError(f"{what} has {format_size(len(data))}, at most 4 MiB are accepted", retry=False)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise StreamError(f"{what} is not UTF-8", retry=False) from None
    if _DOCUMENT_TYPE.match(data):
        raise StreamError(f"{what} declares a document type or entities; libvirt's never does", retry=False)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        encoding="utf-8",
    )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        line, _ = error.position
        raise StreamError(f"{what} is not well-formed XML (line {line})", retry=False) from None


def serialize(root: Element) -> str:
    """The text of an element: equal trees give equal text."""
    return etree.tostring(root, encoding="unicode")


def text_at(root: Element, path: str) -> str:
    """The stripped text of the first element at ``path``, "" when it is not there."""
    return (root.findtext(path) or "").strip()


def name_of(root: Element) -> str:
    """A domain's name, as it is: libvirt takes blanks at its ends for a part of it."""
    return root.findtext("name") or ""


def value_at(root: Element, path: str, attribute: str) -> str:
    """An attribute of the first element at ``path``, "" when it is not there."""
    element = root.find(path)
    return "" if element is None else element.get(attribute, "")


def kibibytes(element: Element) -> int:
    """A size that libvirt wrote: it prints KiB, whatever was defined. 0 when it is not a number."""
    return natural((element.text or "").strip()) if element.get("unit", "KiB") == "KiB" else 0


def natural(text: str) -> int:
    """A number of at most 18 digits, 0 for all else: what Python calls a digit is not always one for ``int``."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def child(parent: Element, tag: str) -> Element:
    """The first child with that tag, made when missing."""
    found = parent.find(tag)
    return found if found is not None else etree.SubElement(parent, tag)


def remove(element: Element) -> None:
    """Take an element out of its parent."""
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def remove_all(parent: Element, *paths: str) -> int:
    """Remove every element at these paths; how many there were."""
    found = [element for path in paths for element in parent.findall(path)]
    for element in found:
        remove(element)
    return len(found)


def drop_attributes(element: Element, *names: str) -> None:
    """Remove attributes, those that are there."""
    for name in names:
        element.attrib.pop(name, "")


def absolute_paths(root: Element) -> Iterator[str]:
    """Every attribute value and text that is an absolute path, in document order."""
    for element in root.iter():
        for value in (*element.attrib.values(), element.text or ""):
            path = value.strip()
            if path.startswith("/") and "\n" not in path and len(path) < 4096:
                yield path
