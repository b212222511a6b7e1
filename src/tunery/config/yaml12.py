"""YAML as people mean it, for configuration files and for ``key=value`` on the command line.

PyYAML reads YAML 1.1, where ``no`` is false, ``1e-4`` is text, ``010`` is eight and a key that stands twice
silently wins. Here: YAML 1.2's plain scalars, and a repeated key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")  # 010 stays text: it is a name or a label
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")


class _Loader(yaml.SafeLoader):
    """Plain objects only, as SafeLoader."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _plain(tag: str, pattern: re.Pattern[str], first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern.pattern})$"), list(first))


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_plain("null", _NULL, "~nN\0")
_plain("bool", _BOOL, "tTfF")
_plain("int", _INT, "-+0123456789")
_plain("float", _FLOAT, "-+.0123456789")
_plain("merge", re.compile("<<"), "<")
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile("$"))]
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def dump(values: Any) -> str:
    """The inverse of ``load``, in YAML that 1.1 readers understand as well."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def scalar(value: Any) -> str:
    """A value on one line, to stand behind ``key:`` (lists and mappings in brackets).

    >>> scalar("1e-4"), scalar(1e-4), scalar(["a", "no"]), scalar(None)
    ("'1e-4'", '0.0001', "[a, 'no']", 'null')
    """
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 30)
    return text.removesuffix("\n").removesuffix("\n...")


def load(text: str) -> Any:
    """Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def value(text: str) -> Any:
    """What stands behind the ``=`` of an override; text that is not meant as YAML stays as it is.

    >>> value("1e-4"), value("[a, 2]"), value("null"), value("yes")
    (0.0001, ['a', 2], None, 'yes')
    >>> value("Answer briefly: #1")
    'Answer briefly: #1'
    """
    if not text.strip():
        return None
    try:
        found = load(text)
    except yaml.YAMLError:
        return text
    first = text.lstrip()[0]
    if isinstance(found, dict | list):
        return found if first in "{[" else text
    if isinstance(found, str):
        return found if first in "'\"" else text
    return found
