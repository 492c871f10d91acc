"""A labeling config's XML as Label Studio's editor reads it in a browser: tags, their attributes, their text.

As there, names of attributes are lower case, and text in a tag that holds no other tags is its ``value``. What lies in
a ``HyperText`` is a page and not part of the config. Namespaces are not resolved: browsers keep them in the names, and
resolved they would multiply a small config.
"""

from dataclasses import dataclass, field
from html import escape
from xml.sax import SAXException
from xml.sax.handler import ContentHandler, LexicalHandler, property_lexical_handler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import DefusedXmlException, EntitiesForbidden
from defusedxml.expatreader import DefusedExpatParser

from backend.errors import ConfigError

MOST_CHARACTERS = 2_000_000
MOST_TAGS = 20_000
DEEPEST = 256
LONGEST_ENTITY = 16
"""Characters that an entity may stand for: enough for a space or a sign, too few to multiply a config."""


@dataclass(frozen=True)
class Tag:
    """One tag of a labeling config.

    Attributes:
        name: as written.
        attributes: by their names in lower case; the last one counts where several differ in case only.
        children: the tags inside, in order.
    """

    name: str
    attributes: dict[str, str]
    children: "list[Tag]" = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The name in lower case."""
        return self.name.lower()


def read(text: str) -> Tag:
    """Return the root of a labeling config.

    Raises:
        ConfigError: it is not well-formed, or larger than any config that people write.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"label_config: expected at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    builder = _Builder()
    parser = _Parser(forbid_external=False)  # nothing outside is ever read, but a DOCTYPE may name it
    parser.setContentHandler(builder)
    parser.setProperty(property_lexical_handler, builder.lexical)
    try:
        parser.feed(text)
        parser.close()
    except (SAXException, DefusedXmlException, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ConfigError(f"label_config: expected XML, got something else: {detail}") from error
    assert builder.root is not None  # the parser raises where there is none
    return builder.root


class _Parser(DefusedExpatParser):
    """Reads no entity but short plain text, such as a DOCTYPE declares for a space, and no defaults of attributes."""

    def reset(self) -> None:
        super().reset()
        self._parser.AttlistDeclHandler = self._refuse_defaults  # type: ignore[attr-defined]  # xml.sax has it

    def _refuse_defaults(self, element: str, *declared: object) -> None:
        raise ConfigError(f"label_config: expected no DOCTYPE with ATTLIST, got one of {element[:40]!r}")

    def defused_entity_decl(
        self,
        name: str,
        is_parameter_entity: bool,
        value: str | None,
        base: str | None,
        sysid: str | None,
        pubid: str | None,
        notation_name: str | None,
    ) -> None:
        if is_parameter_entity or value is None or len(value) > LONGEST_ENTITY or not {"&", "<", "%"}.isdisjoint(value):
            raise EntitiesForbidden(name, value, base, sysid, pubid, notation_name)


class _Builder(ContentHandler):
    """Puts tags together as a parser meets them."""

    def __init__(self) -> None:
        super().__init__()
        self.root: Tag | None = None
        self.lexical = _Lexical(self)
        self._open: list[tuple[Tag, list[str]]] = []
        self._count = 0

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802 - the name that xml.sax calls
        self._count += 1
        if self._count > MOST_TAGS:
            raise ConfigError(f"label_config: expected at most {MOST_TAGS:,} tags, got more")
        if len(self._open) >= DEEPEST:
            raise ConfigError(f"label_config: expected tags a few levels deep, got more than {DEEPEST}")
        tag = Tag(name, {key.lower(): value for key, value in attrs.items()})
        if self._open:
            self._open[-1][0].children.append(tag)
        else:
            self.root = tag
        self._open.append((tag, []))

    def endElement(self, name: str) -> None:  # noqa: N802 - likewise
        tag, written = self._open.pop()
        if tag.kind == "hypertext":
            tag.children.clear()
        if not tag.children and (inner := "".join(written).strip()):
            tag.attributes["value"] = inner

    def characters(self, content: str) -> None:
        self.note(content if self.lexical.is_cdata else escape(content, quote=False))

    def processingInstruction(self, target: str, data: str) -> None:  # noqa: N802 - likewise
        self.note(f"<?{target} {data}?>")

    def note(self, written: str) -> None:
        """Take down what is written inside the open tag, as a browser would show it in ``innerHTML``."""
        if self._open:
            self._open[-1][1].append(written)


class _Lexical(LexicalHandler):
    """Notes what is no content, but counts as text of a tag in the editor."""

    def __init__(self, builder: _Builder) -> None:
        self.is_cdata = False
        self._builder = builder

    def comment(self, content: str) -> None:
        self._builder.note(f"<!--{content}-->")

    def startCDATA(self) -> None:  # noqa: N802 - the name that xml.sax calls
        self.is_cdata = True
        self._builder.note("<![CDATA[")

    def endCDATA(self) -> None:  # noqa: N802 - likewise
        self.is_cdata = False
        self._builder.note("]]>")
