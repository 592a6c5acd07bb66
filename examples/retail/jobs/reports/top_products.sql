/* eagleray
description: The fifty products that sold for most, with what they are mostly called
output: reports.top_products
mode: full
sort_by: [place]
checks:
  - unique: [stock_code]
  - row_count: {min: 1, max: 50}
*/
WITH sold AS (
    SELECT stock_code, CAST(sum(quantity) AS BIGINT) AS units, CAST(sum(amount) AS DECIMAL(18, 2)) AS amount
    FROM clean.lines
    WHERE kind = 'sale'
    GROUP BY stock_code
),
called AS (
    SELECT stock_code, description
    FROM clean.lines
    WHERE description IS NOT NULL
    GROUP BY stock_code, description
    QUALIFY row_number() OVER (PARTITION BY stock_code ORDER BY count(*) DESC, description) = 1
)
SELECT row_number() OVER (ORDER BY amount DESC, stock_code) AS place, stock_code, description, units, amount
FROM sold LEFT JOIN called USING (stock_code)
QUALIFY place <= 50
