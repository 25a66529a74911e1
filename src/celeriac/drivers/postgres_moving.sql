-- Version 2: messages on their way to another broker, and from another one.

-- One row for each queue that was ever moved: its last crate. `series` is the queue's own, the numbers grow.
CREATE TABLE celeriac.crates (
    queue text PRIMARY KEY,
    series bytea NOT NULL,
    number bigint NOT NULL,
    target text NOT NULL
);

-- The messages of open crates. `lane`: 1 - 2 x priority; `died_at`: it is a dead letter.
CREATE TABLE celeriac.parcels (
    queue text NOT NULL,
    n integer NOT NULL,
    lane smallint NOT NULL,
    due_at timestamptz,
    data bytea NOT NULL,
    history bytea[],
    verdict bytea,
    died_at timestamptz,
    key bytea,
    reason bytea,
    detail bytea,
    PRIMARY KEY (queue, n)
);
ALTER TABLE celeriac.parcels ALTER data SET STORAGE EXTERNAL;

-- The number of the last crate of each series that was unpacked here.
CREATE TABLE celeriac.unpacked (series bytea PRIMARY KEY, number bigint NOT NULL);

-- Take messages out of a queue into its crate, of those that are ready, or delayed, or dead: a_limit, and the first with
-- which they have a_bytes, at most. Where a crate is open, it is that one.
CREATE FUNCTION celeriac.pack(a_queue text, a_target text, a_series bytea, a_limit integer, a_bytes bigint)
RETURNS TABLE (
    target text, series bytea, number bigint, lane integer, due float8, data bytea, history bytea[], verdict bytea,
    died float8, key bytea, reason bytea, detail bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(celeriac.lock_of('crate', a_queue));
    IF NOT EXISTS (SELECT 1 FROM celeriac.parcels p WHERE p.queue = a_queue) THEN
        PERFORM celeriac.pack_ready(a_queue, a_limit, a_bytes);
        IF NOT EXISTS (SELECT 1 FROM celeriac.parcels p WHERE p.queue = a_queue) THEN
            PERFORM celeriac.pack_delayed(a_queue, a_limit, a_bytes);
        END IF;
        IF NOT EXISTS (SELECT 1 FROM celeriac.parcels p WHERE p.queue = a_queue) THEN
            PERFORM celeriac.pack_dead(a_queue, a_limit, a_bytes);
        END IF;
        IF NOT EXISTS (SELECT 1 FROM celeriac.parcels p WHERE p.queue = a_queue) THEN
            RETURN;
        END IF;
        INSERT INTO celeriac.crates AS c (queue, series, number, target) VALUES (a_queue, a_series, 1, a_target)
        ON CONFLICT ON CONSTRAINT crates_pkey DO UPDATE SET number = c.number + 1, target = excluded.target;
    END IF;
    RETURN QUERY SELECT c.target, c.series, c.number, p.lane::integer, extract(epoch FROM p.due_at)::float8, p.data,
        coalesce(p.history, '{}'), p.verdict, extract(epoch FROM p.died_at)::float8, p.key, p.reason, p.detail
    FROM celeriac.parcels p JOIN celeriac.crates c ON c.queue = p.queue WHERE p.queue = a_queue ORDER BY p.n;
END $$;

CREATE FUNCTION celeriac.pack_ready(a_queue text, a_limit integer, a_bytes bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT r.ctid AS place, r.lane, r.position, length(r.data) AS size FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), cut AS (
        SELECT h.place, sum(h.size) OVER (ORDER BY h.lane, h.position) - h.size < a_bytes AS fits FROM head h
    ), gone AS (
        DELETE FROM celeriac.ready r WHERE r.ctid = ANY (ARRAY(SELECT place FROM cut WHERE fits)) RETURNING r.*
    ), kept AS (
        INSERT INTO celeriac.parcels (queue, n, lane, data, history, verdict)
        SELECT g.queue, row_number() OVER (ORDER BY g.lane, g.position), g.lane, g.data, g.history, g.verdict
        FROM gone g RETURNING 1
    ) SELECT count(*) INTO v_count FROM kept;
    INSERT INTO celeriac.tallies (queue, ready) SELECT a_queue, -v_count WHERE v_count > 0;
END $$;

CREATE FUNCTION celeriac.pack_delayed(a_queue text, a_limit integer, a_bytes bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT d.ctid AS place, d.due_at, d.position, length(d.data) AS size FROM celeriac.delayed d
        WHERE d.queue = a_queue ORDER BY d.due_at, d.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), cut AS (
        SELECT h.place, sum(h.size) OVER (ORDER BY h.due_at, h.position) - h.size < a_bytes AS fits FROM head h
    ), gone AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(SELECT place FROM cut WHERE fits)) RETURNING d.*
    ), kept AS (
        INSERT INTO celeriac.parcels (queue, n, lane, due_at, data, history, verdict)
        SELECT g.queue, row_number() OVER (ORDER BY g.due_at, g.position), g.lane, g.due_at, g.data, g.history, g.verdict
        FROM gone g RETURNING 1
    ) SELECT count(*) INTO v_count FROM kept;
    INSERT INTO celeriac.tallies (queue, delayed) SELECT a_queue, -v_count WHERE v_count > 0;
END $$;

CREATE FUNCTION celeriac.pack_dead(a_queue text, a_limit integer, a_bytes bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT d.serial, length(d.data) AS size FROM celeriac.dead d
        WHERE d.queue = a_queue ORDER BY d.serial LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), cut AS (
        SELECT h.serial, sum(h.size) OVER (ORDER BY h.serial) - h.size < a_bytes AS fits FROM head h
    ), gone AS (
        DELETE FROM celeriac.dead d WHERE d.serial = ANY (ARRAY(SELECT serial FROM cut WHERE fits)) RETURNING d.*
    ), kept AS (
        INSERT INTO celeriac.parcels (queue, n, lane, data, history, died_at, key, reason, detail)
        SELECT g.queue, row_number() OVER (ORDER BY g.serial), g.lane, g.data, g.history, g.died_at, g.key, g.reason, g.detail
        FROM gone g RETURNING 1
    ) SELECT count(*) INTO v_count FROM kept;
    INSERT INTO celeriac.tallies (queue, dead) SELECT a_queue, -v_count WHERE v_count > 0;
END $$;

-- Store the messages of another place's crate, unless that has been done. Casualties come as h_datas, each with the place
-- of its message in h_of.
CREATE FUNCTION celeriac.unpack(
    a_queue text, a_series bytea, a_number bigint, a_lanes integer[], a_dues float8[], a_datas bytea[], a_verdicts bytea[],
    a_dieds float8[], a_keys bytea[], a_reasons bytea[], a_details bytea[], h_of integer[], h_datas bytea[]
) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_row record;
    v_key bytea;
    v_ready integer := 0;
    v_delayed integer := 0;
    v_dead integer := 0;
BEGIN
    INSERT INTO celeriac.unpacked AS u (series, number) VALUES (a_series, a_number)
    ON CONFLICT (series) DO UPDATE SET number = excluded.number WHERE u.number < excluded.number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR v_row IN
        SELECT p.*, to_timestamp(p.due) AS due_at, to_timestamp(p.died) AS died_at,
            (SELECT array_agg(h.data ORDER BY h.k) FROM unnest(h_of, h_datas) WITH ORDINALITY AS h (of, data, k)
             WHERE h.of = p.n) AS history
        FROM unnest(a_lanes, a_dues, a_datas, a_verdicts, a_dieds, a_keys, a_reasons, a_details)
            WITH ORDINALITY AS p (lane, due, data, verdict, died, key, reason, detail, n) ORDER BY p.n
    LOOP
        IF v_row.died IS NOT NULL THEN
            v_key := v_row.key;
            LOOP
                INSERT INTO celeriac.dead (queue, key, lane, data, reason, detail, died_at, history) VALUES (
                    a_queue, v_key, v_row.lane, v_row.data, v_row.reason, v_row.detail, v_row.died_at, v_row.history
                ) ON CONFLICT DO NOTHING;
                EXIT WHEN FOUND;
                v_key := decode(md5(random()::text || clock_timestamp()::text), 'hex');
            END LOOP;
            v_dead := v_dead + 1;
        ELSIF v_row.due_at > clock_timestamp() THEN
            INSERT INTO celeriac.delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
                a_queue, v_row.due_at, nextval('celeriac.positions'), v_row.lane, v_row.data, v_row.history, v_row.verdict
            );
            v_delayed := v_delayed + 1;
        ELSE
            INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict) VALUES (
                a_queue, CASE WHEN substring(v_row.verdict FROM 1 FOR 7) = 'revoked'::bytea THEN -20 ELSE v_row.lane END,
                nextval('celeriac.positions'), v_row.data, v_row.history, v_row.verdict
            );
            v_ready := v_ready + 1;
        END IF;
    END LOOP;
    INSERT INTO celeriac.tallies (queue, was_sent_to, ready, delayed, dead)
    VALUES (a_queue, true, v_ready, v_delayed, v_dead);
    PERFORM celeriac.wake(a_queue, v_ready + v_delayed);
    RETURN true;
END $$;

-- The crate is stored elsewhere.
CREATE FUNCTION celeriac.discard(a_queue text, a_series bytea, a_number bigint) RETURNS void LANGUAGE sql AS $$
    DELETE FROM celeriac.parcels WHERE queue = a_queue AND EXISTS (
        SELECT 1 FROM celeriac.crates WHERE queue = a_queue AND series = a_series AND number = a_number
    )
$$;
