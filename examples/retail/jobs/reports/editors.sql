/* eagleray
description: How people edit, their sessions, how long they are, and what came of them
output: reports.editors
mode: full
checks:
  - unique: [user]
*/
SELECT
    "user",
    count(*) AS sessions,
    CAST(sum(edits) AS BIGINT) AS edits,
    CAST(sum(added) AS BIGINT) AS added,
    max(date_diff('second', started, ended)) AS longest_s
FROM facts.sessions
GROUP BY "user"
