-- For people with an SQL prompt: the log with its JSON readable.

-- JSON bytes as jsonb. The character NUL is legal in JSON and not in jsonb: it shows as the replacement character.
create function as_jsonb(content bytea) returns jsonb language sql immutable strict parallel safe as
$$ select replace(convert_from(content, 'UTF8'), '\u0000', '\ufffd')::jsonb $$;

create view event_log as
select position, stream, version, type, schema_version, recorded_at, handles,
       as_jsonb(data) as data, as_jsonb(meta) as meta
from events;
