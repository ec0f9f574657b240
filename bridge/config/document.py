"""The YAML file as plain data, with the place of every key and value in it.

It is built from ruamel.yaml's node graph (YAML 1.2) and not by its constructors: no tag of the file constructs
anything, every duplicate key is found and not the first alone, and what aliases expand to is bounded.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bridge.config.mistakes import Mistake, Path, Place, path_text, printable
from bridge.config.references import ReferenceMistake, resolve

MAX_FILE = 1024 * 1024
MAX_NODES = 50_000
"""Values and keys after all aliases are followed."""
MAX_DEPTH = 40
_TAG = "tag:yaml.org,2002:"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


class _Refused(Exception):
    """The file can't be read on from here."""

    def __init__(self, code: str, place: Place, message: str) -> None:
        super().__init__(message)
        self.mistake = Mistake(code, place, "", message)


@dataclass
class Document:
    """What a file says, and where it says it."""

    file: str
    data: object = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    """The source text of the values that held references: messages show it in the value's place."""
    mistakes: list[Mistake] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)
    """Values that have a mistake already: nothing more is said about them."""

    def mistake(self, code: str, path: Path, message: str, *, key: bool = False, severity: str = "error") -> None:
        """Note a mistake at a value, or at its key."""
        place = self.key_place(path) if key else self.place(path)
        self.mistakes.append(Mistake(code, place, path_text(path), message, severity))

    def place(self, path: Path) -> Place:
        """Where the value at `path` stands, else what is next above it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(self.file, 1, 1))

    def key_place(self, path: Path) -> Place:
        """Where the last key of `path` stands."""
        return self.keys.get(path) or self.place(path)

    def text(self, path: Path, value: object) -> str:
        """A value for a message: in quotes, as the file writes it, never what a reference stood for."""
        return f'"{printable(self.written.get(path, str(value))[:120])}"'


def read(text: str, file: str, environ: Mapping[str, str]) -> Document:
    """Parse a file. What is wrong with it is in the document's `mistakes`; a file that can't be parsed has no data."""
    document = Document(file)
    try:
        root = _compose(text, file)
        if root is not None:
            _Builder(document, environ).build(root)
    except _Refused as refused:
        document.data = None
        document.mistakes.append(refused.mistake)
    return document


def _compose(text: str, file: str) -> Node | None:
    control = _CONTROL.search(text)
    if control is not None:
        before = text[: control.start()]
        place = Place(file, before.count("\n") + 1, control.start() - before.rfind("\n"))
        raise _Refused("syntax", place, f"the control character U+{ord(control[0]):04X}")
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax(error, text, file) from None
    except RecursionError:
        raise _Refused("too-deep", Place(file, 1, 1), "nested too deeply") from None
    except Exception as error:  # the parser's own faults on hostile input are not ours to list
        raise _Refused("syntax", Place(file, 1, 1), f"not YAML ({type(error).__name__})") from None
    return root


def _syntax(error: MarkedYAMLError, text: str, file: str) -> _Refused:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return _Refused("syntax", Place(file, 1, 1), printable(str(error.problem)))
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    if line[mark.column : mark.column + 1] == "{" and line[: mark.column].endswith("$"):
        start = line.rfind(" ", 0, mark.column) + 1
        return _Refused(
            "unquoted-reference",
            Place(file, mark.line + 1, start + 1),
            'quote the reference: in {..} and [..] YAML needs "${X}", in quotes',
        )
    # The parser's words may repeat a token of the file, which may be a secret: only the fixed part is kept.
    problem = str(error.problem).partition(", but")[0]
    if problem.startswith("found undefined alias"):
        problem = "an alias without its anchor; a value that begins with * must be in quotes"
    return _Refused("syntax", Place(file, mark.line + 1, mark.column + 1), f"not YAML: {printable(problem)}")


def _is_data(path: Path) -> bool:
    """Whether a mapping is what a message holds, whose keys are nobody's to leave out."""
    return path[::2][:2] == ("recurring", "body") or (path[:1] == ("tests",) and path[3:4] in (("body",), ("headers",)))


class _Builder:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._nodes = 0

    def build(self, root: Node) -> None:
        self._document.data = self._value(root, (), (), as_text=False)

    def _place(self, node: Node) -> Place:
        return Place(self._document.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _mistake(self, code: str, node: Node, path: Path, message: str) -> None:
        self._document.mistakes.append(Mistake(code, self._place(node), path_text(path), message))
        self._document.refused.add(path)

    def _count(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(
                "too-large", self._place(node), f"more than {MAX_NODES} values, aliases included, are refused"
            )

    def _value(self, node: Node, path: Path, above: tuple[Node, ...], *, as_text: bool) -> object:
        self._count(node)
        if any(node is other for other in above):
            raise _Refused("too-deep", self._place(node), "an anchor that contains its own alias")
        if len(above) > MAX_DEPTH:
            raise _Refused("too-deep", self._place(node), f"more than {MAX_DEPTH} levels")
        self._document.values[path] = self._place(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, SequenceNode):
            inner = (*above, node)
            return [self._value(item, (*path, i), inner, as_text=False) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path, as_text=as_text)

    def _mapping(self, node: MappingNode, path: Path, above: tuple[Node, ...]) -> dict[str, object]:
        # The text that `when` compares is the text of the file: 1.10 is not 1.1.
        as_text = path[-1:] == ("when",)
        mapping: dict[str, object] = {}
        for key, value in self._pairs(node, path, above):
            name = str(key.value)
            inner = (*path, name)
            self._document.keys[inner] = self._place(key)
            mapping[name] = self._value(value, inner, above, as_text=as_text)
        return mapping

    def _pairs(self, node: MappingNode, path: Path, above: tuple[Node, ...]) -> Iterator[tuple[ScalarNode, Node]]:
        """The pairs of a mapping: its own, then those that `<<` merges in; `x-*` keys are left out."""
        seen: dict[str, Place] = {}
        merged: list[Node] = []
        for key, value in node.value:
            self._count(key)
            if not isinstance(key, ScalarNode):
                self._mistake("bad-key", key, path, "a key must be text")
                continue
            name = str(key.value)
            if name in seen:
                first = seen[name]
                self._mistake("duplicate-key", key, (*path, name), f"this key stands at line {first.line} already")
                continue
            seen[name] = self._place(key)
            if str(key.tag) == _TAG + "merge":
                merged.extend(value.value if isinstance(value, SequenceNode) else [value])
            elif not name.startswith("x-") or _is_data(path):
                yield key, value
        for other in merged:
            if not isinstance(other, MappingNode):
                self._mistake("bad-key", other, (*path, "<<"), "<< merges mappings alone")
                continue
            if any(other is node_above for node_above in above) or len(above) > MAX_DEPTH:
                raise _Refused("too-deep", self._place(other), "an anchor that contains its own alias")
            for key, value in self._pairs(other, path, (*above, other)):
                if str(key.value) not in seen:
                    seen[str(key.value)] = self._place(key)
                    yield key, value

    def _scalar(self, node: ScalarNode, path: Path, *, as_text: bool) -> object:
        text = str(node.value)
        tag = str(node.tag).removeprefix(_TAG)
        if tag not in ("null", "bool", "int", "float", "str", "timestamp"):
            self._mistake("bad-tag", node, path, "tags have no meaning here")
            return None
        if tag == "null":
            return None
        if tag in ("str", "timestamp") or as_text:
            return self._text(node, path, text)
        if tag == "bool":
            return text.lower() in ("true", "yes", "on", "y")
        try:
            number = text.replace("_", "")
            return float(number.replace(".inf", "inf").replace(".nan", "nan")) if tag == "float" else int(number, 0)
        except ValueError:
            return int(number) if number.isdecimal() and len(number) < 20 else text

    def _text(self, node: ScalarNode, path: Path, text: str) -> str | None:
        try:
            resolved = resolve(text, self._environ)
        except ReferenceMistake as mistake:
            self._mistake(mistake.code, node, path, printable(str(mistake)))
            return None
        if resolved != text:
            self._document.written[path] = text
        return resolved
