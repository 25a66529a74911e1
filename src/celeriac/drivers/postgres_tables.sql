-- The tables of a broker and result store in PostgreSQL. Version 1; every later change is a migration of its own in
-- postgres_schema.py. `celeriac.` stands for the schema, whatever its name.
--
-- A message is in exactly one of ready, delayed, held and dead, and moves between them by DELETE and INSERT in one
-- transaction. Whoever takes messages locks rows and skips those that others have locked: nobody waits for anybody.
--
-- `lane` orders by urgency: 1 - 2 x priority for what waits, one less for what comes back (it was at the head), -20 for
-- the revoked. `position` orders within a lane; fences come from the same sequence. `history`: the casualties, each as
-- JSON; a row with a history or a verdict is a suspect. Texts that may hold a zero byte are kept as their bytes.

CREATE SEQUENCE celeriac.positions;

-- One row for each queue. The counters are what has been folded in; see tallies.
CREATE TABLE celeriac.queues (
    name text PRIMARY KEY,
    is_paused boolean NOT NULL DEFAULT false,
    was_sent_to boolean NOT NULL DEFAULT false,
    ready bigint NOT NULL DEFAULT 0,
    delayed bigint NOT NULL DEFAULT 0,
    running bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    evicted bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- What a statement has moved: a counter that is updated would make all senders wait for the slowest transaction.
-- Housekeeping adds these rows to the queues' counters and deletes them.
CREATE TABLE celeriac.tallies (
    queue text NOT NULL,
    was_sent_to boolean NOT NULL DEFAULT false,
    ready integer NOT NULL DEFAULT 0,
    delayed integer NOT NULL DEFAULT 0,
    running integer NOT NULL DEFAULT 0,
    dead integer NOT NULL DEFAULT 0
);
CREATE INDEX tallies_of_queue ON celeriac.tallies (queue);

CREATE TABLE celeriac.ready (
    queue text NOT NULL,
    lane smallint NOT NULL,
    position bigint NOT NULL,
    data bytea NOT NULL,
    history bytea[],
    verdict bytea
);
CREATE INDEX ready_in_order ON celeriac.ready (queue, lane, position);

-- `lane` is the one that it will be ready in.
CREATE TABLE celeriac.delayed (
    queue text NOT NULL,
    due_at timestamptz NOT NULL,
    position bigint NOT NULL,
    lane smallint NOT NULL,
    data bytea NOT NULL,
    history bytea[],
    verdict bytea
);
CREATE INDEX delayed_in_order ON celeriac.delayed (queue, due_at, position);

-- The holdings of all owners. `is_committed`: the run has begun and must not be repeated.
CREATE TABLE celeriac.held (
    owner text NOT NULL,
    fence bigint NOT NULL,
    queue text NOT NULL,
    lane smallint NOT NULL,
    position bigint NOT NULL,
    data bytea NOT NULL,
    history bytea[],
    verdict bytea,
    is_committed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (owner, fence)
) WITH (fillfactor = 90);

-- One row for each owner, however much it holds.
CREATE TABLE celeriac.leases (
    owner text PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    lasts interval NOT NULL
) WITH (fillfactor = 50);

-- When house was kept last: one row.
CREATE TABLE celeriac.house (kept_at timestamptz NOT NULL) WITH (fillfactor = 10);
INSERT INTO celeriac.house VALUES (clock_timestamp());

CREATE TABLE celeriac.dead (
    serial bigserial PRIMARY KEY,
    queue text NOT NULL,
    key bytea NOT NULL,
    lane smallint NOT NULL,
    data bytea NOT NULL,
    reason bytea NOT NULL,
    detail bytea NOT NULL,
    died_at timestamptz NOT NULL,
    history bytea[],
    UNIQUE (queue, key)
);
CREATE INDEX dead_in_order ON celeriac.dead (queue, serial);

CREATE TABLE celeriac.revoked (
    serial bigserial PRIMARY KEY,
    queue text NOT NULL,
    key bytea NOT NULL,
    until timestamptz NOT NULL,
    terminate boolean NOT NULL,
    signal text NOT NULL,
    UNIQUE (queue, key)
);
CREATE INDEX revoked_in_order ON celeriac.revoked (queue, until);
CREATE INDEX revoked_that_expire ON celeriac.revoked (until);
CREATE TABLE celeriac.bans (data bytea PRIMARY KEY, until timestamptz NOT NULL);

CREATE TABLE celeriac.results (
    key bytea PRIMARY KEY,
    expires_at timestamptz,
    data bytea NOT NULL
);
CREATE INDEX results_that_expire ON celeriac.results (expires_at) WHERE expires_at IS NOT NULL;

-- A message, and how many results it waits for. `completed_by`: the place that came last.
CREATE TABLE celeriac.joins (
    key bytea PRIMARY KEY,
    size integer,
    queue text NOT NULL,
    priority smallint NOT NULL,
    due_at timestamptz,
    delay double precision,
    data bytea NOT NULL,
    came integer NOT NULL DEFAULT 0,
    completed_by integer,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX joins_that_expire ON celeriac.joins (expires_at);
CREATE TABLE celeriac.arrivals (
    key bytea NOT NULL,
    place integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (key, place)
);

-- What is told lives for a minute. It is read by whoever has not seen it; the notification only wakes.
CREATE TABLE celeriac.notices (
    serial bigserial PRIMARY KEY,
    name text NOT NULL,
    data bytea NOT NULL,
    told_at timestamptz NOT NULL
);

-- Not written to the log of the server: after a crash nobody waits, and nothing is in doubt any more.
-- Who waits for messages, and on which channel: a sender tells one of them, and notifies nobody where all are busy.
CREATE UNLOGGED TABLE celeriac.waiters (
    queue text NOT NULL,
    owner text NOT NULL,
    channel text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (queue, owner)
);
-- Who waits for results.
CREATE UNLOGGED TABLE celeriac.watchers (name text PRIMARY KEY, until timestamptz NOT NULL);
-- The marks of sends whose answer may have been lost: the same send again stores nothing.
CREATE UNLOGGED TABLE celeriac.sends (mark bytea PRIMARY KEY, sent_at timestamptz NOT NULL);

-- Message bytes are compressed by whoever sends them, if at all, and read in part: not compressed again. Tables whose
-- rows come and go are vacuumed after so many rows, however long they are.
ALTER TABLE celeriac.ready ALTER data SET STORAGE EXTERNAL;
ALTER TABLE celeriac.delayed ALTER data SET STORAGE EXTERNAL;
ALTER TABLE celeriac.held ALTER data SET STORAGE EXTERNAL;
ALTER TABLE celeriac.ready SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.delayed SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.held SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.tallies SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.sends SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.results SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE celeriac.leases SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
ALTER TABLE celeriac.waiters SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
ALTER TABLE celeriac.house SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
ALTER TABLE celeriac.joins SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE celeriac.arrivals SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
