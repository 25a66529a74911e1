-- Version 4: messages that need not survive a crash of the server.
--
-- Each of the places has a child of the same columns that is not written to the server's log. What names the parent sees
-- both; where rows are looked up by their ctid, so is the table. A transaction that moves nothing but transient messages
-- waits for no disk, but where it takes new numbers from the sequence, which logs every 32nd. After a crash the server
-- empties these tables, the tallies among them: what is counted there is there.
--
-- Dead letters, the messages of joins, and crates are in the log, of whatever kind they were.

CREATE UNLOGGED TABLE celeriac.transient_ready () INHERITS (celeriac.ready);
CREATE INDEX transient_ready_in_order ON celeriac.transient_ready (queue, lane, position);
CREATE UNLOGGED TABLE celeriac.transient_delayed () INHERITS (celeriac.delayed);
CREATE INDEX transient_delayed_in_order ON celeriac.transient_delayed (queue, due_at, position);
-- A row that is held goes from function to function, without its table.
ALTER TABLE celeriac.held ADD COLUMN is_transient boolean NOT NULL DEFAULT false;
CREATE UNLOGGED TABLE celeriac.transient_held (PRIMARY KEY (owner, fence)) INHERITS (celeriac.held)
WITH (fillfactor = 90);
ALTER TABLE celeriac.transient_held ALTER is_transient SET DEFAULT true;
CREATE UNLOGGED TABLE celeriac.transient_tallies () INHERITS (celeriac.tallies);
CREATE INDEX transient_tallies_of_queue ON celeriac.transient_tallies (queue);
ALTER TABLE celeriac.transient_ready SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.transient_delayed SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.transient_held SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE celeriac.transient_tallies SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);

-- ------------------------------------------------------------------------------------------------- Storing

-- Store messages, as `store` does, in the transient tables.
CREATE FUNCTION celeriac.store_transient(
    a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[], a_within boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_row record;
BEGIN
    INSERT INTO celeriac.transient_ready (queue, lane, position, data)
    SELECT s.queue, 1 - 2 * s.priority, nextval('celeriac.positions'), s.data
    FROM (
        SELECT u.queue, u.priority, u.data
        FROM unnest(a_queues, a_priorities, a_delays, a_datas) WITH ORDINALITY AS u (queue, priority, delay, data, n)
        WHERE u.delay IS NULL OR u.delay <= 0 ORDER BY u.n
    ) s;
    IF array_remove(a_delays, NULL) <> '{}' THEN
        INSERT INTO celeriac.transient_delayed (queue, due_at, position, lane, data)
        SELECT s.queue, celeriac.after(s.delay),
            nextval('celeriac.positions'), 1 - 2 * s.priority, s.data
        FROM (
            SELECT u.queue, u.priority, u.delay, u.data
            FROM unnest(a_queues, a_priorities, a_delays, a_datas) WITH ORDINALITY AS u (queue, priority, delay, data, n)
            WHERE u.delay > 0 ORDER BY u.n
        ) s;
    END IF;
    FOR v_row IN
        INSERT INTO celeriac.transient_tallies (queue, was_sent_to, ready, delayed)
        SELECT u.queue, true, count(*) FILTER (WHERE u.delay IS NULL OR u.delay <= 0), count(*) FILTER (WHERE u.delay > 0)
        FROM unnest(a_queues, a_delays) AS u (queue, delay) GROUP BY u.queue ORDER BY u.queue
        RETURNING queue, ready + delayed AS count
    LOOP
        IF a_within THEN
            PERFORM pg_notify(celeriac.channel('queue ' || v_row.queue), '');
        ELSE
            PERFORM celeriac.wake(v_row.queue, v_row.count);
        END IF;
    END LOOP;
END $$;

-- Store messages; a_delays in seconds from now, null: ready. a_within: in somebody's own transaction, which may last:
-- nobody's row is locked, and all who wait are told when it commits. a_transients: which are; null: none.
DROP FUNCTION celeriac.store(text[], integer[], float8[], bytea[], boolean);
CREATE FUNCTION celeriac.store(
    a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[], a_within boolean,
    a_transients boolean[] DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_row record;
BEGIN
    IF a_transients IS NOT NULL THEN
        PERFORM celeriac.store_transient(
            array_agg(u.queue ORDER BY u.n), array_agg(u.priority ORDER BY u.n), array_agg(u.delay ORDER BY u.n),
            array_agg(u.data ORDER BY u.n), a_within
        ) FROM unnest(a_queues, a_priorities, a_delays, a_datas, a_transients)
            WITH ORDINALITY AS u (queue, priority, delay, data, transient, n)
        WHERE u.transient HAVING count(*) > 0;
        SELECT array_agg(u.queue ORDER BY u.n), array_agg(u.priority ORDER BY u.n), array_agg(u.delay ORDER BY u.n),
            array_agg(u.data ORDER BY u.n)
        INTO a_queues, a_priorities, a_delays, a_datas
        FROM unnest(a_queues, a_priorities, a_delays, a_datas, a_transients)
            WITH ORDINALITY AS u (queue, priority, delay, data, transient, n)
        WHERE NOT u.transient;
        IF a_queues IS NULL THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO celeriac.ready (queue, lane, position, data)
    SELECT s.queue, 1 - 2 * s.priority, nextval('celeriac.positions'), s.data
    FROM (
        SELECT u.queue, u.priority, u.data
        FROM unnest(a_queues, a_priorities, a_delays, a_datas) WITH ORDINALITY AS u (queue, priority, delay, data, n)
        WHERE u.delay IS NULL OR u.delay <= 0 ORDER BY u.n
    ) s;
    IF array_remove(a_delays, NULL) <> '{}' THEN
        INSERT INTO celeriac.delayed (queue, due_at, position, lane, data)
        SELECT s.queue, celeriac.after(s.delay),
            nextval('celeriac.positions'), 1 - 2 * s.priority, s.data
        FROM (
            SELECT u.queue, u.priority, u.delay, u.data
            FROM unnest(a_queues, a_priorities, a_delays, a_datas) WITH ORDINALITY AS u (queue, priority, delay, data, n)
            WHERE u.delay > 0 ORDER BY u.n
        ) s;
    END IF;
    FOR v_row IN
        INSERT INTO celeriac.tallies (queue, was_sent_to, ready, delayed)
        SELECT u.queue, true, count(*) FILTER (WHERE u.delay IS NULL OR u.delay <= 0), count(*) FILTER (WHERE u.delay > 0)
        FROM unnest(a_queues, a_delays) AS u (queue, delay) GROUP BY u.queue ORDER BY u.queue
        RETURNING queue, ready + delayed AS count
    LOOP
        IF a_within THEN
            PERFORM pg_notify(celeriac.channel('queue ' || v_row.queue), '');
        ELSE
            PERFORM celeriac.wake(v_row.queue, v_row.count);
        END IF;
    END LOOP;
END $$;

-- Store messages, unless a call with this mark has done so.
DROP FUNCTION celeriac.send(bytea, text[], integer[], float8[], bytea[]);
CREATE FUNCTION celeriac.send(
    a_mark bytea, a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[], a_transients boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO celeriac.sends (mark, sent_at) VALUES (a_mark, clock_timestamp()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM celeriac.store(a_queues, a_priorities, a_delays, a_datas, false, a_transients);
        IF random() < 0.004 THEN
            PERFORM celeriac.fold(5000);
        END IF;
    END IF;
END $$;

-- The same, unless more than a_most messages would wait in one of the queues a_limited. Those who send there do so one
-- after another. Returns a queue that is full; null: none is, and all is stored.
DROP FUNCTION celeriac.send_limited(bytea, text[], integer[], float8[], bytea[], text[], bigint[]);
CREATE FUNCTION celeriac.send_limited(
    a_mark bytea, a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[], a_transients boolean[],
    a_limited text[], a_most bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_row record;
    v_waiting bigint;
BEGIN
    FOR v_row IN
        SELECT l.queue, l.most, count(*) AS count FROM unnest(a_limited, a_most) AS l (queue, most)
        JOIN unnest(a_queues) AS u (queue) ON u.queue = l.queue GROUP BY l.queue, l.most ORDER BY l.queue
    LOOP
        PERFORM pg_advisory_xact_lock(celeriac.lock_of('room', v_row.queue));
        SELECT s.ready + s.delayed INTO v_waiting FROM celeriac.stats(v_row.queue) s;
        IF v_waiting + v_row.count > v_row.most AND NOT EXISTS (SELECT 1 FROM celeriac.sends WHERE mark = a_mark) THEN
            RETURN v_row.queue;
        END IF;
    END LOOP;
    PERFORM celeriac.send(a_mark, a_queues, a_priorities, a_delays, a_datas, a_transients);
    RETURN NULL;
END $$;

-- Ready again, in its old place.
CREATE OR REPLACE FUNCTION celeriac.put_back(a_held celeriac.held, a_verdict bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF a_held.is_transient THEN
        INSERT INTO celeriac.transient_ready (queue, lane, position, data, history, verdict) VALUES (
            a_held.queue, a_held.lane - (a_held.lane & 1), a_held.position, a_held.data, a_held.history, a_verdict
        );
        INSERT INTO celeriac.transient_tallies (queue, running, ready) VALUES (a_held.queue, -1, 1);
    ELSE
        INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict) VALUES (
            a_held.queue, a_held.lane - (a_held.lane & 1), a_held.position, a_held.data, a_held.history, a_verdict
        );
        INSERT INTO celeriac.tallies (queue, running, ready) VALUES (a_held.queue, -1, 1);
    END IF;
    PERFORM celeriac.wake(a_held.queue, 1);
END $$;

-- It waits, with all that is known of it.
CREATE OR REPLACE FUNCTION celeriac.put_off(a_held celeriac.held, a_delay float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF a_held.is_transient THEN
        INSERT INTO celeriac.transient_delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
            a_held.queue, celeriac.after(a_delay), nextval('celeriac.positions'),
            a_held.lane, a_held.data, a_held.history, celeriac.verdict_of(a_held)
        );
        INSERT INTO celeriac.transient_tallies (queue, running, delayed) VALUES (a_held.queue, -1, 1);
    ELSE
        INSERT INTO celeriac.delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
            a_held.queue, celeriac.after(a_delay), nextval('celeriac.positions'),
            a_held.lane, a_held.data, a_held.history, celeriac.verdict_of(a_held)
        );
        INSERT INTO celeriac.tallies (queue, running, delayed) VALUES (a_held.queue, -1, 1);
    END IF;
    PERFORM celeriac.wake(a_held.queue, 1);
END $$;

-- Garbage messages, and copies of one message, may share a key: the later one gets one of its own.
CREATE OR REPLACE FUNCTION celeriac.bury(a_held celeriac.held, a_reason bytea, a_detail bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_key bytea := substring(a_held.data FROM 2 FOR 16);
BEGIN
    LOOP
        INSERT INTO celeriac.dead (queue, key, lane, data, reason, detail, died_at, history)
        VALUES (
            a_held.queue, v_key, a_held.lane, a_held.data, a_reason, a_detail, clock_timestamp(), a_held.history
        ) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        v_key := decode(md5(random()::text || clock_timestamp()::text), 'hex');
    END LOOP;
    IF a_held.is_transient THEN
        INSERT INTO celeriac.transient_tallies (queue, running) VALUES (a_held.queue, -1);
        INSERT INTO celeriac.tallies (queue, dead) VALUES (a_held.queue, 1);
    ELSE
        INSERT INTO celeriac.tallies (queue, running, dead) VALUES (a_held.queue, -1, 1);
    END IF;
END $$;

-- Add tallies to the counters of their queues. Those of transient messages become one for each queue and stay where they
-- are: only that the queue was sent to is noted for good. Returns how many there were of the others.
CREATE OR REPLACE FUNCTION celeriac.fold(a_limit integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(celeriac.lock_of('fold', '')) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM ONLY celeriac.tallies
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY celeriac.tallies LIMIT a_limit)) RETURNING *
    ), added AS (
        INSERT INTO celeriac.queues AS q (name, was_sent_to, ready, delayed, running, dead)
        SELECT g.queue, bool_or(g.was_sent_to), sum(g.ready), sum(g.delayed), sum(g.running), sum(g.dead)
        FROM gone g GROUP BY g.queue ORDER BY g.queue
        ON CONFLICT (name) DO UPDATE SET
            was_sent_to = q.was_sent_to OR excluded.was_sent_to, ready = q.ready + excluded.ready,
            delayed = q.delayed + excluded.delayed, running = q.running + excluded.running,
            dead = q.dead + excluded.dead
    ) SELECT count(*) INTO v_count FROM gone;
    IF EXISTS (SELECT 1 FROM celeriac.transient_tallies OFFSET 1) THEN
        WITH gone AS (
            DELETE FROM celeriac.transient_tallies WHERE queue IN (
                SELECT t.queue FROM (SELECT queue FROM celeriac.transient_tallies LIMIT a_limit) t
                GROUP BY t.queue HAVING count(*) > 1
            ) RETURNING *
        ), noted AS (
            INSERT INTO celeriac.queues AS q (name, was_sent_to)
            SELECT DISTINCT g.queue, true FROM gone g WHERE g.was_sent_to AND NOT EXISTS (
                SELECT 1 FROM celeriac.queues o WHERE o.name = g.queue AND o.was_sent_to
            ) ORDER BY g.queue
            ON CONFLICT (name) DO UPDATE SET was_sent_to = true
        )
        INSERT INTO celeriac.transient_tallies (queue, ready, delayed, running)
        SELECT g.queue, sum(g.ready), sum(g.delayed), sum(g.running) FROM gone g GROUP BY g.queue
        HAVING (sum(g.ready), sum(g.delayed), sum(g.running)) <> (0, 0, 0);
    END IF;
    RETURN v_count;
END $$;

-- ------------------------------------------------------------------------------------------------- Taking

-- What is due becomes ready: of a million that fall due together, some hundred at a time.
CREATE OR REPLACE FUNCTION celeriac.promote(a_queue text) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
    v_transients bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM celeriac.delayed d WHERE d.queue = a_queue AND d.due_at <= clock_timestamp()) THEN
        RETURN;
    END IF;
    WITH head AS MATERIALIZED (
        SELECT o.tableoid AS kind, o.ctid AS place FROM celeriac.delayed o
        WHERE o.queue = a_queue AND o.due_at <= clock_timestamp()
        ORDER BY o.due_at, o.position LIMIT 500 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM celeriac.delayed d
        WHERE d.ctid = ANY (ARRAY(SELECT place FROM head)) AND (d.tableoid, d.ctid) IN (SELECT kind, place FROM head)
        RETURNING d.*, d.tableoid = 'celeriac.transient_delayed'::regclass AS is_transient
    ), numbered AS MATERIALIZED (
        SELECT g.*, nextval('celeriac.positions') AS place FROM (SELECT * FROM gone ORDER BY due_at, position) g
    ), moved AS (
        INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict)
        SELECT n.queue, n.lane, n.place, n.data, n.history, n.verdict FROM numbered n WHERE NOT n.is_transient
        RETURNING 1
    ), moved_transients AS (
        INSERT INTO celeriac.transient_ready (queue, lane, position, data, history, verdict)
        SELECT n.queue, n.lane, n.place, n.data, n.history, n.verdict FROM numbered n WHERE n.is_transient
        RETURNING 1
    ) SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM moved_transients) INTO v_count, v_transients;
    INSERT INTO celeriac.tallies (queue, ready, delayed) SELECT a_queue, v_count, -v_count WHERE v_count > 0;
    INSERT INTO celeriac.transient_tallies (queue, ready, delayed)
    SELECT a_queue, v_transients, -v_transients WHERE v_transients > 0;
END $$;

-- Judge those at the head of the queue that are remembered as revoked.
CREATE OR REPLACE FUNCTION celeriac.catch_revoked(a_queue text, a_limit integer) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH head AS MATERIALIZED (
        SELECT r.tableoid AS kind, r.ctid AS place, substring(r.data FROM 2 FOR 16) AS key, r.verdict
        FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), judged AS MATERIALIZED (
        SELECT h.kind, h.place, h.key FROM head h WHERE h.verdict IS NULL AND EXISTS (
            SELECT 1 FROM celeriac.revoked v
            WHERE v.queue = a_queue AND v.key = h.key AND v.until > clock_timestamp()
        )
    ), forgotten AS (
        DELETE FROM celeriac.revoked v USING judged j WHERE v.queue = a_queue AND v.key = j.key
    )
    UPDATE celeriac.ready r SET lane = -20, verdict = 'revoked'::bytea
    WHERE r.ctid = ANY (ARRAY(SELECT place FROM judged)) AND (r.tableoid, r.ctid) IN (SELECT kind, place FROM judged);
END $$;

-- Move the head of a queue into the owner's holding; a suspect alone. Nothing: null fences.
CREATE OR REPLACE FUNCTION celeriac.pick(
    a_owner text, a_queue text, a_limit integer,
    OUT fences bigint[], OUT datas bytea[], OUT crashes integer, OUT verdict bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_places tid[];
    v_transients boolean[];
    v_suspects boolean[];
    v_first integer;
BEGIN
    SELECT array_agg(h.place), array_agg(h.is_transient), array_agg(h.is_suspect)
    INTO v_places, v_transients, v_suspects FROM (
        SELECT r.ctid AS place, r.tableoid = 'celeriac.transient_ready'::regclass AS is_transient,
            r.history IS NOT NULL OR r.verdict IS NOT NULL AS is_suspect FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ) h;
    IF v_places IS NULL THEN
        RETURN;
    END IF;
    v_first := array_position(v_suspects, true);
    IF v_first IS NOT NULL THEN
        v_places := v_places[1:greatest(v_first - 1, 1)];
    END IF;
    IF true = ANY (v_transients) THEN
        SELECT m.* INTO fences, datas, crashes, verdict
        FROM celeriac.pick_mixed(a_owner, a_queue, v_places, v_transients[1:cardinality(v_places)]) m;
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM ONLY celeriac.ready r WHERE r.ctid = ANY (v_places) RETURNING r.*
    ), kept AS (
        INSERT INTO celeriac.held (owner, fence, queue, lane, position, data, history, verdict)
        SELECT a_owner, nextval('celeriac.positions'), a_queue, g.lane, g.position, g.data, g.history, g.verdict
        FROM (SELECT * FROM gone ORDER BY lane, position) g
        RETURNING held.fence, held.data, held.history, held.verdict
    )
    SELECT array_agg(k.fence ORDER BY k.fence), array_agg(k.data ORDER BY k.fence),
        coalesce(max(cardinality(k.history)), 0), decode(max(encode(k.verdict, 'hex')), 'hex')
    INTO fences, datas, crashes, verdict FROM kept k;
    INSERT INTO celeriac.tallies (queue, ready, running)
    VALUES (a_queue, -cardinality(fences), cardinality(fences));
END $$;

-- The same for these places, some of which are of transient messages.
CREATE FUNCTION celeriac.pick_mixed(
    a_owner text, a_queue text, a_places tid[], a_transients boolean[],
    OUT fences bigint[], OUT datas bytea[], OUT crashes integer, OUT verdict bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
    v_transients bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT u.place, u.is_transient FROM unnest(a_places, a_transients) AS u (place, is_transient)
    ), gone AS (
        DELETE FROM ONLY celeriac.ready r WHERE r.ctid = ANY (ARRAY(SELECT place FROM head WHERE NOT is_transient))
        RETURNING r.*
    ), gone_transients AS (
        DELETE FROM celeriac.transient_ready r WHERE r.ctid = ANY (ARRAY(SELECT place FROM head WHERE is_transient))
        RETURNING r.*
    ), numbered AS MATERIALIZED (
        SELECT g.*, nextval('celeriac.positions') AS fence FROM (
            SELECT o.*, false AS is_transient FROM gone o UNION ALL SELECT o.*, true FROM gone_transients o
            ORDER BY lane, position
        ) g
    ), kept AS (
        INSERT INTO celeriac.held (owner, fence, queue, lane, position, data, history, verdict)
        SELECT a_owner, n.fence, a_queue, n.lane, n.position, n.data, n.history, n.verdict
        FROM numbered n WHERE NOT n.is_transient
    ), kept_transients AS (
        INSERT INTO celeriac.transient_held (owner, fence, queue, lane, position, data, history, verdict)
        SELECT a_owner, n.fence, a_queue, n.lane, n.position, n.data, n.history, n.verdict
        FROM numbered n WHERE n.is_transient
    )
    SELECT array_agg(n.fence ORDER BY n.fence), array_agg(n.data ORDER BY n.fence),
        coalesce(max(cardinality(n.history)), 0), decode(max(encode(n.verdict, 'hex')), 'hex'),
        count(*) FILTER (WHERE NOT n.is_transient), count(*) FILTER (WHERE n.is_transient)
    INTO fences, datas, crashes, verdict, v_count, v_transients FROM numbered n;
    INSERT INTO celeriac.tallies (queue, ready, running) SELECT a_queue, -v_count, v_count WHERE v_count > 0;
    INSERT INTO celeriac.transient_tallies (queue, ready, running)
    SELECT a_queue, -v_transients, v_transients WHERE v_transients > 0;
END $$;

-- ------------------------------------------------------------------------------------------------- Settling

-- End deliveries of one owner. By action: a_done (acknowledged, or replaced by a message among the sends), a_back,
-- a_off with new bytes and delays, a_bad with reasons and details. What goes with them (`_of`: the fence) takes
-- effect only where the delivery was the owner's. Returns the fences that were.
DROP FUNCTION celeriac.settle(
    text, bigint[], bigint[], bigint[], bytea[], float8[], bigint[], bytea[], bytea[], bigint[], bytea[],
    bytea[], float8[], bigint[], text[], integer[], float8[], bytea[], bigint[], bytea[], integer[], bytea[],
    bigint[], bytea[], bigint[], bytea[], integer[], text[], integer[], float8[], float8[], bytea[], float8
);
CREATE FUNCTION celeriac.settle(
    a_owner text, a_done bigint[], a_back bigint[],
    a_off bigint[], a_off_datas bytea[], a_off_delays float8[],
    a_bad bigint[], a_reasons bytea[], a_details bytea[],
    r_of bigint[], r_keys bytea[], r_datas bytea[], r_ttls float8[],
    s_of bigint[], s_queues text[], s_priorities integer[], s_delays float8[], s_datas bytea[], s_transients boolean[],
    j_of bigint[], j_keys bytea[], j_places integer[], j_datas bytea[],
    e_of bigint[], e_keys bytea[],
    o_of bigint[], o_keys bytea[], o_sizes integer[], o_queues text[], o_priorities integer[], o_dues float8[],
    o_delays float8[], o_datas bytea[], o_ttl float8
) RETURNS bigint[] LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ours bigint[];
    v_held celeriac.held;
    v_at integer;
    v_due record;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.held h WHERE h.owner = a_owner AND h.fence = ANY (a_done)
        RETURNING h.fence, h.queue, h.is_transient
    ), tallied AS (
        INSERT INTO celeriac.tallies (queue, running)
        SELECT g.queue, -count(*) FROM gone g WHERE NOT g.is_transient GROUP BY g.queue
    ), tallied_transients AS (
        INSERT INTO celeriac.transient_tallies (queue, running)
        SELECT g.queue, -count(*) FROM gone g WHERE g.is_transient GROUP BY g.queue
    ) SELECT coalesce(array_agg(g.fence), '{}') INTO v_ours FROM gone g;
    IF cardinality(a_back) + cardinality(a_off) + cardinality(a_bad) > 0 THEN
        FOR v_held IN
            WITH gone AS (
                DELETE FROM celeriac.held h WHERE h.owner = a_owner AND h.fence = ANY (a_back || a_off || a_bad)
                RETURNING h.*
            ) SELECT * FROM gone ORDER BY fence
        LOOP
            v_ours := array_append(v_ours, v_held.fence);
            IF v_held.fence = ANY (a_back) THEN
                PERFORM celeriac.put_back(v_held, celeriac.verdict_of(v_held));
            ELSIF v_held.fence = ANY (a_off) THEN
                v_at := array_position(a_off, v_held.fence);
                v_held.data := a_off_datas[v_at];
                PERFORM celeriac.put_off(v_held, a_off_delays[v_at]);
            END IF;
            CONTINUE WHEN NOT v_held.fence = ANY (a_bad);
            v_at := array_position(a_bad, v_held.fence);
            PERFORM celeriac.bury(v_held, a_reasons[v_at], a_details[v_at]);
        END LOOP;
    END IF;
    IF cardinality(r_of) > 0 THEN
        PERFORM celeriac.put(array_agg(u.key), array_agg(u.data), array_agg(u.ttl))
        FROM unnest(r_of, r_keys, r_datas, r_ttls) AS u (f, key, data, ttl)
        WHERE u.f IN (SELECT unnest(v_ours)) HAVING count(*) > 0;
    END IF;
    IF cardinality(s_of) > 0 THEN
        PERFORM celeriac.store(
            array_agg(u.queue ORDER BY u.n), array_agg(u.priority ORDER BY u.n), array_agg(u.delay ORDER BY u.n),
            array_agg(u.data ORDER BY u.n), false,
            CASE WHEN s_transients IS NOT NULL THEN array_agg(u.transient ORDER BY u.n) END
        ) FROM unnest(s_of, s_queues, s_priorities, s_delays, s_datas, s_transients)
            WITH ORDINALITY AS u (f, queue, priority, delay, data, transient, n)
        WHERE u.f IN (SELECT unnest(v_ours)) HAVING count(*) > 0;
    END IF;
    IF cardinality(o_of) > 0 THEN
        PERFORM celeriac.open_joins(
            array_agg(u.key), array_agg(u.size), array_agg(u.queue), array_agg(u.priority), array_agg(u.due),
            array_agg(u.delay), array_agg(u.data), o_ttl
        ) FROM unnest(o_of, o_keys, o_sizes, o_queues, o_priorities, o_dues, o_delays, o_datas)
            AS u (f, key, size, queue, priority, due, delay, data)
        WHERE u.f IN (SELECT unnest(v_ours)) HAVING count(*) > 0;
    END IF;
    IF cardinality(j_of) > 0 THEN
        FOR v_due IN
            SELECT d.* FROM (
                SELECT array_agg(u.key ORDER BY u.n) AS keys, array_agg(u.place ORDER BY u.n) AS places,
                    array_agg(u.data ORDER BY u.n) AS datas
                FROM unnest(j_of, j_keys, j_places, j_datas) WITH ORDINALITY AS u (f, key, place, data, n)
                WHERE u.f IN (SELECT unnest(v_ours)) HAVING count(*) > 0
            ) a CROSS JOIN LATERAL celeriac.arrive(a.keys, a.places, a.datas, false) d
        LOOP
            PERFORM celeriac.store(
                ARRAY[v_due.queue], ARRAY[v_due.priority], ARRAY[v_due.delay], ARRAY[v_due.data], false
            );
        END LOOP;
    END IF;
    IF cardinality(e_of) > 0 THEN
        PERFORM celeriac.end_joins(array_agg(u.key))
        FROM unnest(e_of, e_keys) AS u (f, key) WHERE u.f IN (SELECT unnest(v_ours)) HAVING count(*) > 0;
    END IF;
    RETURN v_ours;
END $$;

-- --------------------------------------------------------------------------------------- Revoking and tidying

-- Of those that wait before this place, the newest first, look at some and judge the wanted: they come next. A row
-- that is locked is on its way to a holding, and its take judges it. Returns the keys of the judged, and the last
-- place.
CREATE OR REPLACE FUNCTION celeriac.judge_ready(
    a_queue text, a_lane integer, a_position bigint, a_limit integer, a_keys bytea[],
    OUT judged bytea[], OUT seen bigint, OUT lane integer, OUT "position" bigint
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH page AS MATERIALIZED (
        SELECT r.tableoid AS kind, r.ctid AS place, r.lane AS l, r.position AS p, substring(r.data FROM 2 FOR 16) AS key,
            r.verdict AS v
        FROM celeriac.ready r WHERE r.queue = a_queue AND (r.lane, r.position) < (a_lane, a_position)
        ORDER BY r.lane DESC, r.position DESC LIMIT a_limit
    ), wanted AS MATERIALIZED (
        SELECT g.kind, g.place, g.key FROM page g WHERE g.key IN (SELECT unnest(a_keys))
            AND (g.v IS NULL OR substring(g.v FROM 1 FOR 7) = 'revoked'::bytea)
    ), locked AS MATERIALIZED (
        SELECT r.tableoid AS kind, r.ctid AS place FROM celeriac.ready r
        WHERE r.ctid = ANY (ARRAY(SELECT place FROM wanted))
            AND (r.tableoid, r.ctid) IN (SELECT kind, place FROM wanted) FOR UPDATE SKIP LOCKED
    ), changed AS (
        UPDATE celeriac.ready r SET lane = -20, verdict = coalesce(r.verdict, 'revoked'::bytea)
        WHERE r.ctid = ANY (ARRAY(SELECT place FROM locked))
            AND (r.tableoid, r.ctid) IN (SELECT kind, place FROM locked) RETURNING substring(r.data FROM 2 FOR 16) AS key
    ), forgotten AS (
        DELETE FROM celeriac.revoked v USING (SELECT DISTINCT key FROM changed) c
        WHERE v.queue = a_queue AND v.key = c.key
    )
    SELECT (SELECT coalesce(array_agg(key), '{}') FROM changed), count(*),
        (array_agg(g.l ORDER BY g.l, g.p))[1], (array_agg(g.p ORDER BY g.l, g.p))[1]
    INTO judged, seen, lane, "position" FROM page g;
    IF judged <> '{}' THEN
        PERFORM celeriac.wake(a_queue, cardinality(judged));
    END IF;
END $$;

-- The same for what is delayed.
CREATE OR REPLACE FUNCTION celeriac.judge_delayed(
    a_queue text, a_due float8, a_position bigint, a_limit integer, a_keys bytea[],
    OUT judged bytea[], OUT seen bigint, OUT due float8, OUT "position" bigint
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH page AS MATERIALIZED (
        SELECT d.tableoid AS kind, d.ctid AS place, extract(epoch FROM d.due_at)::float8 AS at, d.position AS p,
            substring(d.data FROM 2 FOR 16) AS key, d.verdict AS v
        FROM celeriac.delayed d WHERE d.queue = a_queue AND (d.due_at, d.position) < (to_timestamp(a_due), a_position)
        ORDER BY d.due_at DESC, d.position DESC LIMIT a_limit
    ), wanted AS MATERIALIZED (
        SELECT g.kind, g.place FROM page g WHERE g.key IN (SELECT unnest(a_keys))
            AND (g.v IS NULL OR substring(g.v FROM 1 FOR 7) = 'revoked'::bytea)
    ), locked AS MATERIALIZED (
        SELECT d.tableoid AS kind, d.ctid AS place FROM celeriac.delayed d
        WHERE d.ctid = ANY (ARRAY(SELECT place FROM wanted))
            AND (d.tableoid, d.ctid) IN (SELECT kind, place FROM wanted) FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM celeriac.delayed d
        WHERE d.ctid = ANY (ARRAY(SELECT place FROM locked)) AND (d.tableoid, d.ctid) IN (SELECT kind, place FROM locked)
        RETURNING d.*, d.tableoid = 'celeriac.transient_delayed'::regclass AS is_transient
    ), moved AS (
        INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict)
        SELECT g.queue, -20, g.position, g.data, g.history, coalesce(g.verdict, 'revoked'::bytea) FROM gone g
        WHERE NOT g.is_transient
    ), moved_transients AS (
        INSERT INTO celeriac.transient_ready (queue, lane, position, data, history, verdict)
        SELECT g.queue, -20, g.position, g.data, g.history, coalesce(g.verdict, 'revoked'::bytea) FROM gone g
        WHERE g.is_transient
    ), tallied AS (
        INSERT INTO celeriac.tallies (queue, ready, delayed)
        SELECT a_queue, count(*), -count(*) FROM gone g WHERE NOT g.is_transient HAVING count(*) > 0
    ), tallied_transients AS (
        INSERT INTO celeriac.transient_tallies (queue, ready, delayed)
        SELECT a_queue, count(*), -count(*) FROM gone g WHERE g.is_transient HAVING count(*) > 0
    ), keys AS MATERIALIZED (
        SELECT substring(g.data FROM 2 FOR 16) AS key FROM gone g
    ), forgotten AS (
        DELETE FROM celeriac.revoked v USING (SELECT DISTINCT key FROM keys) c
        WHERE v.queue = a_queue AND v.key = c.key
    )
    SELECT (SELECT coalesce(array_agg(key), '{}') FROM keys), count(*),
        (array_agg(g.at ORDER BY g.at, g.p))[1], (array_agg(g.p ORDER BY g.at, g.p))[1]
    INTO judged, seen, due, "position" FROM page g;
    IF judged <> '{}' THEN
        PERFORM celeriac.wake(a_queue, cardinality(judged));
    END IF;
END $$;

-- Delete some of what waits and was sent by then. Returns how many.
CREATE OR REPLACE FUNCTION celeriac.purge(a_queue text, a_last bigint, a_limit integer) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH some_ready AS MATERIALIZED (
        SELECT o.tableoid AS kind, o.ctid AS place FROM celeriac.ready o WHERE o.queue = a_queue AND o.position <= a_last
        LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), gone_ready AS (
        DELETE FROM celeriac.ready r WHERE r.ctid = ANY (ARRAY(SELECT place FROM some_ready))
            AND (r.tableoid, r.ctid) IN (SELECT kind, place FROM some_ready)
        RETURNING r.tableoid = 'celeriac.transient_ready'::regclass AS is_transient
    ), some_delayed AS MATERIALIZED (
        SELECT o.tableoid AS kind, o.ctid AS place FROM celeriac.delayed o WHERE o.queue = a_queue AND o.position <= a_last
        LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), gone_delayed AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(SELECT place FROM some_delayed))
            AND (d.tableoid, d.ctid) IN (SELECT kind, place FROM some_delayed)
        RETURNING d.tableoid = 'celeriac.transient_delayed'::regclass AS is_transient
    ), gone AS MATERIALIZED (
        SELECT is_transient, 1 AS ready, 0 AS delayed FROM gone_ready
        UNION ALL SELECT is_transient, 0, 1 FROM gone_delayed
    ), tallied AS (
        INSERT INTO celeriac.tallies (queue, ready, delayed)
        SELECT a_queue, -sum(g.ready), -sum(g.delayed) FROM gone g WHERE NOT g.is_transient HAVING count(*) > 0
    ), tallied_transients AS (
        INSERT INTO celeriac.transient_tallies (queue, ready, delayed)
        SELECT a_queue, -sum(g.ready), -sum(g.delayed) FROM gone g WHERE g.is_transient HAVING count(*) > 0
    ) SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END $$;

-- ------------------------------------------------------------------------------------------------- Moving

CREATE OR REPLACE FUNCTION celeriac.pack_ready(a_queue text, a_limit integer, a_bytes bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
    v_transients bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT r.tableoid AS kind, r.ctid AS place, r.lane, r.position, length(r.data) AS size FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), cut AS (
        SELECT h.kind, h.place, sum(h.size) OVER (ORDER BY h.lane, h.position) - h.size < a_bytes AS fits FROM head h
    ), gone AS (
        DELETE FROM celeriac.ready r WHERE r.ctid = ANY (ARRAY(SELECT place FROM cut WHERE fits))
            AND (r.tableoid, r.ctid) IN (SELECT kind, place FROM cut WHERE fits)
        RETURNING r.*, r.tableoid = 'celeriac.transient_ready'::regclass AS is_transient
    ), kept AS (
        INSERT INTO celeriac.parcels (queue, n, lane, data, history, verdict)
        SELECT g.queue, row_number() OVER (ORDER BY g.lane, g.position), g.lane, g.data, g.history, g.verdict
        FROM gone g
    ) SELECT count(*) FILTER (WHERE NOT g.is_transient), count(*) FILTER (WHERE g.is_transient)
    INTO v_count, v_transients FROM gone g;
    INSERT INTO celeriac.tallies (queue, ready) SELECT a_queue, -v_count WHERE v_count > 0;
    INSERT INTO celeriac.transient_tallies (queue, ready) SELECT a_queue, -v_transients WHERE v_transients > 0;
END $$;

CREATE OR REPLACE FUNCTION celeriac.pack_delayed(a_queue text, a_limit integer, a_bytes bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
    v_transients bigint;
BEGIN
    WITH head AS MATERIALIZED (
        SELECT d.tableoid AS kind, d.ctid AS place, d.due_at, d.position, length(d.data) AS size FROM celeriac.delayed d
        WHERE d.queue = a_queue ORDER BY d.due_at, d.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), cut AS (
        SELECT h.kind, h.place, sum(h.size) OVER (ORDER BY h.due_at, h.position) - h.size < a_bytes AS fits FROM head h
    ), gone AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(SELECT place FROM cut WHERE fits))
            AND (d.tableoid, d.ctid) IN (SELECT kind, place FROM cut WHERE fits)
        RETURNING d.*, d.tableoid = 'celeriac.transient_delayed'::regclass AS is_transient
    ), kept AS (
        INSERT INTO celeriac.parcels (queue, n, lane, due_at, data, history, verdict)
        SELECT g.queue, row_number() OVER (ORDER BY g.due_at, g.position), g.lane, g.due_at, g.data, g.history, g.verdict
        FROM gone g
    ) SELECT count(*) FILTER (WHERE NOT g.is_transient), count(*) FILTER (WHERE g.is_transient)
    INTO v_count, v_transients FROM gone g;
    INSERT INTO celeriac.tallies (queue, delayed) SELECT a_queue, -v_count WHERE v_count > 0;
    INSERT INTO celeriac.transient_tallies (queue, delayed) SELECT a_queue, -v_transients WHERE v_transients > 0;
END $$;

-- Store the messages of another place's crate, unless that has been done. Casualties come as h_datas, each with the place
-- of its message in h_of. a_transients: which are; dead letters are not.
DROP FUNCTION celeriac.unpack(
    text, bytea, bigint, integer[], float8[], bytea[], bytea[], float8[], bytea[], bytea[], bytea[], integer[], bytea[]
);
CREATE FUNCTION celeriac.unpack(
    a_queue text, a_series bytea, a_number bigint, a_lanes integer[], a_dues float8[], a_datas bytea[], a_verdicts bytea[],
    a_dieds float8[], a_keys bytea[], a_reasons bytea[], a_details bytea[], h_of integer[], h_datas bytea[],
    a_transients boolean[]
) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_row record;
    v_key bytea;
    v_ready integer := 0;
    v_delayed integer := 0;
    v_dead integer := 0;
    v_transient_ready integer := 0;
    v_transient_delayed integer := 0;
BEGIN
    INSERT INTO celeriac.unpacked AS u (series, number) VALUES (a_series, a_number)
    ON CONFLICT (series) DO UPDATE SET number = excluded.number WHERE u.number < excluded.number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR v_row IN
        SELECT p.*, to_timestamp(p.due) AS due_at, to_timestamp(p.died) AS died_at,
            CASE WHEN substring(p.verdict FROM 1 FOR 7) = 'revoked'::bytea THEN -20 ELSE p.lane END AS ready_lane,
            (SELECT array_agg(h.data ORDER BY h.k) FROM unnest(h_of, h_datas) WITH ORDINALITY AS h (of, data, k)
             WHERE h.of = p.n) AS history
        FROM unnest(a_lanes, a_dues, a_datas, a_verdicts, a_dieds, a_keys, a_reasons, a_details, a_transients)
            WITH ORDINALITY AS p (lane, due, data, verdict, died, key, reason, detail, transient, n) ORDER BY p.n
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
        ELSIF v_row.due_at > clock_timestamp() AND v_row.transient THEN
            INSERT INTO celeriac.transient_delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
                a_queue, v_row.due_at, nextval('celeriac.positions'), v_row.lane, v_row.data, v_row.history, v_row.verdict
            );
            v_transient_delayed := v_transient_delayed + 1;
        ELSIF v_row.due_at > clock_timestamp() THEN
            INSERT INTO celeriac.delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
                a_queue, v_row.due_at, nextval('celeriac.positions'), v_row.lane, v_row.data, v_row.history, v_row.verdict
            );
            v_delayed := v_delayed + 1;
        ELSIF v_row.transient THEN
            INSERT INTO celeriac.transient_ready (queue, lane, position, data, history, verdict) VALUES (
                a_queue, v_row.ready_lane, nextval('celeriac.positions'), v_row.data, v_row.history, v_row.verdict
            );
            v_transient_ready := v_transient_ready + 1;
        ELSE
            INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict) VALUES (
                a_queue, v_row.ready_lane, nextval('celeriac.positions'), v_row.data, v_row.history, v_row.verdict
            );
            v_ready := v_ready + 1;
        END IF;
    END LOOP;
    INSERT INTO celeriac.tallies (queue, was_sent_to, ready, delayed, dead)
    VALUES (a_queue, true, v_ready, v_delayed, v_dead);
    INSERT INTO celeriac.transient_tallies (queue, ready, delayed)
    SELECT a_queue, v_transient_ready, v_transient_delayed WHERE v_transient_ready + v_transient_delayed > 0;
    PERFORM celeriac.wake(a_queue, v_ready + v_delayed + v_transient_ready + v_transient_delayed);
    RETURN true;
END $$;
