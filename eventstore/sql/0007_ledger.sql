-- The ledger: what model calls may cost, and do cost. protocols/ledger.py says what each entry means;
-- eventstore/ledger.py has the same rules in Python.
--
--   budgets      What people have set. One row for each scope, target, period and currency.
--   charges      One row for each attempt at a model, for good: what it has reserved, or what it has cost.
--   accounts     What a budget has spent and reserved in one window for one target: a sum of charges, kept up to date.
--                It is opened when a charge first meets it, with all that was charged in its window before.
--
-- All of it follows from the log, in the same commits, and is written under the log's lock only: so that nobody can
-- reserve what somebody else is just reserving.

create table budgets (
    id       integer primary key generated always as identity,
    scope    text collate "C" not null,   -- tenant, run, role, agent
    target   text collate "C" not null,   -- '*': each by itself
    period   text collate "C" not null,   -- run, day, month, ever
    currency text collate "C" not null,
    ceiling  numeric not null,
    over     text not null,               -- refuse, ask, wait
    constraint budgets_name unique (scope, target, period, currency)
);

create table charges (
    attempt  text collate "C" primary key,
    run      text collate "C" not null,
    role     text collate "C" not null,
    agent    text collate "C" not null,
    tenant   text collate "C",
    amount   numeric,                     -- null: not priced
    currency text collate "C",
    state    text not null,               -- held, settled, lost
    at       timestamptz not null         -- when it was reserved
);
create index charges_run on charges (run);
create index charges_role on charges (role, at);
create index charges_agent on charges (agent, at);
create index charges_tenant on charges (tenant, at) where tenant is not null;
create index charges_open on charges (at) where state <> 'settled';

create table accounts (
    budget      integer not null references budgets on delete cascade,
    target      text collate "C" not null,
    window_name text collate "C" not null, -- run:<id>, YYYY-MM-DD, YYYY-MM, ever
    spent       numeric not null default 0,
    held        numeric not null default 0,
    lost        numeric not null default 0,
    extra       numeric not null default 0,  -- top-ups
    warning     text not null default 'none',  -- none, due, given
    primary key (budget, target, window_name)
);
create index accounts_due on accounts (budget) where warning = 'due';

-- An entry as it is sent; which fields it has depends on its kind.
create type ledger_entry as (
    kind        text,     -- hold, settle, set, top up, warned, remove
    attempt     text,
    run         text,
    role        text,
    agent       text,
    tenant      text,
    amount      numeric,
    currency    text,
    beyond      boolean,
    scope       text,
    target      text,     -- the budget's
    period      text,
    over        text,
    account     text,     -- whose account
    window_name text
);

-- Why an entry is not admitted: the account without room, or, without a window, whose budget the unpriced call meets.
create type refusal as (
    scope text, target text, period text, window_name text, currency text,
    ceiling numeric, remaining numeric, needed numeric, over text
);

create function window_of(period text, run text, at timestamptz) returns text language sql immutable as $$
    select case period
        when 'run' then 'run:' || run
        when 'day' then to_char(at at time zone 'UTC', 'YYYY-MM-DD')
        when 'month' then to_char(at at time zone 'UTC', 'YYYY-MM')
        else 'ever' end
$$;

create function target_in(scope text, run text, role text, agent text, tenant text) returns text
language sql immutable as $$
    select case scope when 'run' then run when 'role' then role when 'agent' then agent else tenant end
$$;

-- The account of a budget for a window that is not over yet. If it has to be opened, all that was charged counts: what
-- was charged since the window's begin was charged in it.
create function open_account(this budgets, whose text, this_run text, moment timestamptz) returns accounts
language plpgsql as $$
declare
    this_window constant text := window_of(this.period, this_run, moment);
    since constant timestamptz := case this.period
        when 'day' then date_trunc('day', moment, 'UTC') when 'month' then date_trunc('month', moment, 'UTC')
        else '-infinity' end;
    opened accounts;
begin
    select * into opened from accounts a
        where a.budget = this.id and a.target = whose and a.window_name = this_window;
    if found then
        return opened;
    end if;
    insert into accounts (budget, target, window_name, spent, held, lost, warning)
    select this.id, whose, this_window, sums.spent, sums.held, sums.lost,
           case when (sums.spent + sums.held + sums.lost) * 5 > this.ceiling * 4 then 'due' else 'none' end
    from (
        select coalesce(sum(c.amount) filter (where c.state = 'settled'), 0) as spent,
               coalesce(sum(c.amount) filter (where c.state = 'held'), 0) as held,
               coalesce(sum(c.amount) filter (where c.state = 'lost'), 0) as lost
        from (
            -- of these five one has rows, and an index for it
            select * from charges where this.period = 'run' and run = this_run
                and target_in(this.scope, run, role, agent, tenant) = whose
            union all
            select * from charges where this.period <> 'run' and this.scope = 'run' and run = whose and at >= since
            union all
            select * from charges where this.period <> 'run' and this.scope = 'role' and role = whose and at >= since
            union all
            select * from charges where this.period <> 'run' and this.scope = 'agent' and agent = whose and at >= since
            union all
            select * from charges
                where this.period <> 'run' and this.scope = 'tenant' and tenant = whose and at >= since
        ) c
        where c.currency = this.currency
    ) sums
    returning * into opened;
    return opened;
end $$;

-- Add a charge to the accounts that there are of its budgets, or, with sign -1, take it out.
create function count_charge(charge charges, sign integer) returns void language plpgsql as $$
begin
    if charge.amount is null then
        return;
    end if;
    update accounts a set
        held = a.held + case when charge.state = 'held' then sign * charge.amount else 0 end,
        spent = a.spent + case when charge.state = 'settled' then sign * charge.amount else 0 end,
        lost = a.lost + case when charge.state = 'lost' then sign * charge.amount else 0 end,
        warning = case
            when a.warning = 'none'
                and (a.held + a.spent + a.lost + sign * charge.amount) * 5 > (b.ceiling + a.extra) * 4
            then 'due' else a.warning end
    from budgets b
    where a.budget = b.id and b.currency = charge.currency
        and a.target = target_in(b.scope, charge.run, charge.role, charge.agent, charge.tenant)
        and b.target in (a.target, '*')
        and a.window_name = window_of(b.period, charge.run, charge.at);
end $$;

-- Reserve what an attempt may cost; gives null, or why not. The strictest budget without room says so, and of these
-- the one with the least left.
create function hold_charge(entry ledger_entry, moment timestamptz) returns refusal language plpgsql as $$
declare
    charge charges;
    applying budgets;
    account accounts;
    whose text;
    rest numeric;
    rank integer;
    least numeric;
    strictest integer;
    refused refusal;
begin
    perform from charges c where c.attempt = entry.attempt;
    if found then
        return null;
    end if;
    for applying in
        select b.* from budgets b
        where b.target in (target_in(b.scope, entry.run, entry.role, entry.agent, entry.tenant), '*')
            and target_in(b.scope, entry.run, entry.role, entry.agent, entry.tenant) is not null
        order by b.scope, b.target, b.period, b.currency
    loop
        whose := target_in(applying.scope, entry.run, entry.role, entry.agent, entry.tenant);
        if entry.amount is null then
            if not entry.beyond then
                return row(applying.scope, whose, null, null, null, null, null, null, null)::refusal;
            end if;
        elsif applying.currency = entry.currency then
            account := open_account(applying, whose, entry.run, moment);
            rest := applying.ceiling + account.extra - account.spent - account.held - account.lost;
            rank := array_position(array['refuse', 'ask', 'wait'], applying.over);
            if rest < entry.amount and not entry.beyond
                and (strictest is null or (rank, rest) < (strictest, least))
            then
                strictest := rank;
                least := rest;
                refused := row(
                    applying.scope, whose, applying.period, account.window_name, applying.currency,
                    applying.ceiling + account.extra, rest, entry.amount, applying.over
                )::refusal;
            end if;
        end if;
    end loop;
    if strictest is not null then
        return refused;
    end if;
    insert into charges (attempt, run, role, agent, tenant, amount, currency, state, at)
        values (entry.attempt, entry.run, entry.role, entry.agent, entry.tenant, entry.amount, entry.currency, 'held', moment)
        returning * into charge;
    perform count_charge(charge, 1);
    return null;
end $$;

create function settle_charge(entry ledger_entry) returns void language plpgsql as $$
declare
    charge charges;
begin
    select * into charge from charges c where c.attempt = entry.attempt;
    if not found or charge.state = 'settled' or (charge.state = 'lost' and entry.amount is null) then
        return;
    end if;
    perform count_charge(charge, -1);
    update charges c set
        state = case when entry.amount is null then 'lost' else 'settled' end,
        amount = coalesce(entry.amount, c.amount),
        currency = coalesce(entry.currency, c.currency)
    where c.attempt = entry.attempt returning * into charge;
    perform count_charge(charge, 1);
end $$;

-- Apply an entry; gives null, or why it is not admitted.
create function charge_entry(entry ledger_entry, moment timestamptz) returns refusal language plpgsql as $$
declare
    this budgets;
begin
    if entry.kind = 'hold' then
        return hold_charge(entry, moment);
    elsif entry.kind = 'settle' then
        perform settle_charge(entry);
        return null;
    elsif entry.kind = 'set' then
        insert into budgets (scope, target, period, currency, ceiling, over)
            values (entry.scope, entry.target, entry.period, entry.currency, entry.amount, entry.over)
            on conflict on constraint budgets_name do update set ceiling = excluded.ceiling, over = excluded.over
            returning * into this;
        update accounts a set warning = 'due'
            where a.budget = this.id and a.warning = 'none'
            and (a.held + a.spent + a.lost) * 5 > (this.ceiling + a.extra) * 4;
        if this.target <> '*' and (this.period <> 'run' or this.scope = 'run') then
            perform open_account(this, this.target, this.target, moment);
        end if;
        return null;
    end if;
    select * into this from budgets b
        where b.scope = entry.scope and b.target = entry.target and b.period = entry.period
        and b.currency = entry.currency;
    if not found then
        return null;
    elsif entry.kind = 'top up' then
        perform open_account(this, entry.account, entry.run, moment);
        update accounts a set extra = a.extra + entry.amount
            where a.budget = this.id and a.target = entry.account
            and a.window_name = window_of(this.period, entry.run, moment);
    elsif entry.kind = 'warned' then
        update accounts a set warning = 'given'
            where a.budget = this.id and a.target = entry.account and a.window_name = entry.window_name;
    elsif entry.kind = 'remove' then
        delete from budgets b where b.id = this.id;
    end if;
    return null;
end $$;

-- Apply what one append means, all or none; gives null, or why it is not admitted.
create function charge_append(entries ledger_entry[], moment timestamptz) returns refusal language plpgsql
set enable_seqscan = off
as $$
declare
    entry ledger_entry;
    refused refusal;
begin
    foreach entry in array entries loop
        refused := charge_entry(entry, moment);
        if not (refused is null) then  -- of a row, "is not null" means that no field is
            raise exception using errcode = 'CB001';
        end if;
    end loop;
    return null;
exception when sqlstate 'CB001' then  -- what was applied is undone
    return refused;
end $$;

-- Apply entries that stand in the log, each at its time: all of them were admitted then.
create function replay_ledger(entries ledger_entry[], moments timestamptz[]) returns void language plpgsql
set enable_seqscan = off
as $$
declare
    entry ledger_entry;
begin
    for n in 1 .. cardinality(entries) loop
        entry := entries[n];
        entry.beyond := true;
        perform charge_entry(entry, moments[n]);
    end loop;
end $$;

-- Write one batch, all or none, and give its first position and its time. `expected_*` are streams, and versions above 0
-- that they must have reached. `entries` is what the batch means for the ledger, unless that is applied already, at
-- the time `applied_at`.
--
-- Raises unique_violation if the batch can't be written as it is: a version is taken, the version before is missing,
-- a message is handled already, the ledger doesn't admit an entry, or this batch is in the log already.
drop function append_batch(uuid, bigint, bytea, new_event[], text[], bigint[]);
create function append_batch(
    writer uuid, number bigint, digest bytea, batch new_event[], expected_streams text[], expected_versions bigint[],
    entries ledger_entry[] default '{}', applied_at timestamptz default null,
    out first_position bigint, out moment timestamptz
) language plpgsql
-- Its plans are made while the log is small, and are kept while it grows.
set enable_seqscan = off
as $$
declare
    count constant bigint := cardinality(batch);
    new_head head;
    entry ledger_entry;
begin
    -- The lock. Whoever waits for it computes anew, on what the writer before has left: so recorded_at is the time
    -- after the wait, and chain continues the newest one.
    update head set
        position = position + count,
        recorded_at = coalesce(applied_at, greatest(recorded_at, clock_timestamp())),
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

    foreach entry in array entries loop  -- mostly there is none
        if not (charge_entry(entry, moment) is null) then
            raise unique_violation using message = 'the ledger does not admit an entry';
        end if;
    end loop;

    insert into commits (first, last, recorded_at, writer, number, digest, chain)
    values (first_position, new_head.position, new_head.recorded_at, writer, number, digest, new_head.chain);
end $$;
