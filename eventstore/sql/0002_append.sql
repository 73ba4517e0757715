-- Writing to the log. Each function is called by eventstore/appender.py.

-- Wait for the writers before, and learn where the log ends. It is a statement of its own on purpose: what is read
-- together with taking a lock is read as of before the wait.
--
-- A writer that vanishes in a transaction of several statements must not hold the log for longer than 10 s.
create function lock_log() returns head language plpgsql as $$
declare
    former head;
begin
    select * into strict former from head where only_row for update;
    perform set_config('idle_in_transaction_session_timeout', '10s', true);
    perform set_config('enable_seqscan', 'off', true);  -- plans made on a small log are kept while it grows
    return former;
end $$;

-- An event as it is sent to append_batch.
create type new_event as (
    stream text, version bigint, type text, schema_version integer, data bytea, meta bytea, handles text
);

-- Write one batch, all or none, and give its first position and its time. `expected_*` are streams, and versions above 0 that they
-- must have reached.
--
-- Raises unique_violation if any event can't be appended where it says: its version is taken, the version before
-- is missing, its message is handled already, or this batch is in the log already.
create function append_batch(
    writer uuid, number bigint, digest bytea, batch new_event[], expected_streams text[], expected_versions bigint[],
    out first_position bigint, out moment timestamptz
) language plpgsql
-- Its plans are made while the log is small, and are kept while it grows.
set enable_seqscan = off
as $$
declare
    count constant bigint := cardinality(batch);
    new_head head;
begin
    -- The lock. Whoever waits for it computes anew, on what the writer before has left: so recorded_at is the time
    -- after the wait, and chain continues the newest one.
    update head set
        position = position + count,
        recorded_at = greatest(recorded_at, clock_timestamp()),
        chain = sha256(chain || timestamptz_send(recorded_at) || int8send(position + 1) || digest)
    where only_row returning * into strict new_head;
    first_position := new_head.position - count + 1;
    moment := new_head.recorded_at;

    insert into events (position, recorded_at, stream, version, type, schema_version, data, meta, handles)
    select first_position + row.n - 1, new_head.recorded_at, row.stream, row.version, row.type, row.schema_version, row.data,
           row.meta, row.handles
    from unnest(batch) with ordinality as row (stream, version, type, schema_version, data, meta, handles, n);

    if cardinality(expected_streams) > 0 then  -- mostly it is not
        if exists (
            select from unnest(expected_streams, expected_versions) as expected (stream, version)
            where (select true from events e where e.stream = expected.stream and e.version = expected.version) is null
        ) then
            raise unique_violation using message = 'an expected version is ahead of its stream';
        end if;
    end if;

    insert into commits (first, last, recorded_at, writer, number, digest, chain)
    values (first_position, new_head.position, new_head.recorded_at, writer, number, digest, new_head.chain);
end $$;
