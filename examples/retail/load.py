#!/usr/bin/env python
"""Turns invoice files of the UCI data set "Online Retail" (CSV) into events: a JSON object a line on standard output.

python load.py FILE.csv ... | eagleray send - --stream retail_lines
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def events(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of `file` as the schema has them; the shop's times have no zone and count as UTC."""
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield {
                "invoice": row["InvoiceNo"],
                "stock_code": row["StockCode"],
                "description": row["Description"] or None,
                "quantity": int(row["Quantity"]),
                "invoiced_at": f"{row['InvoiceDate'].replace(' ', 'T')}Z",
                "unit_price": float(row["UnitPrice"]),
                "customer": int(float(row["CustomerID"])) if row["CustomerID"] else None,
                "country": row["Country"],
            }


def main() -> None:
    """Write the events of every file that is named."""
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        for event in events(Path(name)):
            print(json.dumps(event))


if __name__ == "__main__":
    main()
