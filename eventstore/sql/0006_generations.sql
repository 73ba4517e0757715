-- A role's messages spread over another number of partitions, and what becomes known of owners and processes.
--
-- roles says which number of partitions, and which generation of them, there should be; the rows of `partitions` say
-- which there are. All rows of a role are of one generation. They are replaced when nobody owns one of them any more,
-- so that no key is in two partitions at once. New ones begin at the highest epoch of the former ones: epochs never
-- fall.

alter table partitions
    add column generation integer not null default 1,
    add column clean      boolean not null default true;  -- owned: the owner before gave it back, or there was none
                                                          -- free: the same of its last owner
update partitions p set generation = r.generation from roles r where r.role = p.role;

alter table members
    add column joined_at     timestamptz not null default clock_timestamp(),  -- since then no heartbeat was missed
    add column progress      bigint not null default 0,  -- as its last heartbeat told
    add column progressed_at timestamptz not null default clock_timestamp();  -- when that was another number

-- Replace the partitions of a former generation, if nobody owns one of them. The role's row must be locked.
--
-- A partition of the former generation whose owner was lost makes all new ones unclean: its keys may be in any.
create function begin_generation(role text, moment timestamptz) returns void language plpgsql as $$
#variable_conflict use_column
declare
    this_role alias for role;
    wanted roles;
    highest_epoch bigint;
    all_clean boolean;
begin
    select * into strict wanted from roles r where r.role = this_role;
    select max(p.epoch), bool_and(p.owner is null and p.clean) into highest_epoch, all_clean
        from partitions p where p.role = this_role and p.generation < wanted.generation
        having not bool_or(p.owner is not null and p.expires_at > moment);
    if highest_epoch is null then
        return;
    end if;
    delete from partitions p where p.role = this_role;
    insert into partitions (role, partition, epoch, generation, clean)
        select this_role, n, highest_epoch, wanted.generation, all_clean
        from generate_series(0, wanted.partitions - 1) n;
end $$;

-- The number of partitions that a role should have. Nothing happens if it is that already, or the role is unknown.
create function repartition_role(role text, partitions integer) returns void language plpgsql as $$
#variable_conflict use_column
declare
    this_role alias for role;
    number alias for partitions;
begin
    update roles r set partitions = number, generation = r.generation + 1
        where r.role = this_role and r.partitions <> number;
    if found then
        perform begin_generation(this_role, clock_timestamp());
    end if;
end $$;

-- One heartbeat of a process for one role: it is alive for another `lease`, and so are its leases; then it takes free
-- and expired partitions up to its share. Gives all that it owns; `surplus` marks what is above its share. While
-- partitions of a former generation are owned, its share is none.
--
-- Heartbeats of one role are serialised by the lock on its row, so that no two processes take the same partition.
-- A lease that has expired and that nobody has taken is renewed: it never had another owner.
--
-- What expired while this process was not heard of either may have expired because this server was away. Whoever comes
-- back first then leaves it to its owner for one lease.
drop function heartbeat_role(text, text, interval);
create function heartbeat_role(process text, role text, lease interval, progress bigint default 0)
returns table (
    partition integer, epoch bigint, surplus boolean, partitions integer, generation integer, clean boolean
) language plpgsql as $$
#variable_conflict use_column
declare
    me alias for process;
    this_role alias for role;
    now_at alias for progress;
    wanted roles;
    there integer;  -- how many partitions, of which generation
    present integer;
    share integer := 0;
    owned integer;
    here_since timestamptz;
    moment timestamptz;
begin
    select * into wanted from roles r where r.role = this_role for update;
    if not found then
        return;
    end if;
    moment := clock_timestamp();

    delete from members m where m.role = this_role and m.process <> me and m.expires_at <= moment;
    insert into members as m (role, process, expires_at, joined_at, progress, progressed_at)
        values (this_role, me, moment + lease, moment, now_at, moment)
        on conflict (role, process) do update set
            expires_at = excluded.expires_at,
            joined_at = case when m.expires_at <= moment then moment else m.joined_at end,
            progress = excluded.progress,
            progressed_at = case when m.progress = excluded.progress then m.progressed_at else moment end
        returning joined_at into here_since;
    update partitions p set expires_at = moment + lease where p.role = this_role and p.owner = me;
    get diagnostics owned = row_count;

    perform begin_generation(this_role, moment);
    select count(*), max(p.generation) into there, present from partitions p where p.role = this_role;
    if present = wanted.generation then
        -- The first processes by name get the remainder.
        select there / count(*) + (count(*) filter (where m.process < me) < there % count(*))::integer
            into share from members m where m.role = this_role;
    end if;

    update partitions p
        set owner = me, epoch = p.epoch + 1, expires_at = moment + lease, clean = p.owner is null and p.clean
        where p.role = this_role and p.partition in (
            select free.partition from partitions free
            where free.role = this_role and (
                free.owner is null
                or free.expires_at <= moment and (here_since <= free.expires_at or here_since + lease <= moment)
            )
            order by free.partition limit greatest(share - owned, 0)
        );

    return query
        select p.partition, p.epoch, row_number() over (order by p.partition) > share, there, present, p.clean
        from partitions p where p.role = this_role and p.owner = me
        order by p.partition;
end $$;
