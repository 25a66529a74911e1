-- The broker's statements. The tables are in drivers/sqlite.sql. Every statement runs inside a transaction that the
-- adapter began with BEGIN IMMEDIATE, but for those under "Looking", which see one moment of the file.

-- ------------------------------------------------------------------------------------------------- Storing

-- name: take_positions
-- :count -> the last of so many positions that are now the caller's.
UPDATE sequence SET last = last + :count RETURNING last;

-- name: add_ready
-- queue, urgency, position, data, history, verdict
INSERT INTO ready (queue, urgency, position, data, history, verdict) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_delayed
-- queue, due_at, position, urgency, data, history, verdict
INSERT INTO delayed (queue, due_at, position, urgency, data, history, verdict) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: add_dead
-- queue, key, urgency, data, reason, detail, died_at, history -> changes no row where the key is taken.
INSERT OR IGNORE INTO dead (queue, key, urgency, data, reason, detail, died_at, history)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_to_counters
-- queue, was_sent_to (0 or 1), and what is added to ready, delayed, running and dead. Makes the queue if need be.
INSERT INTO queues (name, was_sent_to, ready, delayed, running, dead) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    was_sent_to = max(was_sent_to, excluded.was_sent_to),
    ready = ready + excluded.ready,
    delayed = delayed + excluded.delayed,
    running = running + excluded.running,
    dead = dead + excluded.dead;

-- ------------------------------------------------------------------------------------------- Leases and house

-- name: add_lease
-- queue, owner, expires_at, lasts
INSERT OR REPLACE INTO leases (queue, owner, expires_at, lasts) VALUES (?, ?, ?, ?);

-- name: renew_lease
-- expires_at, lasts, queue, owner -> changes no row where the owner is lost or was never known.
UPDATE leases SET expires_at = ?, lasts = ? WHERE queue = ? AND owner = ?;

-- name: end_lease
-- queue, owner
DELETE FROM leases WHERE queue = ? AND owner = ?;

-- name: expired_owners
-- queue, now -> owner
SELECT owner FROM leases WHERE queue = ? AND expires_at <= ? ORDER BY expires_at;

-- name: amnesty
-- now, queue: every lease of the queue begins anew.
UPDATE leases SET expires_at = ? + lasts WHERE queue = ?;

-- name: house
-- owner, queue -> housekept_at, paused, expiry of the owner's lease (null: there is none), whether anything is
-- remembered as revoked.
SELECT housekept_at, paused, (SELECT expires_at FROM leases WHERE queue = name AND owner = ?),
    EXISTS (SELECT 1 FROM revoked WHERE queue = name)
FROM queues WHERE name = ?;

-- name: mark_house
-- now, queue
UPDATE queues SET housekept_at = ? WHERE name = ?;

-- name: take_holding
-- queue, owner -> fence, urgency, position, data, history, verdict, is_committed of all that the owner held, which
-- ends. Scans what is running in the queue: a few rows for each slot of the fleet.
DELETE FROM running WHERE queue = ? AND owner = ?
RETURNING fence, urgency, position, data, history, verdict, is_committed;

-- ------------------------------------------------------------------------------------------------- Taking

-- name: due
-- queue, now, limit -> due_at, position, urgency, data, history, verdict: what is due, the earliest first.
SELECT due_at, position, urgency, data, history, verdict FROM delayed
WHERE queue = ? AND due_at <= ? ORDER BY due_at, position LIMIT ?;

-- name: delete_delayed
-- queue, due_at, position
DELETE FROM delayed WHERE queue = ? AND due_at = ? AND position = ?;

-- name: head
-- queue, limit -> urgency, position, queue, data, history, verdict of what is to be taken next, in order.
SELECT urgency, position, queue, data, history, verdict FROM ready
WHERE queue = ? ORDER BY urgency, position LIMIT ?;

-- name: delete_ready
-- queue, urgency, position
DELETE FROM ready WHERE queue = ? AND urgency = ? AND position = ?;

-- name: add_running
-- queue, fence, owner, urgency, position, data, history, verdict
INSERT INTO running (queue, fence, owner, urgency, position, data, history, verdict)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- ------------------------------------------------------------------------------------------------- Settling

-- name: take_running
-- queue, fence, owner -> urgency, position, data, history, verdict, is_committed; no row where the delivery is not
-- the owner's.
DELETE FROM running WHERE queue = ? AND fence = ? AND owner = ?
RETURNING urgency, position, data, history, verdict, is_committed;

-- name: is_running
-- queue, fence, owner -> one row where the delivery is the owner's.
SELECT 1 FROM running WHERE queue = ? AND fence = ? AND owner = ?;

-- name: commit
-- queue, fence, owner -> changes no row where the delivery is not the owner's.
UPDATE running SET is_committed = 1 WHERE queue = ? AND fence = ? AND owner = ?;

-- ------------------------------------------------------------------------------------------------- Revoking

-- name: remember
-- queue, key, until, terminate (0 or 1), signal. A milder revocation takes nothing of a harder one back.
INSERT INTO revoked (queue, key, until, terminate, signal) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (queue, key) DO UPDATE SET
    until = max(until, excluded.until),
    signal = CASE WHEN excluded.terminate THEN excluded.signal ELSE signal END,
    terminate = max(terminate, excluded.terminate);

-- name: is_remembered
-- queue, key, now -> one row where it is.
SELECT 1 FROM revoked WHERE queue = ? AND key = ? AND until > ?;

-- name: forget
-- queue, key
DELETE FROM revoked WHERE queue = ? AND key = ?;

-- name: forget_expired
-- queue, now, limit
DELETE FROM revoked WHERE serial IN (
    SELECT serial FROM revoked WHERE queue = ? AND until <= ? ORDER BY until LIMIT ?
);

-- name: shorten
-- queue, queue, how many are to be remembered: deletes those above, the oldest.
DELETE FROM revoked WHERE queue = ? AND serial IN (
    SELECT serial FROM revoked WHERE queue = ? ORDER BY until DESC, serial DESC LIMIT -1 OFFSET ?
);

-- name: held_keys
-- queue -> the keys of all that is in somebody's holding.
SELECT substr(data, 2, 16) FROM running WHERE queue = ?;

-- name: some_ready
-- queue, urgency, position, limit -> urgency, position, key, verdict of those before, the last sent of an urgency
-- first.
SELECT urgency, position, substr(data, 2, 16), verdict FROM ready
WHERE queue = ? AND (urgency, position) < (?, ?) ORDER BY urgency DESC, position DESC LIMIT ?;

-- name: some_delayed
-- queue, due_at, position, limit -> due_at, position, key, verdict of those before, the last due first.
SELECT due_at, position, substr(data, 2, 16), verdict FROM delayed
WHERE queue = ? AND (due_at, position) < (?, ?) ORDER BY due_at DESC, position DESC LIMIT ?;

-- name: find_ready
-- part, queue, urgency, position, limit -> urgency, position, the message or null where it lacks the part, of those before,
-- as some_ready.
SELECT urgency, position, CASE WHEN instr(data, ?) THEN data END FROM ready
WHERE queue = ? AND (urgency, position) < (?, ?) ORDER BY urgency DESC, position DESC LIMIT ?;

-- name: find_delayed
-- part, queue, due_at, position, limit -> due_at, position, the message or null, as find_ready.
SELECT due_at, position, CASE WHEN instr(data, ?) THEN data END FROM delayed
WHERE queue = ? AND (due_at, position) < (?, ?) ORDER BY due_at DESC, position DESC LIMIT ?;

-- name: find_held
-- queue, part -> the messages in anybody's holding that have the part.
SELECT data FROM running WHERE queue = ? AND instr(data, ?);

-- name: take_out_ready
-- queue, urgency, position -> position, data, history, verdict; no row where it has gone elsewhere.
DELETE FROM ready WHERE queue = ? AND urgency = ? AND position = ? RETURNING position, data, history, verdict;

-- name: take_out_delayed
-- queue, due_at, position -> as take_out_ready.
DELETE FROM delayed WHERE queue = ? AND due_at = ? AND position = ? RETURNING position, data, history, verdict;

-- name: revoked
-- queue, now -> key, terminate, signal of what is remembered, the oldest first.
SELECT key, terminate, signal FROM revoked WHERE queue = ? AND until > ? ORDER BY until, serial;

-- name: ban
-- data, until
INSERT INTO bans (data, until) VALUES (?, ?) ON CONFLICT (data) DO UPDATE SET until = max(until, excluded.until);

-- name: shorten_bans
-- now, how many are to be remembered: deletes what is over, and those above.
DELETE FROM bans WHERE until <= ? OR data NOT IN (SELECT data FROM bans ORDER BY until DESC LIMIT ?);

-- name: bans
-- now -> data, the soonest to be forgotten first.
SELECT data FROM bans WHERE until > ? ORDER BY until;

-- ------------------------------------------------------------------------------------------------- Notices

-- name: tell
-- name, data, told_at
INSERT INTO notices (name, data, told_at) VALUES (?, ?, ?);

-- name: forget_notices
-- told before, told after (in the future: the clock was set back)
DELETE FROM notices WHERE told_at < ? OR told_at > ?;

-- name: last_notice
-- -> the serial of the last notice there ever was.
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'notices'), 0);

-- name: notices_after
-- serial -> serial, name, data of each later one.
SELECT serial, name, data FROM notices WHERE serial > ? ORDER BY serial;

-- ------------------------------------------------------------------------------------------------- Looking

-- name: glance
-- owner, queue -> paused, housekept_at, expiry of the owner's lease, whether something is ready, when the next
-- falls due. Each is one descent of a tree.
SELECT paused, housekept_at,
    (SELECT expires_at FROM leases WHERE queue = name AND owner = ?),
    EXISTS (SELECT 1 FROM ready WHERE queue = name),
    (SELECT min(due_at) FROM delayed WHERE queue = name)
FROM queues WHERE name = ?;

-- name: waiting
-- queue -> how many are ready, and delayed; one row
SELECT coalesce(sum(ready), 0), coalesce(sum(delayed), 0) FROM queues WHERE name = ?;

-- name: counters
-- queue -> ready, delayed, running, dead, paused, evicted
SELECT ready, delayed, running, dead, paused,
    coalesce((SELECT total FROM evictions WHERE evictions.queue = name), 0)
FROM queues WHERE name = ?;

-- name: next_urgency
-- queue, urgency -> the head behind all of that urgency: urgency, position, key.
SELECT urgency, position, substr(data, 2, 16) FROM ready
WHERE queue = ? AND urgency > ? ORDER BY urgency, position LIMIT 1;

-- name: queues
-- -> the names of all queues that were ever sent to.
SELECT name FROM queues WHERE was_sent_to ORDER BY name;

-- ------------------------------------------------------------------------------------------------- Tidying

-- name: pause
-- paused (0 or 1), queue
INSERT INTO queues (paused, name) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused;

-- name: last_position
-- -> the last position that was given out.
SELECT last FROM sequence;

-- name: purge_ready
-- :queue, :last, :limit -> deletes that many at most, sent at :last or before.
DELETE FROM ready WHERE (queue, urgency, position) IN (
    SELECT queue, urgency, position FROM ready WHERE queue = :queue AND position <= :last LIMIT :limit
);

-- name: purge_delayed
-- As purge_ready.
DELETE FROM delayed WHERE (queue, due_at, position) IN (
    SELECT queue, due_at, position FROM delayed WHERE queue = :queue AND position <= :last LIMIT :limit
);

-- name: dead
-- :queue, :after (a key, or null; one that is not there is as null), :limit -> a page, oldest first.
SELECT key, data, reason, detail, died_at, history FROM dead
WHERE queue = :queue
    AND serial > coalesce((SELECT serial FROM dead WHERE queue = :queue AND key = :after), 0)
ORDER BY serial LIMIT :limit;

-- name: find_dead
-- queue, key -> as dead, one row or none.
SELECT key, data, reason, detail, died_at, history FROM dead WHERE queue = ? AND key = ?;

-- name: take_dead
-- queue, key -> urgency, data of the letter, which ends.
DELETE FROM dead WHERE queue = ? AND key = ? RETURNING urgency, data;

-- name: dead_ages
-- queue, limit -> key, died_at, serial of the oldest letters, and how many there are in all.
SELECT key, died_at, serial, (SELECT dead FROM queues WHERE name = queue)
FROM dead WHERE queue = ? ORDER BY serial LIMIT ?;

-- name: evict_dead
-- queue, serial -> deletes that letter and all before it.
DELETE FROM dead WHERE queue = ? AND serial <= ?;

-- name: count_evictions
-- queue, count
INSERT INTO evictions (queue, total) VALUES (?, ?)
ON CONFLICT (queue) DO UPDATE SET total = total + excluded.total;

-- name: forget_result
-- key
DELETE FROM results WHERE key = ?;

-- ------------------------------------------------------------------------------------------------- Moving house

-- name: crate
-- queue -> series, number, target and parcels (null: none is open) of its last crate.
SELECT series, number, target, parcels FROM crates WHERE queue = ?;

-- name: put_crate
-- queue, series, number, target, parcels
INSERT OR REPLACE INTO crates (queue, series, number, target, parcels) VALUES (?, ?, ?, ?, ?);

-- name: discard_crate
-- queue, series, number
UPDATE crates SET parcels = NULL WHERE queue = ? AND series = ? AND number = ?;

-- name: note_unpacked
-- series, number -> changes no row where that number, or a greater one, is noted.
INSERT INTO unpacked (series, number) VALUES (?, ?)
ON CONFLICT (series) DO UPDATE SET number = excluded.number WHERE number < excluded.number;

-- name: oldest_dead
-- queue, limit -> serial, urgency, key, reason, detail, died_at, data, history.
SELECT serial, urgency, key, reason, detail, died_at, data, history FROM dead WHERE queue = ? ORDER BY serial LIMIT ?;

-- ---------------------------------------------------------------------------------------------- Broadcasts

-- name: subscribe
-- broadcast, queue, until
INSERT INTO subscriptions (broadcast, queue, until) VALUES (?, ?, ?)
ON CONFLICT (broadcast, queue) DO UPDATE SET until = excluded.until;

-- name: subscribers
-- broadcast, now -> queues, sorted.
SELECT queue FROM subscriptions WHERE broadcast = ? AND until > ? ORDER BY queue;

-- name: lapsed
-- broadcast, moment -> queues whose time was over then.
SELECT queue FROM subscriptions WHERE broadcast = ? AND until <= ?;

-- name: end_lapsed
-- As lapsed; they are no longer known.
DELETE FROM subscriptions WHERE broadcast = ? AND until <= ? RETURNING queue;

-- name: empty_ready
-- queue
DELETE FROM ready WHERE queue = ?;

-- name: empty_delayed
-- queue
DELETE FROM delayed WHERE queue = ?;

-- name: empty_running
-- queue
DELETE FROM running WHERE queue = ?;

-- name: empty_dead
-- queue
DELETE FROM dead WHERE queue = ?;

-- name: empty_leases
-- queue
DELETE FROM leases WHERE queue = ?;

-- name: empty_revoked
-- queue
DELETE FROM revoked WHERE queue = ?;

-- name: empty_evictions
-- queue
DELETE FROM evictions WHERE queue = ?;

-- name: empty_queues
-- queue
DELETE FROM queues WHERE name = ?;
