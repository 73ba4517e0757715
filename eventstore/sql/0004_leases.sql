-- Who owns which partition. Each function is called by eventstore/leases.py; the time is this server's.

-- One heartbeat of a process for one role: it is alive for another `lease`, and so are its leases; then it takes free
-- and expired partitions up to its share. Gives all that it owns; `surplus` marks what is above its share.
--
-- Heartbeats of one role are serialised by the lock on its row, so that no two processes take the same partition.
-- A lease that has expired and that nobody has taken is renewed: it never had another owner.
create function heartbeat_role(process text, role text, lease interval)
returns table (partition integer, epoch bigint, surplus boolean) language plpgsql as $$
#variable_conflict use_column
declare
    me alias for process;
    this_role alias for role;
    total integer;
    share integer;
    owned integer;
    moment timestamptz;
begin
    select r.partitions into total from roles r where r.role = this_role for update;
    moment := clock_timestamp();

    delete from members m where m.role = this_role and m.expires_at <= moment;
    insert into members (role, process, expires_at) values (this_role, me, moment + lease)
        on conflict (role, process) do update set expires_at = excluded.expires_at;
    update partitions p set expires_at = moment + lease where p.role = this_role and p.owner = me;
    get diagnostics owned = row_count;

    -- The first processes by name get the remainder.
    select total / count(*) + (count(*) filter (where m.process < me) < total % count(*))::integer
        into share from members m where m.role = this_role;

    update partitions p set owner = me, epoch = p.epoch + 1, expires_at = moment + lease
    where p.role = this_role and p.partition in (
        select free.partition from partitions free
        where free.role = this_role and (free.owner is null or free.expires_at <= moment)
        order by free.partition limit greatest(share - owned, 0)
    );

    return query
        select p.partition, p.epoch, row_number() over (order by p.partition) > share
        from partitions p where p.role = this_role and p.owner = me
        order by p.partition;
end $$;
