"""Runs statements in Spark, in a process of its own: `python -m etl.spark PLAN.json OUT`.

The plan names Parquet files by table and statements by name. OUT gets an Arrow file for each result and times.json.
Spark reads the very Parquet files of the Iceberg tables, without Iceberg: the Iceberg runtime is a jar of Maven's that
is not part of PySpark, and going without it favours Spark (no manifests to read). Two cores, no web interface, four
shuffle partitions instead of two hundred, which favours Spark as well. A statement's time goes from its text to all
rows in this process; the start of the session is told apart.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import pyarrow as pa

SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "8g",
    "spark.driver.maxResultSize": "4g",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.ansi.enabled": "true",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def main(plan_file: str, out: Path) -> None:
    """Run every statement of the plan once, in order."""
    began = time.perf_counter()
    warnings.simplefilter("ignore")  # PySpark on pandas' newest
    from pyspark.sql import SparkSession

    plan = json.loads(Path(plan_file).read_text())
    builder = SparkSession.builder.master("local[2]").config("spark.sql.warehouse.dir", str(out / "warehouse"))
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    for name, files in plan["tables"].items():
        spark.read.parquet(*files).createOrReplaceTempView(name.replace(".", "__"))
    times = {"start": time.perf_counter() - began}
    for name, text in plan["statements"].items():
        for table in sorted(plan["tables"], key=len, reverse=True):
            text = text.replace(table, table.replace(".", "__"))
        at = time.perf_counter()
        result = spark.sql(text).toArrow()
        times[name] = time.perf_counter() - at
        with pa.OSFile(str(out / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, result.schema) as writer:
            writer.write_table(result)
        print(f"spark {name}: {times[name]:.2f} s", file=sys.stderr, flush=True)
    (out / "times.json").write_text(json.dumps(times))
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
