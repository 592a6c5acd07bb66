/* eagleray
description: What is known of each customer, brought up to date for those who bought or returned something that day
output: facts.customers
mode: merge
key: [customer]
checks:
  - unique: [customer]
  - not_null: [customer, first_seen, last_seen]
*/
SELECT
    customer,
    min(invoiced_at) AS first_seen,
    max(invoiced_at) AS last_seen,
    count(*) FILTER (NOT cancelled) AS orders,
    count(*) FILTER (cancelled) AS cancellations,
    CAST(sum(amount) AS DECIMAL(18, 2)) AS amount
FROM facts.invoices
WHERE customer IN (SELECT customer FROM facts.invoices WHERE invoiced_at >= $start AND invoiced_at < $end)
GROUP BY customer
