/* eagleray
description: Sessions of editing, a user's edits that are at most half an hour apart
output: facts.sessions
mode: full
sort_by: [started]
checks:
  - unique: [user, started]
*/
WITH marked AS (
    SELECT
        *,
        time - lag(time) OVER of_user > INTERVAL 30 MINUTE AS after_a_pause
    FROM clean.edits
    WINDOW of_user AS (PARTITION BY "user" ORDER BY time)
),
numbered AS (
    SELECT *, count(*) FILTER (after_a_pause) OVER (PARTITION BY "user" ORDER BY time) AS session
    FROM marked
)
SELECT
    "user",
    min(time) AS started,
    max(time) AS ended,
    count(*) AS edits,
    count(DISTINCT page) AS pages,
    CAST(sum(added) AS BIGINT) AS added
FROM numbered
GROUP BY "user", session
