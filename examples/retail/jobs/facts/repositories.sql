/* eagleray
description: What happened to each repository
output: facts.repositories
mode: full
checks:
  - unique: [repo]
*/
SELECT
    repo,
    count(*) AS events,
    count(*) FILTER (type = 'PushEvent') AS pushes,
    count(*) FILTER (type = 'WatchEvent') AS stars,
    count(DISTINCT actor) AS people
FROM clean.github_events
GROUP BY repo
