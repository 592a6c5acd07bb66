/* eagleray
description: What people, not robots, edited; every ten minutes, only what arrived since
output: clean.edits
mode: incremental
schedule: "*/10 * * * *"
checks:
  - not_null: [time, channel, page, user]
*/
SELECT time, channel, page, "user", added, deleted, delta, isNew AS is_new, isAnonymous AS is_anonymous
FROM wiki_edits.events
WHERE NOT isRobot
