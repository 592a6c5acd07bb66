/* eagleray
description: One row per invoice
output: facts.invoices
mode: overwrite_partitions
partition_by: [day(invoiced_at)]
checks:
  - unique: [invoice]
  - not_null: [invoice, invoiced_at, amount]
*/
SELECT
    invoice,
    min(invoiced_at) AS invoiced_at,
    min(customer) AS customer,
    min(country) AS country,
    bool_or(kind = 'cancellation') AS cancelled,
    count(*) AS lines,
    CAST(sum(quantity) AS BIGINT) AS units,
    CAST(sum(amount) AS DECIMAL(18, 2)) AS amount
FROM clean.lines
WHERE invoiced_at >= $start AND invoiced_at < $end
GROUP BY invoice
