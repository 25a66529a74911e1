-- Version 3: which queues have copies of what is sent to a broadcast.
CREATE TABLE celeriac.subscriptions (
    broadcast text NOT NULL,
    queue text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (broadcast, queue)
) WITH (fillfactor = 50);
ALTER TABLE celeriac.subscriptions SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE FUNCTION celeriac.subscribe(a_broadcast text, a_queue text, a_keep float8) RETURNS void LANGUAGE sql AS $$
    INSERT INTO celeriac.subscriptions (broadcast, queue, until)
    VALUES (a_broadcast, a_queue, celeriac.after(a_keep))
    ON CONFLICT (broadcast, queue) DO UPDATE SET until = excluded.until
$$;

CREATE FUNCTION celeriac.subscribers(a_broadcast text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT s.queue FROM celeriac.subscriptions s WHERE s.broadcast = a_broadcast AND s.until > clock_timestamp()
$$;

-- Delete the queues whose time has been over for so many seconds, with all that is in them. Returns their names.
CREATE FUNCTION celeriac.forget_lapsed(a_broadcast text, a_grace float8) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    v_queue text;
BEGIN
    FOR v_queue IN
        DELETE FROM celeriac.subscriptions s WHERE s.broadcast = a_broadcast AND s.until <= celeriac.after(-a_grace)
        RETURNING s.queue
    LOOP
        DELETE FROM celeriac.ready t WHERE t.queue = v_queue;
        DELETE FROM celeriac.delayed t WHERE t.queue = v_queue;
        DELETE FROM celeriac.held t WHERE t.queue = v_queue;
        DELETE FROM celeriac.dead t WHERE t.queue = v_queue;
        DELETE FROM celeriac.revoked t WHERE t.queue = v_queue;
        DELETE FROM celeriac.waiters t WHERE t.queue = v_queue;
        DELETE FROM celeriac.tallies t WHERE t.queue = v_queue;
        DELETE FROM celeriac.queues t WHERE t.name = v_queue;
        RETURN NEXT v_queue;
    END LOOP;
END $$;
