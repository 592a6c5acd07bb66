/* eagleray
description: A daily rollup of edits by channel
output: reports.wiki_daily
mode: overwrite_partitions
partition_by: [day]
schedule: "30 0 * * *"
catch_up: true
checks:
  - unique: [day, channel]
  - sql: SELECT * FROM {table} WHERE users > edits
*/
SELECT
    $date AS day,
    channel,
    count(*) AS edits,
    count(DISTINCT "user") AS users,
    count(DISTINCT page) AS pages,
    CAST(sum(added) AS BIGINT) AS added,
    count(*) FILTER (is_new) AS new_pages
FROM clean.edits
WHERE time >= $start AND time < $end
GROUP BY channel
