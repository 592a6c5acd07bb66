/* eagleray
description: What people, not robots, edited; only what arrived since the last run
output: clean.edits
mode: incremental
schedule: "10 0 * * *"
checks:
  - not_null: [time, channel, page, user]
*/
SELECT time, channel, page, "user", added, deleted, delta, isNew AS is_new, isAnonymous AS is_anonymous
FROM wiki_edits.events
WHERE NOT isRobot
