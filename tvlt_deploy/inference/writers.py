"""Answers as CSV, NumPy arrays and Parquet. Each clip is written when it is answered."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy.errors import EnvironmentLackError
from tvlt_deploy.inference.files import FileAnswer
from tvlt_deploy.inference.pipeline import Pipeline

Add = Callable[[FileAnswer], None]

_COLUMNS = ("media", "audio", "start", "duration", "frames", "sound", "warnings", "label", "score", "error")

ROW_GROUP_BYTES = 64 * 2**20
"""Bytes of arrays that are collected in memory before they are written to a Parquet file."""


def csv_lines(pipeline: Pipeline, write: Callable[[str], None]) -> Add:
    """Write a header line now, and a line for each answer.

    After the common columns there is a column with the score of each label, or for tasks without labels the shape of
    each output, such as `8x768`. Warnings are separated by `; `.

    Args:
        pipeline: the pipeline that answers.
        write: receives each line, with its line break.

    Returns:
        A function that writes the line of one answer.
    """
    outputs = () if pipeline.labels else pipeline.task.output_names

    def line(values: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        write(text.getvalue())

    def add(answer: FileAnswer) -> None:
        values = answer.to_dict()
        values["warnings"] = "; ".join(values["warnings"])
        scores, shapes = values["scores"] or {}, values["outputs"]
        line(
            [values[name] for name in _COLUMNS]
            + [scores.get(label) for label in pipeline.labels]
            + ["x".join(map(str, shapes[name])) if name in shapes else None for name in outputs]
        )

    line([*_COLUMNS, *(f"score.{label}" for label in pipeline.labels), *outputs])
    return add


def npy_files(folder: Path, written: Callable[[Path], None]) -> Add:
    """Write each output of each answer to an .npy file.

    Args:
        folder: directory of the files, which are named MEDIA.OUTPUT.npy and written atomically.
        written: receives the path of each file.

    Returns:
        A function that writes the files of one answer.
    """

    def add(answer: FileAnswer) -> None:
        for name, values in answer.outputs.items():
            path = folder / f"{answer.media.name}.{name}.npy"
            with staged_file(path) as temporary, open(temporary, "wb") as handle:
                np.save(handle, values)
            written(path)

    return add


@contextlib.contextmanager
def parquet_file(pipeline: Pipeline, path: Path) -> Iterator[Add]:
    """Write a Parquet file with a row for each answer.

    Its columns are those of the CSV (`warnings` is a list) and each output: a fixed-size list of float32, or for
    outputs per token a list of such lists.

    Args:
        pipeline: the pipeline that answers.
        path: path of the file, which exists only when the block has ended without an exception.

    Yields:
        A function that writes the row of one answer.

    Raises:
        EnvironmentLackError: pyarrow is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise EnvironmentLackError(
            f"Parquet files need pyarrow, which cannot be imported: {error}", hint="pip install 'tvlt-deploy[parquet]'"
        ) from error
    text, number = pa.string(), pa.float64()
    kinds = {"start": number, "duration": number, "frames": pa.int32(), "sound": pa.bool_(), "score": number}
    fields = [pa.field(name, pa.list_(text) if name == "warnings" else kinds.get(name, text)) for name in _COLUMNS]
    fields += [pa.field(f"score.{label}", number) for label in pipeline.labels]
    specs = pipeline.task.outputs(pipeline.config)
    for name, spec in specs.items():
        kind = pa.float32()
        for axis in reversed(spec.shape[1:]):
            kind = pa.list_(kind, axis) if isinstance(axis, int) else pa.list_(kind)
        fields.append(pa.field(name, kind))
    schema = pa.schema(fields)

    with staged_file(path) as temporary, pq.ParquetWriter(temporary, schema, use_dictionary=False) as writer:
        rows: list[dict[str, Any]] = []
        collected = 0

        def flush() -> None:
            nonlocal collected
            if rows:
                columns = [_column(pa, field.type, [row.get(field.name) for row in rows]) for field in schema]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            rows.clear()
            collected = 0

        def add(answer: FileAnswer) -> None:
            nonlocal collected
            values = answer.to_dict()
            scores = {f"score.{label}": score for label, score in (values["scores"] or {}).items()}
            rows.append({**values, **scores, **dict.fromkeys(specs), **answer.outputs})
            collected += sum(array.nbytes for array in answer.outputs.values())
            if collected > ROW_GROUP_BYTES:
                flush()

        yield add
        flush()


def _column(pa: Any, kind: Any, values: list[Any]) -> Any:
    """A column of plain values, or of arrays. Arrays are not converted to Python numbers."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not arrays or pa.types.is_fixed_size_list(kind):
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values], kind)
    flat = np.concatenate(arrays)
    items = pa.array(flat.reshape(-1))
    if flat.ndim > 1:
        items = pa.FixedSizeListArray.from_arrays(items, flat.shape[1])
    ends = np.cumsum([0 if value is None else len(value) for value in values])
    starts = [None if value is None else int(end) - len(value) for value, end in zip(values, ends, strict=True)]
    return pa.ListArray.from_arrays(pa.array([*starts, int(ends[-1])], pa.int32()), items)
