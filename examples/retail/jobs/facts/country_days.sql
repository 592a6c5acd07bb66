/* eagleray
description: Turnover by day and country; the same keyword, `engine`, runs it on Daft, on all nodes of the cluster
output: facts.country_days
mode: overwrite_partitions
partition_by: [day]
engine: daft
checks:
  - unique: [day, country]
*/
SELECT
    $date AS day,
    country,
    count(*) AS lines,
    count(DISTINCT invoice) AS invoices,
    sum(amount) AS amount
FROM clean.lines
WHERE invoiced_at >= $start AND invoiced_at < $end AND kind <> 'adjustment'
GROUP BY country
