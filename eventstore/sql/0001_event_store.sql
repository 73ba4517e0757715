-- The event store. Everything else that Callboard knows can be made again from these tables.
--
--   events       The log. A row is written once, and never changed.
--   commits      One row for each batch of events that was written together. It lives as long as its events: it
--                lets a writer ask whether a batch arrived whose reply it lost, and its chain of digests names
--                any event that was changed or removed behind the store's back.
--   head         One row: where the log ends. Whoever writes to the log locks it first and so waits for the
--                writers before; this is what makes positions gapless, and visible in their order.
--   blobs        Large bodies under their SHA-256, written before the event that names them. Never changed.
--   roles        The register: every role that any process has served, how many partitions its messages are
--                spread over, its agent card. Renewed at each start of a process.
--   partitions   Who owns which partition of a role, and until when. The epoch grows with each new owner.
--   members      The processes that serve a role. Each heartbeat moves `expires_at`; one that has passed is dead.
--   store        One row, made once: the name of this store, which keeps its keys apart in a shared Redis.
--
-- The database is Callboard's own: names are not qualified by a schema. Text that is compared is in collation "C",
-- so that order and equality are by bytes, on every server, and sort as they do in Python.

create table events (
    position       bigint primary key,
    recorded_at    timestamptz not null,  -- when its batch got the lock, by the server's clock; grows with position
    version        bigint not null check (version > 0),
    schema_version integer not null,
    stream         text collate "C" not null,
    type           text collate "C" not null,
    handles        text collate "C",      -- the id of the message that this event closes
    data           bytea not null,        -- JSON; as bytes it is twice as fast as jsonb, and its digest is exact
    meta           bytea not null,        -- JSON
    -- Optimistic concurrency is this index: two writers who have read the same version can't both append.
    constraint events_stream_version unique (stream, version)
);

-- A message is handled once, whoever delivers it how often.
create unique index events_handles on events (handles) where handles is not null;

create table commits (
    first       bigint primary key,       -- the positions of its first and last event
    last        bigint not null,
    recorded_at timestamptz not null,
    writer      uuid not null,            -- one incarnation of a process
    number      bigint not null,          -- counts the batches of that writer
    digest      bytea not null,           -- SHA-256 of the batch as it was sent, see eventstore/chain.py
    chain       bytea not null,           -- SHA-256 over the former commit's chain and this digest, see there
    constraint commits_writer_number unique (writer, number)
);

create table head (
    only_row    boolean primary key default true check (only_row),
    position    bigint not null,
    recorded_at timestamptz not null,
    chain       bytea not null
);
insert into head (position, recorded_at, chain) values (0, '-infinity', '');

create table blobs (
    digest     text collate "C" primary key,  -- hex
    content    bytea not null,
    created_at timestamptz not null default clock_timestamp()
);

create table roles (
    role         text collate "C" primary key,
    partitions   integer not null check (partitions > 0),
    generation   integer not null default 1,
    topics       text[] not null,
    card         bytea,                   -- JSON
    input_schema bytea                    -- JSON Schema
);

create table partitions (
    role       text collate "C" not null references roles,
    partition  integer not null,
    epoch      bigint not null default 0,
    owner      text collate "C",          -- null: free
    expires_at timestamptz,
    primary key (role, partition)
);

create table members (
    role       text collate "C" not null references roles,
    process    text collate "C" not null,
    expires_at timestamptz not null,
    primary key (role, process)
);

create table store (
    only_row   boolean primary key default true check (only_row),
    id         uuid not null default gen_random_uuid(),
    created_at timestamptz not null default clock_timestamp()
);
insert into store default values;

-- lz4 stores 20 kB prompts four times as fast as the default; not every server was built with it.
do $$
begin
    alter table events alter column data set compression lz4;
    alter table blobs alter column content set compression lz4;
exception when feature_not_supported then
    null;
end $$;
