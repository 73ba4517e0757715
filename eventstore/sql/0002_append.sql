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
    return former;
end $$;

-- Write one batch, all or none, and give its first position. The arrays have one element for each event.
-- `expected_*` are the streams, and the versions above 0, that the batch's appends expect.
--
-- Raises unique_violation if any event can't be appended where it says: its version is taken, the version before
-- is missing, its message is handled already, or this batch is in the log already.
create function append_batch(
    writer uuid, number bigint, digest bytea,
    streams text[], versions bigint[], types text[], schema_versions integer[], datas bytea[], metas bytea[],
    handles text[],
    expected_streams text[], expected_versions bigint[]
) returns bigint language plpgsql
-- Its plans are made while the log is small and are kept while it grows.
set enable_seqscan = off
set jit = off
as $$
declare
    former head;
    written timestamptz;
    new_chain bytea;
    count constant bigint := cardinality(streams);
begin
    select * into strict former from head where only_row for update;
    written := greatest(clock_timestamp(), former.recorded_at);
    new_chain := sha256(former.chain || digest || int8send(former.position + 1) || timestamptz_send(written));

    insert into events (position, recorded_at, stream, version, type, schema_version, data, meta, handles)
    select former.position + row.n, written, row.stream, row.version, row.type, row.schema_version, row.data, row.meta,
           row.handles
    from unnest(streams, versions, types, schema_versions, datas, metas, handles)
         with ordinality as row (stream, version, type, schema_version, data, meta, handles, n);

    if exists (
        select from unnest(expected_streams, expected_versions) as expected (stream, version)
        where (select true from events e where e.stream = expected.stream and e.version = expected.version) is null
    ) then
        raise unique_violation using message = 'an expected version is ahead of its stream';
    end if;

    insert into commits (first, last, recorded_at, writer, number, digest, chain)
    values (former.position + 1, former.position + count, written, writer, number, digest, new_chain);

    update head set position = former.position + count, recorded_at = written, chain = new_chain where only_row;

    return former.position + 1;
end $$;
