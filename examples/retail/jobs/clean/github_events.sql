/* eagleray
description: GitHub's events, once per id however often they were sent; only what arrived since
output: clean.github_events
mode: incremental
key: [id]
checks:
  - not_null: [id, type, repo]
  - unique: [id]
*/
SELECT id, type, actor.login AS actor, repo.name AS repo, created_at
FROM github.events
QUALIFY row_number() OVER (PARTITION BY id ORDER BY _ingested_at, _partition, _offset, _row) = 1
