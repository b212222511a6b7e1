"""Parquet files, Arrow files, and folders that ``datasets`` wrote with ``save_to_disk``: read in batches of rows.

A place is the number of the row. Integers that stand for classes become the names of those where the file has them.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tunery.data.readers import BadRow, Record
from tunery.data.source import FREE, RATIO, Source
from tunery.errors import DataError
from tunery.protocols import Row

_BATCH = 1000  # rows
_AGAIN = "write it again, or save the data as JSONL"


def read(source: Source) -> Iterator[Record]:
    """Raises DataError: damaged, a file of the folder is missing or outside of it, or the extra is missing."""
    try:
        import pyarrow as pa
    except ImportError:
        raise DataError(
            "Parquet and Arrow files need the package pyarrow", "pip install 'tunery[arrow]'", source.name
        ) from None
    try:
        yield from _rows(source)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, pa.ArrowException):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise DataError(f"the file is damaged: {reason}", _AGAIN, source.name) from None


def _rows(source: Source) -> Iterator[Record]:
    number, convert = 0, None
    for batch in _batches(source):
        if convert is None:
            convert = _converters(batch.schema, source)
        columns = {
            name: list(map(change, batch.column(place).to_pylist())) for name, (place, change) in convert.items()
        }
        for cells in zip(*columns.values(), strict=True):
            number += 1
            values = dict(zip(columns, cells, strict=True))
            if all(value is None for value in cells):
                yield BadRow(f"{source.name}:{number}", "all columns are empty (null)", "remove the row")
            else:
                yield Row(values, source.name, number)


def _batches(source: Source) -> Iterator[Any]:
    if source.path.is_dir():
        for path in _files(source):
            yield from _of_arrow(path)
        return
    path = source.local()
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            yield from _of_arrow(path)
            return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        groups = (table.metadata.row_group(place) for place in range(table.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > max(FREE, RATIO * path.stat().st_size):
            raise DataError(f"unpacks to more than {RATIO} times its size", _AGAIN, source.name)
        yield from table.iter_batches(_BATCH)


def _of_arrow(path: Path) -> Iterator[Any]:
    """Batches of a file, which has either of two forms: with an index of them at its end, or as a stream."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            batch.validate(full=True)  # such a file is memory as it is: what it says of lengths need not be true
            for start in range(0, batch.num_rows, _BATCH):
                yield batch.slice(start, _BATCH)


def _files(source: Source) -> list[Path]:
    """Files of a folder that ``save_to_disk`` wrote, in their order."""
    state = source.path / "state.json"
    try:
        told = json.loads(state.read_text(encoding="utf-8"))
        names = [str(item["filename"]) for item in told["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError("the list of its files cannot be read", "save the dataset again", str(state)) from None
    found = []
    for name in names:
        path = source.path / name
        if Path(name).name != name or path.resolve().parent != source.path.resolve():
            raise DataError(f"names a file outside of it: {name}", "save the dataset again", source.name)
        if not path.is_file():
            raise DataError(f"its file {name} is missing", "copy the whole folder", source.name)
        found.append(path)
    return found


# ------------------------------------------------------------------------------------------------- values


def _converters(schema: Any, source: Source) -> dict[str, tuple[int, Callable[[Any], Any]]]:
    """Column → its place and what makes sensible values of its cells."""
    import pyarrow as pa

    classes = _classes(schema)
    found: dict[str, tuple[int, Callable[[Any], Any]]] = {}
    for place, (name, kind) in enumerate(zip(schema.names, schema.types, strict=True)):
        if name in found:
            raise DataError(f"two columns are called {name!r}", "rename one of them", source.name)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            source.say(f"the column {name!r} is left out: bytes, not text")
        elif name in classes:
            names = classes[name]
            source.say(f"numbers in {name!r} are the classes {', '.join(names[:8])}{', …' * (len(names) > 8)}")
            found[name] = place, _namer(names)
        else:
            found[name] = place, _plain
    if not found:
        raise DataError("no column of text or numbers", _AGAIN, source.name)
    return found


def _classes(schema: Any) -> dict[str, list[str]]:
    """Names of the classes by column, from what ``datasets`` writes into its files."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        while isinstance(feature, list | dict) and (inner := _inner(feature)) is not None:
            feature = inner
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and names and feature.get("_type") == "ClassLabel":
            found[str(column)] = [str(name) for name in names]
    return found


def _inner(feature: Any) -> Any:
    """What a list is a list of, in the words of ``datasets``."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature") if feature.get("_type") in ("Sequence", "List", "LargeList") else None


def _namer(names: list[str]) -> Callable[[Any], Any]:
    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and -1 <= value < len(names):
            return None if value == -1 else names[value]  # -1: the row has no label
        return value

    return name


def _plain(value: Any) -> Any:
    """A value as JSON could have it."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        number = float(value)
        return int(value) if math.isfinite(number) and number.is_integer() else number
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
