/* eagleray
description: Invoice lines without exact duplicates, exact amounts, each told what it is
output: clean.lines
mode: overwrite_partitions
partition_by: [day(invoiced_at)]
sort_by: [invoiced_at]
checks:
  - not_null: [invoice, stock_code, quantity, unit_price, kind]
  - accepted_values: {column: kind, values: [sale, cancellation, adjustment]}
  - sql: SELECT * FROM {table} WHERE kind = 'sale' AND quantity <= 0
*/
SELECT DISTINCT
    invoice,
    stock_code,
    nullif(trim(description), '') AS description,
    quantity,
    invoiced_at,
    CAST(unit_price AS DECIMAL(12, 2)) AS unit_price,
    CAST(quantity * CAST(unit_price AS DECIMAL(12, 2)) AS DECIMAL(18, 2)) AS amount,
    customer,
    country,
    CASE
        WHEN invoice LIKE 'C%' THEN 'cancellation'
        WHEN quantity <= 0 OR unit_price = 0 THEN 'adjustment'  -- breakage, samples, corrections of stock
        ELSE 'sale'
    END AS kind
FROM retail_lines.events
WHERE invoiced_at >= $start AND invoiced_at < $end
