/* eagleray
description: Edits in windows of ten minutes for the busiest channels of the day, empty windows included
output: facts.channel_windows
mode: overwrite_partitions
partition_by: [day(window_start)]
sort_by: [channel, window_start]
checks:
  - unique: [channel, window_start]
*/
WITH counted AS (
    SELECT channel, time_bucket(INTERVAL 10 MINUTE, time) AS window_start, count(*) AS edits,
        count(DISTINCT "user") AS users, CAST(sum(added) AS BIGINT) AS added
    FROM clean.edits
    WHERE time >= $start AND time < $end
    GROUP BY ALL
),
busiest AS (
    SELECT channel FROM counted GROUP BY channel ORDER BY sum(edits) DESC, channel LIMIT 10
),
windows AS (
    SELECT channel, unnest(range($start, $end, INTERVAL 10 MINUTE)) AS window_start FROM busiest
)
SELECT
    channel,
    window_start,
    coalesce(edits, 0) AS edits,
    coalesce(users, 0) AS users,
    coalesce(added, 0) AS added
FROM windows LEFT JOIN counted USING (channel, window_start)
