import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from cxrdist.cohort.parquet import parquet_table

TABLE = pa.table({"image_id": ["a", "b"], "p_normal": [0.25, 0.75]}, metadata={"classes": "[]"})

# What is left of a reading in a process that read: threads of Arrow's, which may outlive the interpreter.
THREADS = """
import os, sys
import pyarrow as pa, pyarrow.parquet
from cxrdist.cohort.parquet import parquet_table
pa.array([1])
before = len(os.listdir("/proc/self/task"))
parquet_table(sys.stdin.buffer.read())
print(len(os.listdir("/proc/self/task")) - before)
"""


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(TABLE, sink, compression="zstd")
    return sink.getvalue()


def test_a_table_is_read_with_its_metadata() -> None:
    assert parquet_table(parquet()).equals(TABLE, check_metadata=True)


def test_a_damaged_file_is_an_error() -> None:
    with pytest.raises((pa.ArrowException, OSError)):
        parquet_table(parquet()[:-9])


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_is_left_that_could_outlive_the_interpreter() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], input=parquet(), capture_output=True, check=True)
    assert done.stdout == b"0\n", done.stderr
