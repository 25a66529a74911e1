-- What is in the file. Every change to these tables raises `SCHEMA_VERSION` in sqlite.py and says how to get there.
--
-- A message is in exactly one of ready, delayed, running and dead, and moves between them by DELETE and INSERT in
-- one transaction. So each table is as large as what it is for: taking and settling touch a few pages, however long
-- the queue is. `position` comes from `sequence` and orders messages over all queues; fences come from it too.
-- `urgency` is the negative priority, so that one ascending key gives the order of taking.
-- `history` holds the casualties as MessagePack; a row with a history or a verdict is a suspect.

-- name: schema
-- Run as one script by whoever opens the file first, or first since it had an earlier version: those lack tables, and the
-- tables that they have are the same. Harmless when two do so at once.
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sequence (last INTEGER NOT NULL);
INSERT INTO sequence SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM sequence);
-- The four counters are kept by every transaction that moves messages: `stats` never counts rows.
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY,
    was_sent_to INTEGER NOT NULL DEFAULT 0,
    paused INTEGER NOT NULL DEFAULT 0,
    housekept_at REAL,
    ready INTEGER NOT NULL DEFAULT 0,
    delayed INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ready (
    queue TEXT NOT NULL,
    urgency INTEGER NOT NULL,
    position INTEGER NOT NULL,
    data BLOB NOT NULL,
    history BLOB,
    verdict TEXT,
    PRIMARY KEY (queue, urgency, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delayed (
    queue TEXT NOT NULL,
    due_at REAL NOT NULL,
    position INTEGER NOT NULL,
    urgency INTEGER NOT NULL,
    data BLOB NOT NULL,
    history BLOB,
    verdict TEXT,
    PRIMARY KEY (queue, due_at, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS running (
    queue TEXT NOT NULL,
    fence INTEGER NOT NULL,
    owner TEXT NOT NULL,
    urgency INTEGER NOT NULL,
    position INTEGER NOT NULL,
    data BLOB NOT NULL,
    history BLOB,
    verdict TEXT,
    -- Its run has begun and must not be repeated.
    is_committed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, fence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    queue TEXT NOT NULL,
    owner TEXT NOT NULL,
    expires_at REAL NOT NULL,
    lasts REAL NOT NULL,
    PRIMARY KEY (queue, owner)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    serial INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    key BLOB NOT NULL,
    urgency INTEGER NOT NULL,
    data BLOB NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    died_at REAL NOT NULL,
    history BLOB,
    UNIQUE (queue, key)
);
CREATE INDEX IF NOT EXISTS dead_in_order ON dead (queue, serial);
-- How many dead letters were deleted for their age or their number, ever.
CREATE TABLE IF NOT EXISTS evictions (queue TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
-- AUTOINCREMENT: a serial is never used twice, so a watch that has seen serial n misses nothing after it.
CREATE TABLE IF NOT EXISTS results (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    expires_at REAL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS results_that_expire ON results (expires_at) WHERE expires_at IS NOT NULL;
-- A join: a message, and how many results it waits for. `completed_by` is the place that came last.
CREATE TABLE IF NOT EXISTS joins (
    key BLOB PRIMARY KEY,
    size INTEGER,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at REAL,
    delay REAL,
    data BLOB NOT NULL,
    came INTEGER NOT NULL DEFAULT 0,
    completed_by INTEGER,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS joins_that_expire ON joins (expires_at);
CREATE TABLE IF NOT EXISTS arrivals (
    key BLOB NOT NULL,
    place INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (key, place)
) WITHOUT ROWID;
-- Version 3: what is revoked and was not found waiting, what is revoked without being known by its key, and what is told to
-- those who listen.
CREATE TABLE IF NOT EXISTS revoked (
    serial INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    key BLOB NOT NULL,
    until REAL NOT NULL,
    terminate INTEGER NOT NULL,
    signal TEXT NOT NULL,
    UNIQUE (queue, key)
);
CREATE INDEX IF NOT EXISTS revoked_in_order ON revoked (queue, until);
CREATE TABLE IF NOT EXISTS bans (data BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    data BLOB NOT NULL,
    told_at REAL NOT NULL
);
-- Version 4: what is on its way to another broker. `parcels`: the messages of the open crate as MessagePack; null: none is
-- open. Both tables keep a row for ever for each queue that was moved.
CREATE TABLE IF NOT EXISTS crates (
    queue TEXT PRIMARY KEY,
    series BLOB NOT NULL,
    number INTEGER NOT NULL,
    target TEXT NOT NULL,
    parcels BLOB
);
CREATE TABLE IF NOT EXISTS unpacked (series BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
-- Version 5: which queues have copies of what is sent to a broadcast.
CREATE TABLE IF NOT EXISTS subscriptions (
    broadcast TEXT NOT NULL,
    queue TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (broadcast, queue)
) WITHOUT ROWID;
PRAGMA application_id = 1128614977;
PRAGMA user_version = 5;
COMMIT;

-- name: put_result
-- :key, :data, :expires_at (epoch seconds or null) -> nothing. Replaces an earlier record under a new serial.
-- Used by the result store, and by the broker inside the transaction of a settlement.
INSERT OR REPLACE INTO results (key, data, expires_at) VALUES (:key, :data, :expires_at);

-- name: sweep_results
-- :now, :limit -> nothing. Deletes what has expired, the oldest first, at most :limit rows.
DELETE FROM results WHERE serial IN (
    SELECT serial FROM results WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit
);
