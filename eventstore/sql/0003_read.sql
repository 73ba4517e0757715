-- Reading the log. Functions, because a connection keeps a plan once it has one: a plan from a day when the log was
-- small, which scans all of it, would read a large log page by page in that way.

create function read_log(after bigint, upto bigint) returns setof events language plpgsql stable
set enable_seqscan = off
as $$
begin
    return query select * from events where position > after and position <= upto order by position;
end $$;

create function read_stream(name text, after bigint, before bigint, page bigint) returns setof events
language plpgsql stable
set enable_seqscan = off
as $$
begin
    return query
        select * from events where stream = name and version > after and version < before order by version limit page;
end $$;

create function read_stream_backwards(name text, after bigint, before bigint, page bigint) returns setof events
language plpgsql stable
set enable_seqscan = off
as $$
begin
    return query
        select * from events where stream = name and version > after and version < before
        order by version desc limit page;
end $$;
