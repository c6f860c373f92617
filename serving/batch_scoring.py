"""Scores a table with a SavedModel: `mtl-score`, and `serving.batch_scoring.score` from Python."""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from serving.scoring.output_file import TFRECORD, refuse_existing


@dataclass(frozen=True)
class ScoringSummary:
    """What a run did: rows in the output, how many of them an earlier run had scored, seconds, model version."""

    rows: int
    resumed_rows: int
    seconds: float
    version: int | None


def score(
    model,
    input,
    output,
    signature=None,
    batch_size=4096,
    keys=(),
    overwrite=False,
    progress=True,
    rows_per_part=None,
    restart=False,
):
    """Scores every row of a file and writes one column per task, in the order of the rows.

    The rows are streamed: memory holds a few batches and one part, however long the file. Finished parts are kept in
    `OUTPUT.partial/`; a run that was killed goes on from there when it is started again. It is refused if the model,
    the input, the signature, the batch size or the keys are others by then, unless `restart` is set. The output appears
    under its name only when it is complete.

    Args:
        model: Directory of a SavedModel, or of numeric versions of one, of which the newest is taken.
        input: A .parquet, .csv, .tfrecord or .tfrecords file, or a directory of .parquet files and nothing else; in it,
            names that begin with `_` or `.` are passed over. Its columns feed the signature's inputs of the same name.
        output: A .parquet, .tfrecord or .tfrecords file to write: the keys, then a column per task; a task of several
            classes becomes a list column.
        signature: Name of the signature. Defaults to `"examples"` for TFRecord where the model has it, otherwise to
            `"serving_default"`.
        batch_size: Rows per call of the signature. Defaults to 4096.
        keys: List of the names of input columns to carry into the output. Defaults to none.
        overwrite: Whether an existing output may be replaced. Defaults to False.
        progress: Whether to show the model's version and a progress bar on stderr. Defaults to True.
        rows_per_part: Rows after which a part is put on the disk, rounded up to whole batches: what a kill can cost.
            Defaults to 16 batches.
        restart: Whether to throw away what a run before has scored, instead of going on with it. Defaults to False.

    Returns:
        A `ScoringSummary`.

    Raises:
        ValueError, TypeError: If an argument, a column or a value is wrong.
        RuntimeError: If the model fails, or another process is scoring into the same output.
        FileNotFoundError, FileExistsError, OSError: If the input is missing, the output is there, the disk is full.

    Example:
        >>> score("build/model", "rows.parquet", "scores.parquet", signature="ctr", keys=["user_id"])
        ScoringSummary(rows=1000000, resumed_rows=0, seconds=7.1, version=3)
    """
    started = time.perf_counter()
    input, output, keys = Path(input), Path(output), keys if isinstance(keys, str) else list(keys)
    _check_arguments(input, output, batch_size, keys, overwrite, rows_per_part)
    batch_size = int(batch_size)
    rows_per_part = 16 * batch_size if rows_per_part is None else rows_per_part

    import pyarrow as pa
    from tqdm import tqdm

    from serving.scoring.part_files import PartFiles
    from serving.scoring.row_readers import open_rows
    from serving.scoring.score_files import (
        check_tfrecord_batch,
        check_tfrecord_schema,
        write_parquet,
        write_tfrecord,
    )
    from serving.scoring.scoring_signature import ScoringSignature

    scorer = ScoringSignature(model, signature, from_examples=input.suffix in TFRECORD)
    tasks = [field.name for field in scorer.fields]
    clash = [key for key in keys if key in tasks]
    if clash:
        raise ValueError(f"`keys` must not have the name of a task; received: {clash}, tasks={tasks}")
    rows = open_rows(input, scorer.inputs, keys)
    schema = pa.schema([*(rows.schema.field(key) for key in keys), *scorer.fields])
    write = write_parquet
    if output.suffix in TFRECORD:
        check_tfrecord_schema(schema)
        write = write_tfrecord
    files = _identity(rows.paths)
    identity = {
        "input": files,
        "columns": [f"{field.name}: {field.type}" for field in rows.schema],
        "model": scorer.fingerprint(),
        "version": scorer.version,
        "signature": scorer.name,
        "batch_size": batch_size,
        "keys": keys,
    }
    if progress:
        print(f"model: {scorer.path} (version {scorer.version}), signature: {scorer.name}", file=sys.stderr)

    with PartFiles(output, schema, identity, write, overwrite, restart) as parts:
        resumed = parts.rows
        waiting, end = [], resumed
        with tqdm(total=rows.num_rows, initial=resumed, unit="row", unit_scale=True, disable=not progress) as bar:
            for batch in rows.batches(resumed, batch_size):
                columns = scorer(batch, first_row=end)
                arrays = [*(batch.column(key) for key in keys), *columns]
                scored = pa.RecordBatch.from_arrays(arrays, schema=schema)
                if write is write_tfrecord:
                    check_tfrecord_batch(scored, first_row=end)
                waiting.append(scored)
                end += len(batch)
                if end - parts.rows >= rows_per_part:
                    parts.add(pa.Table.from_batches(waiting))
                    waiting = []
                bar.update(len(batch))
        if waiting:
            parts.add(pa.Table.from_batches(waiting))
        if _identity(rows.paths) != files:
            raise ValueError(f"`input` must not change while it is scored; received: input='{input}', which did")
        parts.publish()
    return ScoringSummary(end, resumed, time.perf_counter() - started, scorer.version)


def main(argv=None):
    """The command `mtl-score`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="mtl-score",
        description="Score a table with a SavedModel, one column per task. A run that was killed goes on where it "
        "stopped when it is started again.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="a SavedModel, or a directory of versions")
    parser.add_argument(
        "--input", required=True, metavar="X", help=".parquet (or a directory of them), .csv or .tfrecord file"
    )
    parser.add_argument("--output", required=True, metavar="Y", help=".parquet or .tfrecord file to write")
    parser.add_argument("--signature", help="default: serving_default; examples for TFRecord if the model has it")
    parser.add_argument("--batch-size", type=int, default=4096, metavar="N", help="rows per call (default 4096)")
    parser.add_argument("--rows-per-part", type=int, metavar="N", help="rows a kill can cost (default 16 batches)")
    parser.add_argument("--keys", default="", metavar="A,B", help="input columns to carry into the output")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--restart", action="store_true", help="throw away what a killed run has scored; leave it out to go on"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = vars(parser.parse_args(argv))
    arguments["keys"] = [key for key in arguments["keys"].split(",") if key]
    arguments["progress"] = not arguments.pop("quiet")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # our own errors stay readable
    try:
        summary = score(**arguments)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"mtl-score: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mtl-score: interrupted; run the same command again (without --restart) to go on", file=sys.stderr)
        return 1
    print(
        f"scored {summary.rows:,} rows in {summary.seconds:.1f} s with version {summary.version}: {arguments['output']}"
    )
    return 0


def _check_arguments(input, output, batch_size, keys, overwrite, rows_per_part):
    if not input.exists():
        raise FileNotFoundError(f"`input` must exist; received: input='{input}'")
    if output.suffix not in (".parquet", *TFRECORD):
        raise ValueError(f"`output` must end in .parquet, .tfrecord or .tfrecords; received: output='{output}'")
    if output.is_dir():
        raise ValueError(f"`output` must be a file; received: output='{output}', which is a directory")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must be in an existing directory; received: output='{output}'")
    if output.resolve() == input.resolve() or output.resolve().parent == input.resolve():
        raise ValueError(f"`output` must not be the input, or in it; received: output='{output}', input='{input}'")
    refuse_existing(output, overwrite)
    for name, value in (("batch_size", batch_size), ("rows_per_part", 1 if rows_per_part is None else rows_per_part)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1; received: {name}={value!r}")
    if isinstance(keys, str):
        raise ValueError(f"`keys` must be a list of names, such as [{keys!r}]; received: keys={keys!r}")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`keys` must differ from each other; received: keys={keys}")


def _identity(paths):
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


if __name__ == "__main__":
    sys.exit(main())
