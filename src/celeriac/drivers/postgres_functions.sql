-- What happens within one call to the server: each verb is one function, so one round trip, one transaction and the
-- server's own clock, also through a pooler that keeps no sessions. `celeriac.` stands for the schema.
--
-- Statements of PL/pgSQL see what was committed before each of them, so a lock taken by one is known to the next.
-- Plans are kept for as long as a connection: those of the functions that run all the time must not be made for the
-- empty tables that they may have seen first, so these have no sequential scans.

-- ------------------------------------------------------------------------------------------------- Telling

-- The moment after so many seconds; some centuries at most. Null: none.
CREATE FUNCTION celeriac.after(a_seconds float8) RETURNS timestamptz LANGUAGE sql AS $$
    SELECT clock_timestamp() + make_interval(secs => CASE WHEN a_seconds > 3e10 THEN 3e10 ELSE a_seconds END)
$$;

-- A channel of notifications for a name of ours.
CREATE FUNCTION celeriac.channel(a_name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'celeriac_' || to_hex(hashtextextended('celeriac.' || a_name, 0))
$$;

-- Follow the channels of these names, and one of the caller's own.
CREATE FUNCTION celeriac.hear(a_own text, a_names text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_name text;
BEGIN
    IF a_own <> '' THEN
        EXECUTE format('LISTEN %I', a_own);
    END IF;
    FOREACH v_name IN ARRAY a_names LOOP
        EXECUTE format('LISTEN %I', celeriac.channel(v_name));
    END LOOP;
END $$;

-- Wake some of those who wait for messages of this queue. They are told once: who waits on says so again.
CREATE FUNCTION celeriac.wake(a_queue text, a_count bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_channel text;
BEGIN
    FOR v_channel IN
        DELETE FROM celeriac.waiters w WHERE w.ctid = ANY (ARRAY(
            SELECT o.ctid FROM celeriac.waiters o WHERE o.queue = a_queue AND o.until > clock_timestamp()
            LIMIT a_count FOR UPDATE SKIP LOCKED
        )) RETURNING w.channel
    LOOP
        PERFORM pg_notify(v_channel, '');
    END LOOP;
END $$;

-- ------------------------------------------------------------------------------------------------- Storing

-- Store messages; a_delays in seconds from now, null: ready. a_within: in somebody's own transaction, which may last:
-- nobody's row is locked, and all who wait are told when it commits.
CREATE FUNCTION celeriac.store(
    a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[], a_within boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_row record;
BEGIN
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
CREATE FUNCTION celeriac.send(
    a_mark bytea, a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO celeriac.sends (mark, sent_at) VALUES (a_mark, clock_timestamp()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM celeriac.store(a_queues, a_priorities, a_delays, a_datas, false);
        IF random() < 0.004 THEN
            PERFORM celeriac.fold(5000);
        END IF;
    END IF;
END $$;

-- The same, unless more than a_most messages would wait in one of the queues a_limited. Those who send there do so one
-- after another. Returns a queue that is full; null: none is, and all is stored.
CREATE FUNCTION celeriac.send_limited(
    a_mark bytea, a_queues text[], a_priorities integer[], a_delays float8[], a_datas bytea[],
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
    PERFORM celeriac.send(a_mark, a_queues, a_priorities, a_delays, a_datas);
    RETURN NULL;
END $$;

-- Ready again, in its old place.
CREATE FUNCTION celeriac.put_back(a_held celeriac.held, a_verdict bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict)
    VALUES (a_held.queue, a_held.lane - (a_held.lane & 1), a_held.position, a_held.data, a_held.history, a_verdict);
    INSERT INTO celeriac.tallies (queue, running, ready) VALUES (a_held.queue, -1, 1);
    PERFORM celeriac.wake(a_held.queue, 1);
END $$;

-- The verdict on a delivery that is given back.
CREATE FUNCTION celeriac.verdict_of(a_held celeriac.held) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN a_held.is_committed THEN 'worker_lost'::bytea ELSE a_held.verdict END
$$;

-- It waits, with all that is known of it.
CREATE FUNCTION celeriac.put_off(a_held celeriac.held, a_delay float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO celeriac.delayed (queue, due_at, position, lane, data, history, verdict) VALUES (
        a_held.queue, celeriac.after(a_delay), nextval('celeriac.positions'),
        a_held.lane, a_held.data, a_held.history, celeriac.verdict_of(a_held)
    );
    INSERT INTO celeriac.tallies (queue, running, delayed) VALUES (a_held.queue, -1, 1);
    PERFORM celeriac.wake(a_held.queue, 1);
END $$;

-- Garbage messages, and copies of one message, may share a key: the later one gets one of its own.
CREATE FUNCTION celeriac.bury(a_held celeriac.held, a_reason bytea, a_detail bytea) RETURNS void LANGUAGE plpgsql AS $$
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
    INSERT INTO celeriac.tallies (queue, running, dead) VALUES (a_held.queue, -1, 1);
END $$;

-- ------------------------------------------------------------------------------------------- Leases and house

-- One more delivery has ended with a dead process.
CREATE FUNCTION celeriac.count_crash(
    a_held celeriac.held, a_casualty bytea, a_cause bytea, a_max integer
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_crashes integer;
    v_detail bytea;
BEGIN
    IF a_held.is_committed THEN
        PERFORM celeriac.put_back(a_held, 'worker_lost:'::bytea || a_cause);
        RETURN;
    END IF;
    a_held.history := array_append(a_held.history, a_casualty);
    v_crashes := cardinality(a_held.history);
    v_detail := convert_to(format('its process died %s times, last by ', v_crashes), 'UTF8') || a_cause;
    IF v_crashes >= a_max + 3 AND substring(a_held.verdict FROM 1 FOR 7) = 'crashed'::bytea THEN
        PERFORM celeriac.bury(a_held, 'crashed'::bytea, v_detail);
    ELSIF v_crashes >= a_max THEN
        PERFORM celeriac.put_back(a_held, 'crashed:'::bytea || v_detail);
    ELSIF v_crashes >= 2 THEN
        PERFORM celeriac.put_off(a_held, least(60.0, 4.0 ^ (v_crashes - 2)));
    ELSE
        PERFORM celeriac.put_back(a_held, a_held.verdict);
    END IF;
END $$;

-- Whoever takes for an owner holds this in shared mode, whoever ends its lease alone: nothing is taken for the dead.
CREATE FUNCTION celeriac.lock_of(a_kind text, a_name text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended('celeriac.' || a_kind || ' ' || a_name, 0)
$$;

-- Lengthen leases. Returns the owners that were known.
CREATE FUNCTION celeriac.renew(a_owners text[], a_lease float8, a_max integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_known text[];
BEGIN
    WITH renewed AS (
        UPDATE celeriac.leases SET
            expires_at = celeriac.after(a_lease), lasts = make_interval(secs => a_lease)
        WHERE owner = ANY (a_owners) RETURNING owner
    ) SELECT coalesce(array_agg(owner), '{}') INTO v_known FROM renewed;
    PERFORM celeriac.keep_house(a_max);
    RETURN v_known;
END $$;

-- A process is dead: by keys, casualties and their causes, and verdicts. Returns how many messages it held.
CREATE FUNCTION celeriac.surrender(
    a_owner text, a_keys bytea[], a_casualties bytea[], a_causes bytea[], a_judged bytea[], a_verdicts bytea[],
    a_max integer
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_held celeriac.held;
    v_key bytea;
    v_at integer;
    v_count integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(celeriac.lock_of('owner', a_owner));
    DELETE FROM celeriac.leases WHERE owner = a_owner;
    DELETE FROM celeriac.waiters WHERE owner = a_owner;
    FOR v_held IN DELETE FROM celeriac.held h WHERE h.owner = a_owner RETURNING h.* LOOP
        v_count := v_count + 1;
        v_key := substring(v_held.data FROM 2 FOR 16);
        v_at := array_position(a_judged, v_key);
        IF v_at IS NOT NULL THEN
            PERFORM celeriac.put_back(v_held, a_verdicts[v_at]);
            CONTINUE;
        END IF;
        v_at := array_position(a_keys, v_key);
        IF v_at IS NOT NULL THEN
            PERFORM celeriac.count_crash(v_held, a_casualties[v_at], a_causes[v_at], a_max);
        ELSE
            PERFORM celeriac.put_back(v_held, celeriac.verdict_of(v_held));
        END IF;
    END LOOP;
    RETURN v_count;
END $$;

-- End leases that have expired. Where nobody has looked for half of a lease, or has looked in the future (the clock
-- was set back), it is lengthened (amnesty). One does this at a time, and nobody waits for him.
CREATE FUNCTION celeriac.keep_house(a_max integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_last timestamptz;
    v_owner text;
    v_held celeriac.held;
BEGIN
    SELECT kept_at INTO v_last FROM celeriac.house FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE celeriac.house SET kept_at = v_now;
    UPDATE celeriac.leases SET expires_at = v_now + lasts WHERE v_now < v_last OR v_now - v_last > lasts / 2;
    FOR v_owner IN SELECT owner FROM celeriac.leases WHERE expires_at <= v_now ORDER BY expires_at LIMIT 50 LOOP
        -- One that takes at this moment is alive.
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(celeriac.lock_of('owner', v_owner));
        DELETE FROM celeriac.leases WHERE owner = v_owner AND expires_at <= v_now;
        CONTINUE WHEN NOT FOUND;
        FOR v_held IN DELETE FROM celeriac.held h WHERE h.owner = v_owner RETURNING h.* LOOP
            PERFORM celeriac.count_crash(
                v_held,
                convert_to(json_build_object(
                    'cause', 'lease expired', 'at', extract(epoch FROM v_now), 'worker', v_owner, 'memory', NULL
                )::text, 'UTF8'),
                'lease expired'::bytea, a_max
            );
        END LOOP;
    END LOOP;
    DELETE FROM celeriac.revoked WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM celeriac.revoked WHERE until <= v_now LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM celeriac.sends WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM celeriac.sends WHERE sent_at < v_now - interval '1 minute' LIMIT 20000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM celeriac.waiters WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM celeriac.waiters WHERE until < v_now FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM celeriac.watchers WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM celeriac.watchers WHERE until < v_now FOR UPDATE SKIP LOCKED
    ));
    PERFORM celeriac.sweep(2000);
    PERFORM celeriac.sweep_joins(100);
    PERFORM celeriac.fold(20000);
END $$;

-- Add tallies to the counters of their queues. Returns how many there were.
CREATE FUNCTION celeriac.fold(a_limit integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(celeriac.lock_of('fold', '')) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM celeriac.tallies WHERE ctid = ANY (ARRAY(SELECT ctid FROM celeriac.tallies LIMIT a_limit)) RETURNING *
    ), added AS (
        INSERT INTO celeriac.queues AS q (name, was_sent_to, ready, delayed, running, dead)
        SELECT g.queue, bool_or(g.was_sent_to), sum(g.ready), sum(g.delayed), sum(g.running), sum(g.dead)
        FROM gone g GROUP BY g.queue ORDER BY g.queue
        ON CONFLICT (name) DO UPDATE SET
            was_sent_to = q.was_sent_to OR excluded.was_sent_to, ready = q.ready + excluded.ready,
            delayed = q.delayed + excluded.delayed, running = q.running + excluded.running,
            dead = q.dead + excluded.dead
    ) SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END $$;

-- ------------------------------------------------------------------------------------------------- Taking

-- What is due becomes ready: of a million that fall due together, some hundred at a time.
CREATE FUNCTION celeriac.promote(a_queue text) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(
            SELECT o.ctid FROM celeriac.delayed o WHERE o.queue = a_queue AND o.due_at <= clock_timestamp()
            ORDER BY o.due_at, o.position LIMIT 500 FOR UPDATE SKIP LOCKED
        )) RETURNING d.*
    ), moved AS (
        INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict)
        SELECT g.queue, g.lane, nextval('celeriac.positions'), g.data, g.history, g.verdict
        FROM (SELECT * FROM gone ORDER BY due_at, position) g RETURNING 1
    ) SELECT count(*) INTO v_count FROM moved;
    IF v_count > 0 THEN
        INSERT INTO celeriac.tallies (queue, ready, delayed) VALUES (a_queue, v_count, -v_count);
    END IF;
END $$;

-- Judge those at the head of the queue that are remembered as revoked.
CREATE FUNCTION celeriac.catch_revoked(a_queue text, a_limit integer) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH head AS MATERIALIZED (
        SELECT r.ctid AS place, substring(r.data FROM 2 FOR 16) AS key, r.verdict FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ), judged AS (
        SELECT h.place, h.key FROM head h WHERE h.verdict IS NULL AND EXISTS (
            SELECT 1 FROM celeriac.revoked v
            WHERE v.queue = a_queue AND v.key = h.key AND v.until > clock_timestamp()
        )
    ), forgotten AS (
        DELETE FROM celeriac.revoked v USING judged j WHERE v.queue = a_queue AND v.key = j.key
    )
    UPDATE celeriac.ready SET lane = -20, verdict = 'revoked'::bytea
    WHERE ctid = ANY (ARRAY(SELECT place FROM judged));
END $$;

-- Move the head of a queue into the owner's holding; a suspect alone. Nothing: null fences.
CREATE FUNCTION celeriac.pick(
    a_owner text, a_queue text, a_limit integer,
    OUT fences bigint[], OUT datas bytea[], OUT crashes integer, OUT verdict bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_places tid[];
    v_suspects boolean[];
    v_first integer;
BEGIN
    SELECT array_agg(h.place), array_agg(h.is_suspect) INTO v_places, v_suspects FROM (
        SELECT r.ctid AS place, r.history IS NOT NULL OR r.verdict IS NOT NULL AS is_suspect FROM celeriac.ready r
        WHERE r.queue = a_queue ORDER BY r.lane, r.position LIMIT a_limit FOR UPDATE SKIP LOCKED
    ) h;
    IF v_places IS NULL THEN
        RETURN;
    END IF;
    v_first := array_position(v_suspects, true);
    IF v_first IS NOT NULL THEN
        v_places := v_places[1:greatest(v_first - 1, 1)];
    END IF;
    WITH gone AS (
        DELETE FROM celeriac.ready r WHERE r.ctid = ANY (v_places) RETURNING r.*
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

-- One look into the queues, in this order, until one gives something. A lease that has less than half of its time
-- left is renewed: who takes is alive. a_opens: this owner is new. a_waits: seconds for which the caller will wait
-- for a notification on a_channel if there is nothing; null: it will not. a_waited: it may be on the list of those
-- who wait. `is_lost`: there is no such lease any more. `next_due`: seconds until something falls due.
CREATE FUNCTION celeriac.take(
    a_owner text, a_queues text[], a_limit integer, a_lease float8, a_max integer, a_opens boolean,
    a_channel text, a_waits float8, a_waited boolean,
    OUT is_lost boolean, OUT next_due float8, OUT queue text, OUT fences bigint[], OUT datas bytea[],
    OUT crashes integer, OUT verdict bytea
) LANGUAGE plpgsql AS $$
DECLARE
    v_expires timestamptz;
    v_gap float8;
    v_queue text;
BEGIN
    is_lost := false;
    IF a_opens THEN
        INSERT INTO celeriac.leases (owner, expires_at, lasts)
        VALUES (a_owner, celeriac.after(a_lease), make_interval(secs => a_lease))
        ON CONFLICT (owner) DO NOTHING;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(celeriac.lock_of('owner', a_owner));
    SELECT l.expires_at INTO v_expires FROM celeriac.leases l WHERE l.owner = a_owner;
    IF NOT FOUND THEN
        is_lost := true;
        RETURN;
    END IF;
    IF v_expires < celeriac.after(a_lease / 2) THEN
        UPDATE celeriac.leases l SET
            expires_at = celeriac.after(a_lease), lasts = make_interval(secs => a_lease)
        WHERE l.owner = a_owner;
    END IF;
    SELECT extract(epoch FROM clock_timestamp() - kept_at) INTO v_gap FROM celeriac.house;
    IF v_gap NOT BETWEEN 0 AND a_lease / 8 THEN
        PERFORM celeriac.keep_house(a_max);
    END IF;
    FOREACH v_queue IN ARRAY a_queues LOOP
        PERFORM pg_advisory_xact_lock_shared(celeriac.lock_of('queue', v_queue));
        CONTINUE WHEN EXISTS (SELECT 1 FROM celeriac.queues q WHERE q.name = v_queue AND q.is_paused);
        PERFORM celeriac.promote(v_queue);
        IF EXISTS (SELECT 1 FROM celeriac.revoked r WHERE r.queue = v_queue) THEN
            PERFORM celeriac.catch_revoked(v_queue, a_limit);
        END IF;
        SELECT p.fences, p.datas, p.crashes, p.verdict INTO fences, datas, crashes, verdict
        FROM celeriac.pick(a_owner, v_queue, a_limit) p;
        IF fences IS NOT NULL THEN
            queue := v_queue;
            IF a_waited THEN
                DELETE FROM celeriac.waiters w WHERE w.owner = a_owner;
            END IF;
            IF verdict IS NOT NULL AND substring(verdict FROM 1 FOR 7) = 'revoked'::bytea THEN
                DELETE FROM celeriac.revoked r
                WHERE r.queue = v_queue AND r.key = substring(datas[1] FROM 2 FOR 16);
            END IF;
            RETURN;
        END IF;
    END LOOP;
    IF a_waits IS NOT NULL THEN
        INSERT INTO celeriac.waiters (queue, owner, channel, until)
        SELECT q, a_owner, a_channel, celeriac.after(a_waits) FROM unnest(a_queues) AS q
        ORDER BY q ON CONFLICT ON CONSTRAINT waiters_pkey DO UPDATE SET until = excluded.until, channel = excluded.channel;
    END IF;
    SELECT extract(epoch FROM min(f.due_at) - clock_timestamp()) INTO next_due FROM unnest(a_queues) AS u (name)
    CROSS JOIN LATERAL (
        SELECT d.due_at FROM celeriac.delayed d WHERE d.queue = u.name ORDER BY d.due_at, d.position LIMIT 1
    ) f WHERE NOT EXISTS (SELECT 1 FROM celeriac.queues q WHERE q.name = u.name AND q.is_paused);
END $$;

-- The answer to a take was lost: what it brought into the owner's holding goes back. a_fence: the last that had
-- arrived. The take may be on its way still.
CREATE FUNCTION celeriac.give_back(a_owner text, a_fence bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_held celeriac.held;
BEGIN
    PERFORM pg_advisory_xact_lock(celeriac.lock_of('owner', a_owner));
    FOR v_held IN DELETE FROM celeriac.held h WHERE h.owner = a_owner AND h.fence > a_fence RETURNING h.* LOOP
        PERFORM celeriac.put_back(v_held, celeriac.verdict_of(v_held));
    END LOOP;
END $$;

-- ------------------------------------------------------------------------------------------------- Settling

-- End deliveries of one owner. By action: a_done (acknowledged, or replaced by a message among the sends), a_back,
-- a_off with new bytes and delays, a_bad with reasons and details. What goes with them (`_of`: the fence) takes
-- effect only where the delivery was the owner's. Returns the fences that were.
CREATE FUNCTION celeriac.settle(
    a_owner text, a_done bigint[], a_back bigint[],
    a_off bigint[], a_off_datas bytea[], a_off_delays float8[],
    a_bad bigint[], a_reasons bytea[], a_details bytea[],
    r_of bigint[], r_keys bytea[], r_datas bytea[], r_ttls float8[],
    s_of bigint[], s_queues text[], s_priorities integer[], s_delays float8[], s_datas bytea[],
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
        DELETE FROM celeriac.held h WHERE h.owner = a_owner AND h.fence = ANY (a_done) RETURNING h.fence, h.queue
    ), tallied AS (
        INSERT INTO celeriac.tallies (queue, running) SELECT g.queue, -count(*) FROM gone g GROUP BY g.queue
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
            array_agg(u.data ORDER BY u.n), false
        ) FROM unnest(s_of, s_queues, s_priorities, s_delays, s_datas)
            WITH ORDINALITY AS u (f, queue, priority, delay, data, n)
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

-- Those of these fences that the owner holds.
CREATE FUNCTION celeriac.confirm(a_owner text, a_fences bigint[]) RETURNS bigint[] LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT coalesce(array_agg(fence), '{}') FROM celeriac.held WHERE owner = a_owner AND fence = ANY (a_fences)
$$;

-- Their runs begin and are not repeated. Returns those that the owner holds.
CREATE FUNCTION celeriac.commit_runs(a_owner text, a_fences bigint[]) RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ours bigint[];
BEGIN
    WITH begun AS (
        UPDATE celeriac.held SET is_committed = true WHERE owner = a_owner AND fence = ANY (a_fences) RETURNING fence
    ) SELECT coalesce(array_agg(fence), '{}') INTO v_ours FROM begun;
    RETURN v_ours;
END $$;

-- Store results of a run on its way, if the owner holds it.
CREATE FUNCTION celeriac.note(
    a_owner text, a_fence bigint, a_keys bytea[], a_datas bytea[], a_ttls float8[]
) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM 1 FROM celeriac.held WHERE owner = a_owner AND fence = a_fence FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM celeriac.put(a_keys, a_datas, a_ttls);
    RETURN true;
END $$;
