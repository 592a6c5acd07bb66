/* eagleray
description: A day of the shop in one row, at two in the morning
output: reports.retail_daily
mode: overwrite_partitions
partition_by: [day]
schedule: "0 2 * * *"
timezone: Europe/London
checks:
  - unique: [day]
  - sql: SELECT * FROM {table} WHERE net <> gross + cancelled
*/
SELECT
    $date AS day,
    count(*) FILTER (NOT cancelled) AS orders,
    count(DISTINCT customer) AS customers,
    CAST(coalesce(sum(amount) FILTER (NOT cancelled), 0) AS DECIMAL(18, 2)) AS gross,
    CAST(coalesce(sum(amount) FILTER (cancelled), 0) AS DECIMAL(18, 2)) AS cancelled,
    CAST(coalesce(sum(amount), 0) AS DECIMAL(18, 2)) AS net
FROM facts.invoices
WHERE invoiced_at >= $start AND invoiced_at < $end
HAVING count(*) > 0
