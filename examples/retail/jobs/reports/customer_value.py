"""Customers in three bands by what they spent: a job in Python, on Polars."""

from __future__ import annotations

import polars as pl

from eagleray import job, table


@job(
    output="reports.customer_value",
    mode="full",
    checks=[
        {"unique": ["customer"]},
        {"accepted_values": {"column": "band", "values": ["top", "middle", "low"]}},
        {"relationships": {"column": "customer", "to": "facts.customers", "field": "customer"}},
    ],
)
def customer_value(customers: pl.LazyFrame = table("facts.customers", where="customer IS NOT NULL")) -> pl.LazyFrame:
    """The tenth that spent most is `top`, whoever spent nothing or took it back `low`."""
    place = pl.struct(-pl.col("amount"), pl.col("customer")).rank("ordinal")
    return customers.select(
        "customer",
        "orders",
        "amount",
        place.cast(pl.Int64).alias("place"),
        pl.when(pl.col("amount") <= 0)
        .then(pl.lit("low"))
        .when(place <= pl.len() // 10)
        .then(pl.lit("top"))
        .otherwise(pl.lit("middle"))
        .alias("band"),
    )
