/* eagleray
description: Events of each kind by minute
output: reports.github_pulse
mode: full
sort_by: [minute]
checks:
  - unique: [minute, type]
*/
SELECT date_trunc('minute', created_at) AS minute, type, count(*) AS events, count(DISTINCT repo) AS repositories
FROM clean.github_events
GROUP BY ALL
