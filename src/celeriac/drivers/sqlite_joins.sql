-- Joins, for the result store and for settlements. The tables are in sqlite.sql.

-- name: open
-- :key, :size, :queue, :priority, :due_at, :delay, :data, :expires_at -> nothing. Changes nothing where it is open.
INSERT OR IGNORE INTO joins (key, size, queue, priority, due_at, delay, data, expires_at)
VALUES (:key, :size, :queue, :priority, :due_at, :delay, :data, :expires_at);

-- name: set_size
-- :key, :size
UPDATE joins SET size = :size WHERE key = :key;

-- name: grow
-- :key -> the new place; no row where the join is complete, its size is not known, or there is none.
UPDATE joins SET size = size + 1 WHERE key = :key AND came < size RETURNING size - 1;

-- name: arrive
-- :key, :place, :data -> changes no row where that place has come already, or where there is no such join.
INSERT OR IGNORE INTO arrivals (key, place, data) SELECT :key, :place, :data FROM joins WHERE key = :key;

-- name: count
-- :key, :place -> nothing. One more has come; the last one is remembered.
UPDATE joins SET came = came + 1, completed_by = CASE WHEN came + 1 = size THEN :place END WHERE key = :key;

-- name: message
-- :key -> size, came, completed_by, queue, data, priority, due_at, delay; no row where there is no such join.
SELECT size, came, completed_by, queue, data, priority, due_at, delay FROM joins WHERE key = :key;

-- name: gathered
-- :key -> data of every place, in order.
SELECT data FROM arrivals WHERE key = :key ORDER BY place;

-- name: end_arrivals
-- :key
DELETE FROM arrivals WHERE key = :key;

-- name: end
-- :key
DELETE FROM joins WHERE key = :key;

-- name: expired
-- :now, :limit -> key
SELECT key FROM joins WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit;
