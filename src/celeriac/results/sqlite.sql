-- The result store's own statements. The table, and how it is written, are in drivers/sqlite.sql.

-- name: get
-- :key, :now -> key, data; no row where there is no such record or it has expired.
SELECT key, data FROM results WHERE key = :key AND (expires_at IS NULL OR expires_at > :now);

-- name: last_serial
-- -> the serial of the latest put; 0 where there has been none.
SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'results';

-- name: keys_since
-- :serial -> serial, key of every record that was put after that one. Does not read the data.
SELECT serial, key FROM results WHERE serial > :serial ORDER BY serial;

-- name: forget
-- :key, :now -> whether the record that is deleted had not expired.
DELETE FROM results WHERE key = :key RETURNING expires_at IS NULL OR expires_at > :now;
