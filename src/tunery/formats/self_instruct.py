"""Seed tasks in the form of Self-Instruct: an instruction with several instances."""

from __future__ import annotations

from collections.abc import Iterable

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Format, Row

_NEED = 'a list of {"input": …, "output": …}'


class SelfInstruct(Format):
    """``{"instruction": "Name the capital.", "instances": [{"input": "France", "output": "Paris"}]}``.

    Every instance is a row of its own: the second one of line 7 has the place ``FILE#2:7``. Instances of one
    instruction are never held out from each other.
    """

    summary = "an instruction with a list of instances, each an input and an output (Self-Instruct)"
    columns = ("instruction", "instances")
    optional = ("system",)
    targets = ()
    task = "instruct"

    def rows(self, row: Row) -> Iterable[Row]:
        """A row with one instance each. Raises DataError: no list of instances."""
        if cells.absent(row, "instances"):
            raise cells.missing(row, "instances", _NEED)
        instances = cells.unpacked(row.values["instances"], dict)
        if not isinstance(instances, list) or not instances:
            raise cells.wrong(row, "instances", instances, _NEED)
        return [
            Row({**row.values, "instances": [one]}, row.file if number == 1 else f"{row.file}#{number}", row.line)
            for number, one in enumerate(instances, 1)
        ]

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Of the first instance. Raises DataError: there is none, blank text, a cell of the wrong type."""
        instance = next(iter(self.rows(row))).values["instances"][0]
        if not isinstance(instance, dict):
            raise DataError("an instance is no object", f"give {_NEED}", row.where)
        inner = Row({"instruction": row.values.get("instruction"), **instance}, row.file, row.line)
        instruction, given = cells.text(inner, "instruction"), cells.optional_text(inner, "input")
        output = cells.text(inner, "output") if need_target else cells.optional_text(inner, "output")
        asked = instruction if given is None else f"{instruction}\n\n{given}"
        return Example(
            row.file,
            row.line,
            messages=cells.conversation(cells.optional_text(row, "system"), asked, output),
            references=cells.references(output, ()),
            group=f"{row.file.partition('#')[0]}:{row.line}",
        )
