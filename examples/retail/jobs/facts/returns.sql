/* eagleray
description: What came back or was written off, day by day; a day that runs again replaces what it added
output: facts.returns
mode: append
checks:
  - relationships: {column: invoice, to: facts.invoices, field: invoice}
*/
SELECT invoice, invoiced_at, stock_code, customer, kind, -quantity AS units, -amount AS amount
FROM clean.lines
WHERE invoiced_at >= $start AND invoiced_at < $end AND kind <> 'sale' AND quantity < 0
