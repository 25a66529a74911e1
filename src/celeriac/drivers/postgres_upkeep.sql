-- Revoking, looking and tidying, results and joins: as postgres_functions.sql, whose functions these use.

-- ------------------------------------------------------------------------------------------------- Revoking

-- Remember revocations. A milder one takes nothing of a harder one back.
CREATE FUNCTION celeriac.remember(
    a_queue text, a_keys bytea[], a_terminates boolean[], a_signals text[], a_keep float8
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO celeriac.revoked AS r (queue, key, until, terminate, signal)
    SELECT a_queue, f.key, celeriac.after(a_keep), f.terminate, f.signal FROM (
        SELECT DISTINCT ON (u.key) u.key, u.terminate, u.signal
        FROM unnest(a_keys, a_terminates, a_signals) AS u (key, terminate, signal)
        ORDER BY u.key, u.terminate DESC
    ) f
    ON CONFLICT (queue, key) DO UPDATE SET
        until = greatest(r.until, excluded.until),
        signal = CASE WHEN excluded.terminate THEN excluded.signal ELSE r.signal END,
        terminate = r.terminate OR excluded.terminate
$$;

-- Wait until no take of this queue is on its way that has not seen what was remembered. Returns the keys of all that
-- is in somebody's holding then.
CREATE FUNCTION celeriac.held_keys(a_queue text) RETURNS bytea[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(celeriac.lock_of('queue', a_queue));
    RETURN (
        SELECT coalesce(array_agg(substring(h.data FROM 2 FOR 16)), '{}') FROM celeriac.held h WHERE h.queue = a_queue
    );
END $$;

-- Of those that wait before this place, the newest first, look at some and judge the wanted: they come next. A row
-- that is locked is on its way to a holding, and its take judges it. Returns the keys of the judged, and the last
-- place.
CREATE FUNCTION celeriac.judge_ready(
    a_queue text, a_lane integer, a_position bigint, a_limit integer, a_keys bytea[],
    OUT judged bytea[], OUT seen bigint, OUT lane integer, OUT "position" bigint
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH page AS MATERIALIZED (
        SELECT r.ctid AS place, r.lane AS l, r.position AS p, substring(r.data FROM 2 FOR 16) AS key, r.verdict AS v
        FROM celeriac.ready r WHERE r.queue = a_queue AND (r.lane, r.position) < (a_lane, a_position)
        ORDER BY r.lane DESC, r.position DESC LIMIT a_limit
    ), wanted AS MATERIALIZED (
        SELECT g.place, g.key FROM page g WHERE g.key IN (SELECT unnest(a_keys))
            AND (g.v IS NULL OR substring(g.v FROM 1 FOR 7) = 'revoked'::bytea)
    ), locked AS MATERIALIZED (
        SELECT r.ctid AS place FROM celeriac.ready r
        WHERE r.ctid = ANY (ARRAY(SELECT place FROM wanted)) FOR UPDATE SKIP LOCKED
    ), changed AS (
        UPDATE celeriac.ready r SET lane = -20, verdict = coalesce(r.verdict, 'revoked'::bytea)
        WHERE r.ctid = ANY (ARRAY(SELECT place FROM locked)) RETURNING substring(r.data FROM 2 FOR 16) AS key
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
CREATE FUNCTION celeriac.judge_delayed(
    a_queue text, a_due float8, a_position bigint, a_limit integer, a_keys bytea[],
    OUT judged bytea[], OUT seen bigint, OUT due float8, OUT "position" bigint
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    WITH page AS MATERIALIZED (
        SELECT d.ctid AS place, extract(epoch FROM d.due_at)::float8 AS at, d.position AS p,
            substring(d.data FROM 2 FOR 16) AS key, d.verdict AS v
        FROM celeriac.delayed d WHERE d.queue = a_queue AND (d.due_at, d.position) < (to_timestamp(a_due), a_position)
        ORDER BY d.due_at DESC, d.position DESC LIMIT a_limit
    ), wanted AS MATERIALIZED (
        SELECT g.place FROM page g WHERE g.key IN (SELECT unnest(a_keys))
            AND (g.v IS NULL OR substring(g.v FROM 1 FOR 7) = 'revoked'::bytea)
    ), locked AS MATERIALIZED (
        SELECT d.ctid AS place FROM celeriac.delayed d
        WHERE d.ctid = ANY (ARRAY(SELECT place FROM wanted)) FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(SELECT place FROM locked)) RETURNING d.*
    ), moved AS (
        INSERT INTO celeriac.ready (queue, lane, position, data, history, verdict)
        SELECT g.queue, -20, g.position, g.data, g.history, coalesce(g.verdict, 'revoked'::bytea) FROM gone g
        RETURNING substring(data FROM 2 FOR 16) AS key
    ), forgotten AS (
        DELETE FROM celeriac.revoked v USING (SELECT DISTINCT key FROM moved) c
        WHERE v.queue = a_queue AND v.key = c.key
    )
    SELECT (SELECT coalesce(array_agg(key), '{}') FROM moved), count(*),
        (array_agg(g.at ORDER BY g.at, g.p))[1], (array_agg(g.p ORDER BY g.at, g.p))[1]
    INTO judged, seen, due, "position" FROM page g;
    IF judged <> '{}' THEN
        INSERT INTO celeriac.tallies (queue, ready, delayed)
        VALUES (a_queue, cardinality(judged), -cardinality(judged));
        PERFORM celeriac.wake(a_queue, cardinality(judged));
    END IF;
END $$;

-- Forget the oldest of more than so many.
CREATE FUNCTION celeriac.shorten(a_queue text, a_most integer) RETURNS void LANGUAGE sql AS $$
    DELETE FROM celeriac.revoked WHERE serial IN (
        SELECT serial FROM celeriac.revoked WHERE queue = a_queue ORDER BY until DESC, serial DESC OFFSET a_most
    )
$$;

CREATE FUNCTION celeriac.list_revoked(a_queue text)
RETURNS TABLE (key bytea, terminate boolean, signal text) LANGUAGE sql STABLE AS $$
    SELECT key, terminate, signal FROM celeriac.revoked
    WHERE queue = a_queue AND until > clock_timestamp() ORDER BY until, serial
$$;

CREATE FUNCTION celeriac.ban(a_data bytea, a_keep float8, a_most integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO celeriac.bans AS b (data, until)
    VALUES (a_data, celeriac.after(a_keep))
    ON CONFLICT (data) DO UPDATE SET until = greatest(b.until, excluded.until);
    DELETE FROM celeriac.bans WHERE until <= clock_timestamp() OR data IN (
        SELECT data FROM celeriac.bans ORDER BY until DESC OFFSET a_most
    );
END $$;

CREATE FUNCTION celeriac.list_bans() RETURNS SETOF bytea LANGUAGE sql STABLE AS $$
    SELECT data FROM celeriac.bans WHERE until > clock_timestamp() ORDER BY until
$$;

-- A page of what waits before this place, the newest first: the messages with this part in them, else null.
CREATE FUNCTION celeriac.find_ready(a_queue text, a_lane integer, a_position bigint, a_limit integer, a_part bytea)
RETURNS TABLE (lane integer, "position" bigint, data bytea) LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT r.lane::integer, r.position, CASE WHEN position(a_part IN r.data) > 0 THEN r.data END FROM celeriac.ready r
    WHERE r.queue = a_queue AND (r.lane, r.position) < (a_lane, a_position)
    ORDER BY r.lane DESC, r.position DESC LIMIT a_limit
$$;

CREATE FUNCTION celeriac.find_delayed(a_queue text, a_due float8, a_position bigint, a_limit integer, a_part bytea)
RETURNS TABLE (due float8, "position" bigint, data bytea) LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT extract(epoch FROM d.due_at)::float8, d.position, CASE WHEN position(a_part IN d.data) > 0 THEN d.data END
    FROM celeriac.delayed d WHERE d.queue = a_queue AND (d.due_at, d.position) < (to_timestamp(a_due), a_position)
    ORDER BY d.due_at DESC, d.position DESC LIMIT a_limit
$$;

CREATE FUNCTION celeriac.find_held(a_queue text, a_part bytea) RETURNS SETOF bytea LANGUAGE sql STABLE AS $$
    SELECT data FROM celeriac.held WHERE queue = a_queue AND position(a_part IN data) > 0
$$;

-- ------------------------------------------------------------------------------------------------- Notices

CREATE FUNCTION celeriac.tell(a_name text, a_data bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM celeriac.notices WHERE serial = ANY (ARRAY(
        SELECT serial FROM celeriac.notices WHERE told_at < clock_timestamp() - interval '1 minute'
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
    INSERT INTO celeriac.notices (name, data, told_at) VALUES (a_name, a_data, clock_timestamp());
    PERFORM pg_notify(celeriac.channel('notice ' || a_name), '');
END $$;

-- What was told under these names within the last minute, but for what has been heard. Serials are not committed in
-- their order: a listener remembers those that it has heard.
CREATE FUNCTION celeriac.told(a_names text[], a_heard bigint[])
RETURNS TABLE (serial bigint, name text, data bytea) LANGUAGE sql STABLE AS $$
    SELECT n.serial, n.name, n.data FROM celeriac.notices n
    WHERE n.name = ANY (a_names) AND n.told_at > clock_timestamp() - interval '1 minute'
        AND n.serial NOT IN (SELECT unnest(a_heard))
    ORDER BY n.serial
$$;

-- ------------------------------------------------------------------------------------------------- Looking

CREATE FUNCTION celeriac.list_queues() RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT name FROM celeriac.queues WHERE was_sent_to UNION SELECT queue FROM celeriac.tallies WHERE was_sent_to
$$;

-- When and what falls due next.
CREATE FUNCTION celeriac.list_delayed(a_queue text, a_limit integer) RETURNS TABLE (due float8, data bytea)
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT extract(epoch FROM d.due_at)::float8, d.data FROM celeriac.delayed d
    WHERE d.queue = a_queue ORDER BY d.due_at, d.position LIMIT a_limit
$$;

-- The counters of a queue, and the key of the message that waits longest: one look at the head of each lane.
CREATE FUNCTION celeriac.stats(
    a_queue text, OUT ready bigint, OUT delayed bigint, OUT running bigint, OUT dead bigint, OUT is_paused boolean,
    OUT evicted bigint, OUT oldest bytea
) LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT coalesce(q.ready, 0) + coalesce(t.ready, 0), coalesce(q.delayed, 0) + coalesce(t.delayed, 0),
        coalesce(q.running, 0) + coalesce(t.running, 0), coalesce(q.dead, 0) + coalesce(t.dead, 0),
        coalesce(q.is_paused, false), coalesce(q.evicted, 0),
        (
            SELECT h.key FROM generate_series(-20, 1) AS l (lane) CROSS JOIN LATERAL (
                SELECT r.position, substring(r.data FROM 2 FOR 16) AS key FROM celeriac.ready r
                WHERE r.queue = a_queue AND r.lane = l.lane ORDER BY r.position LIMIT 1
            ) h ORDER BY h.position LIMIT 1
        )
    FROM (
        SELECT sum(s.ready) AS ready, sum(s.delayed) AS delayed, sum(s.running) AS running, sum(s.dead) AS dead
        FROM celeriac.tallies s WHERE s.queue = a_queue
    ) t LEFT JOIN celeriac.queues q ON q.name = a_queue
$$;

-- ------------------------------------------------------------------------------------------------- Tidying

-- When it returns, no take goes on that has not seen it.
CREATE FUNCTION celeriac.pause(a_queue text, a_paused boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(celeriac.lock_of('queue', a_queue));
    INSERT INTO celeriac.queues AS q (name, is_paused) VALUES (a_queue, a_paused)
    ON CONFLICT (name) DO UPDATE SET is_paused = excluded.is_paused;
    IF NOT a_paused THEN
        PERFORM celeriac.wake(a_queue, 1000000);
    END IF;
END $$;

CREATE FUNCTION celeriac.last_position() RETURNS bigint LANGUAGE sql AS $$
    SELECT last_value FROM celeriac.positions
$$;

-- Delete some of what waits and was sent by then. Returns how many.
CREATE FUNCTION celeriac.purge(a_queue text, a_last bigint, a_limit integer) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ready bigint;
    v_delayed bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.ready r WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid FROM celeriac.ready o WHERE o.queue = a_queue AND o.position <= a_last
            LIMIT a_limit FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) INTO v_ready FROM gone;
    WITH gone AS (
        DELETE FROM celeriac.delayed d WHERE d.ctid = ANY (ARRAY(
            SELECT o.ctid FROM celeriac.delayed o WHERE o.queue = a_queue AND o.position <= a_last
            LIMIT a_limit FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) INTO v_delayed FROM gone;
    IF v_ready + v_delayed > 0 THEN
        INSERT INTO celeriac.tallies (queue, ready, delayed) VALUES (a_queue, -v_ready, -v_delayed);
    END IF;
    RETURN v_ready + v_delayed;
END $$;

-- A page of dead letters, oldest first, from behind the one with this key; one that is not there is as null.
CREATE FUNCTION celeriac.list_dead(a_queue text, a_after bytea, a_limit integer)
RETURNS TABLE (key bytea, data bytea, reason bytea, detail bytea, died_at float8, history bytea[])
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT d.key, d.data, d.reason, d.detail, extract(epoch FROM d.died_at)::float8, coalesce(d.history, '{}')
    FROM celeriac.dead d WHERE d.queue = a_queue AND d.serial > coalesce(
        (SELECT o.serial FROM celeriac.dead o WHERE o.queue = a_queue AND o.key = a_after), 0
    ) ORDER BY d.serial LIMIT a_limit
$$;

CREATE FUNCTION celeriac.find_dead(a_queue text, a_key bytea)
RETURNS TABLE (key bytea, data bytea, reason bytea, detail bytea, died_at float8, history bytea[])
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
    SELECT d.key, d.data, d.reason, d.detail, extract(epoch FROM d.died_at)::float8, coalesce(d.history, '{}')
    FROM celeriac.dead d WHERE d.queue = a_queue AND d.key = a_key
$$;

-- Send dead letters again and forget their results, as one step. Returns how many were there.
CREATE FUNCTION celeriac.replay(a_queue text, a_keys bytea[]) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_priorities integer[];
    v_datas bytea[];
    v_keys bytea[];
    v_count integer;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.dead d WHERE d.queue = a_queue AND d.key = ANY (a_keys) RETURNING d.*
    )
    SELECT array_agg(least((1 - g.lane) / 2, 9) ORDER BY g.serial), array_agg(g.data ORDER BY g.serial),
        array_agg(substring(g.data FROM 2 FOR 16)), count(*)
    INTO v_priorities, v_datas, v_keys, v_count FROM gone g;
    IF v_count > 0 THEN
        PERFORM celeriac.store(
            array_fill(a_queue, ARRAY[v_count]), v_priorities, array_fill(NULL::float8, ARRAY[v_count]), v_datas, false
        );
        DELETE FROM celeriac.results WHERE key = ANY (v_keys);
        INSERT INTO celeriac.tallies (queue, dead) VALUES (a_queue, -v_count);
    END IF;
    RETURN v_count;
END $$;

CREATE FUNCTION celeriac.drop_dead(a_queue text, a_keys bytea[]) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.dead d WHERE d.queue = a_queue AND d.key = ANY (a_keys) RETURNING 1
    ) SELECT count(*) INTO v_count FROM gone;
    IF v_count > 0 THEN
        INSERT INTO celeriac.tallies (queue, dead) VALUES (a_queue, -v_count);
    END IF;
    RETURN v_count;
END $$;

-- Key and age in seconds of the oldest dead letters, with their serials, and how many there are in all.
CREATE FUNCTION celeriac.dead_ages(a_queue text, a_limit integer)
RETURNS TABLE (key bytea, age float8, serial bigint, count bigint) LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT d.key, extract(epoch FROM clock_timestamp() - d.died_at)::float8, d.serial,
        coalesce((SELECT q.dead FROM celeriac.queues q WHERE q.name = a_queue), 0)
            + coalesce((SELECT sum(t.dead) FROM celeriac.tallies t WHERE t.queue = a_queue), 0)::bigint
    FROM celeriac.dead d WHERE d.queue = a_queue ORDER BY d.serial LIMIT a_limit
$$;

-- Delete these dead letters, and count them as evicted.
CREATE FUNCTION celeriac.evict(a_queue text, a_serials bigint[]) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.dead d WHERE d.queue = a_queue AND d.serial = ANY (a_serials) RETURNING 1
    ) SELECT count(*) INTO v_count FROM gone;
    INSERT INTO celeriac.tallies (queue, dead) VALUES (a_queue, -v_count);
    INSERT INTO celeriac.queues AS q (name, evicted) VALUES (a_queue, v_count)
    ON CONFLICT (name) DO UPDATE SET evicted = q.evicted + excluded.evicted;
    RETURN v_count;
END $$;

-- ------------------------------------------------------------------------------------------------- Results

-- Store results, wake who waits, and now and then delete what has expired, and more of it.
CREATE FUNCTION celeriac.put(a_keys bytea[], a_datas bytea[], a_ttls float8[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
    INSERT INTO celeriac.results AS r (key, data, expires_at)
    SELECT DISTINCT ON (u.key) u.key, u.data, celeriac.after(u.ttl)
    FROM unnest(a_keys, a_datas, a_ttls) WITH ORDINALITY AS u (key, data, ttl, n) ORDER BY u.key, u.n DESC
    ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at;
    IF EXISTS (SELECT 1 FROM celeriac.watchers WHERE until > clock_timestamp()) THEN
        -- A notification holds 8,000 bytes.
        PERFORM pg_notify(celeriac.channel('results'), string_agg(encode(f.key, 'hex'), ' ')) FROM (
            SELECT u.key, (u.n - 1) / 200 AS part FROM unnest(a_keys) WITH ORDINALITY AS u (key, n)
        ) f GROUP BY f.part;
    END IF;
    IF random() * 500 < cardinality(a_keys) THEN
        PERFORM celeriac.sweep(2000);
    END IF;
END $$;

CREATE FUNCTION celeriac.sweep(a_limit integer) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.results r WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid FROM celeriac.results o WHERE o.expires_at <= clock_timestamp()
            ORDER BY o.expires_at LIMIT a_limit FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END $$;

CREATE FUNCTION celeriac.get(a_keys bytea[]) RETURNS TABLE (key bytea, data bytea) LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT r.key, r.data FROM celeriac.results r
    WHERE r.key = ANY (a_keys) AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp())
$$;

-- Those that are other than the caller has seen: each put has a version of its own.
CREATE FUNCTION celeriac.look(a_keys bytea[], a_versions bigint[])
RETURNS TABLE (key bytea, data bytea, version bigint) LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
    SELECT r.key, r.data, r.xmin::text::bigint FROM unnest(a_keys, a_versions) AS u (key, version)
    JOIN celeriac.results r ON r.key = u.key
    WHERE r.xmin::text::bigint <> u.version AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp())
$$;

-- From now on, for so many seconds, somebody of this name is to be told of results.
CREATE FUNCTION celeriac.watch(a_name text, a_seconds float8) RETURNS void LANGUAGE sql AS $$
    INSERT INTO celeriac.watchers (name, until) VALUES (a_name, celeriac.after(a_seconds))
    ON CONFLICT (name) DO UPDATE SET until = excluded.until
$$;

CREATE FUNCTION celeriac.unwatch(a_name text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM celeriac.watchers WHERE name = a_name
$$;

CREATE FUNCTION celeriac.forget(a_keys bytea[]) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    WITH gone AS (
        DELETE FROM celeriac.results r WHERE r.key = ANY (a_keys)
        RETURNING r.expires_at IS NULL OR r.expires_at > clock_timestamp() AS was_alive
    ) SELECT count(*) FILTER (WHERE was_alive) INTO v_count FROM gone;
    RETURN v_count;
END $$;

-- ------------------------------------------------------------------------------------------------- Joins

-- Open joins, but for those that are open already. a_dues: seconds from now; a_ttl: how long they are kept.
CREATE FUNCTION celeriac.open_joins(
    a_keys bytea[], a_sizes integer[], a_queues text[], a_priorities integer[], a_dues float8[], a_delays float8[],
    a_datas bytea[], a_ttl float8
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO celeriac.joins (key, size, queue, priority, due_at, delay, data, expires_at)
    SELECT u.key, u.size, u.queue, u.priority, celeriac.after(u.due), u.delay, u.data, celeriac.after(a_ttl)
    FROM unnest(a_keys, a_sizes, a_queues, a_priorities, a_dues, a_delays, a_datas)
        AS u (key, size, queue, priority, due, delay, data)
    ORDER BY u.key ON CONFLICT (key) DO NOTHING
$$;

-- The message of a join, if it is complete; by one of these places, or by its size where there are none.
CREATE FUNCTION celeriac.due_of(
    a_join celeriac.joins, a_places integer[],
    OUT queue text, OUT priority integer, OUT delay float8, OUT data bytea
) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT a_join.queue, a_join.priority::integer,
        coalesce(a_join.delay, extract(epoch FROM a_join.due_at - clock_timestamp())::float8), a_join.data
    WHERE a_join.came = a_join.size
        AND CASE WHEN a_places IS NULL THEN a_join.completed_by IS NULL ELSE a_join.completed_by = ANY (a_places) END
$$;

-- Say how many a join waits for. Its message, if they had all come.
CREATE FUNCTION celeriac.size_join(
    a_key bytea, a_size integer, OUT queue text, OUT priority integer, OUT delay float8, OUT data bytea
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    v_join celeriac.joins;
BEGIN
    UPDATE celeriac.joins SET size = a_size WHERE key = a_key RETURNING * INTO v_join;
    RETURN QUERY SELECT d.* FROM celeriac.due_of(v_join, NULL) d;
END $$;

CREATE FUNCTION celeriac.grow_join(a_key bytea) RETURNS SETOF integer LANGUAGE sql AS $$
    UPDATE celeriac.joins SET size = size + 1 WHERE key = a_key AND came < size RETURNING size - 1
$$;

-- Note results at their joins, which are locked in the order of their keys. The messages of those that are complete
-- by it; a_again: also of those that were complete by one of these before.
CREATE FUNCTION celeriac.arrive(
    a_keys bytea[], a_places integer[], a_datas bytea[], a_again boolean,
    OUT queue text, OUT priority integer, OUT delay float8, OUT data bytea, OUT n bigint
) RETURNS SETOF record LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_group record;
    v_join celeriac.joins;
    v_new integer[];
BEGIN
    FOR v_group IN
        SELECT u.key, array_agg(u.place ORDER BY u.n) AS places, array_agg(u.data ORDER BY u.n) AS datas, max(u.n) AS last
        FROM unnest(a_keys, a_places, a_datas) WITH ORDINALITY AS u (key, place, data, n) GROUP BY u.key ORDER BY u.key
    LOOP
        SELECT * INTO v_join FROM celeriac.joins j WHERE j.key = v_group.key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        WITH came AS (
            INSERT INTO celeriac.arrivals AS a (key, place, data)
            SELECT v_group.key, u.place, u.data
            FROM unnest(v_group.places, v_group.datas) WITH ORDINALITY AS u (place, data, n) ORDER BY u.n
            ON CONFLICT ON CONSTRAINT arrivals_pkey DO NOTHING RETURNING a.place
        ) SELECT array_agg(c.place ORDER BY array_position(v_group.places, c.place)) INTO v_new FROM came c;
        IF v_new IS NOT NULL THEN
            UPDATE celeriac.joins j SET
                came = j.came + cardinality(v_new),
                completed_by = CASE WHEN j.came + cardinality(v_new) >= j.size AND j.came < j.size
                    THEN v_new[j.size - j.came] END
            WHERE j.key = v_group.key RETURNING j.* INTO v_join;
        END IF;
        RETURN QUERY SELECT d.*, v_group.last
            FROM celeriac.due_of(v_join, CASE WHEN a_again THEN v_group.places ELSE coalesce(v_new, '{}') END) d;
    END LOOP;
END $$;

-- The results of a complete join, by place; null: it is not complete.
CREATE FUNCTION celeriac.gathered(a_key bytea) RETURNS SETOF bytea LANGUAGE sql STABLE AS $$
    SELECT a.data FROM celeriac.arrivals a JOIN celeriac.joins j ON j.key = a.key
    WHERE a.key = a_key AND j.came = j.size ORDER BY a.place
$$;

CREATE FUNCTION celeriac.is_complete(a_key bytea) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM celeriac.joins WHERE key = a_key AND came = size)
$$;

CREATE FUNCTION celeriac.end_joins(a_keys bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM celeriac.joins WHERE key = ANY (a_keys) ORDER BY key FOR UPDATE;
    DELETE FROM celeriac.arrivals WHERE key = ANY (a_keys);
    DELETE FROM celeriac.joins WHERE key = ANY (a_keys);
END $$;

CREATE FUNCTION celeriac.sweep_joins(a_limit integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_keys bytea[];
BEGIN
    v_keys := ARRAY(
        SELECT key FROM celeriac.joins WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT a_limit
    );
    PERFORM celeriac.end_joins(v_keys);
    RETURN cardinality(v_keys);
END $$;
