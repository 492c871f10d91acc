"""Parses the XML of a labeling config as Label Studio's editor does in a browser: tags, attributes, text.

As in the editor, names of attributes are lower case, and the text of a tag without child tags is its ``value``. The
content of a ``HyperText`` is a page and not part of the config. Namespaces are not resolved: browsers keep them in the
names, and resolved ones would multiply the size of a small config.
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
LONGEST_ENTITY = 16  # characters of an entity's replacement: enough for a space or a sign, too few to multiply a config


@dataclass(frozen=True)
class Tag:
    """One tag of a labeling config."""

    name: str
    attributes: dict[str, str]  # values by lower-case name; the last one wins where names differ only in case
    children: "list[Tag]" = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The name in lower case."""
        return self.name.lower()


def read(text: str) -> Tag:
    """Return the root tag of a labeling config.

    >>> root = read('<View><Image name="image" VALUE="$image"/></View>')
    >>> root.children[0].name, root.children[0].attributes
    ('Image', {'name': 'image', 'value': '$image'})

    Raises:
        ConfigError: it is not well-formed XML, or is larger than any config that people write.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"label_config: expected at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    builder = _Builder()
    parser = _Parser(forbid_external=False)  # a DOCTYPE may name external entities; they are never read
    parser.setContentHandler(builder)
    parser.setProperty(property_lexical_handler, builder.lexical)
    try:
        parser.feed(text)
        parser.close()
    except EntitiesForbidden as error:
        most = f"label_config: expected entities of at most {LONGEST_ENTITY} plain characters"
        raise ConfigError(f"{most}, got another definition of {error.name[:40]!r}") from error
    except (SAXException, DefusedXmlException, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ConfigError(f"label_config: expected XML, got something else: {detail}") from error
    assert builder.root is not None  # the parser raises where there is no root
    return builder.root


class _Parser(DefusedExpatParser):
    """Refuses entities other than short plain text, as a DOCTYPE declares for a space, and defaults of attributes."""

    def reset(self) -> None:
        super().reset()
        self._parser.AttlistDeclHandler = self._refuse_defaults  # type: ignore[attr-defined]  # set by xml.sax

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
        """Append to the text of the open tag, as a browser would show it in ``innerHTML``."""
        if self._open:
            self._open[-1][1].append(written)


class _Lexical(LexicalHandler):
    """Adds comments and CDATA marks, which count as text of a tag in the editor."""

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
