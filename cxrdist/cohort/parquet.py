"""Parquet files from memory."""

import pyarrow as pa
import pyarrow.parquet


def parquet_table(data: bytes) -> pa.Table:
    """Read a table from the bytes of a Parquet file, in this thread alone.

    Arrow's own threads may hold what they read from for a moment after a table was returned. Where that is memory of
    Python, and the interpreter is gone meanwhile, the process aborts: after all its work was done.

    Raises:
        pyarrow.ArrowException, OSError: the file is damaged.
    """
    return pyarrow.parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
