"""Which products are bought together: a job in Python, on a DuckDB relation."""

from __future__ import annotations

import duckdb

from eagleray import job, table

INVOICES_MIN = 10


@job(output="reports.bought_together", mode="full", memory="1GiB", checks=[{"unique": ["first", "second"]}])
def bought_together(
    lines: duckdb.DuckDBPyRelation = table("clean.lines", columns=["invoice", "stock_code"], where="kind = 'sale'"),
) -> duckdb.DuckDBPyRelation:
    """Pairs of products that at least INVOICES_MIN invoices have in common."""
    baskets = lines.distinct()
    pairs = baskets.set_alias("a").join(baskets.set_alias("b"), "a.invoice = b.invoice AND a.stock_code < b.stock_code")
    counted = pairs.aggregate("a.stock_code AS first, b.stock_code AS second, count(*) AS invoices")
    return counted.filter(f"invoices >= {INVOICES_MIN}")
