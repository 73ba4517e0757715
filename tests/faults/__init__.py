"""The torture suite: processes that die, servers that go away, replies that get lost; and the proof after each.

    stage.py       one scenario: processes (troupe.py, process.py), servers of its own (servers.py), a proxy (proxy.py),
                   a payment server (payments.py), and the roles that they play (crew.py)
    checker.py     what the log has to show after each scenario; tests/specs/test_fault_checker.py holds the checker
    rest.py        what Redis and the projections have to show

A scenario prints what it did and counted (`pytest -s`), and the seed that repeats its choices: CALLBOARD_FAULT_SEED.
`--long` runs each at its full size.

The rules of delivery and recovery, each with a test that fails without it:

     1  a takeover raises the epoch and      tests/contracts/test_bus.py: test_a_former_owner_settles_nothing
        begins a new group
     2  what is lost is looked for, by       test_recovery.py: test_what_the_bus_lost_comes_before_what_it_has,
        what neither bus nor memory has      test_a_backlog_is_not_taken_for_lost
     3  whoever takes a task up says so      tests/integration/test_host.py: test_a_stalled_former_owner_is_refused;
        first; then the former is refused    test_time.py: test_a_process_that_stood_still_...
     4  attempts are counted in the log,     test_poison.py: test_a_handler_that_kills_its_process_...;
        and claimed before they run          tests/specs/test_actor_recovery.py:
                                             test_a_message_that_another_process_handled_is_settled_and_nothing_runs
     5  projections reach the head before    test_recovery.py: test_no_partition_is_served_before_the_projections_...
        a partition is served
     6  a message's body is read from the    tests/specs/test_actor_named.py:
        log where it is not at hand          test_the_bodies_of_queued_tasks_are_not_kept_in_memory
     7  a message is handled once            tests/contracts/test_eventstore.py: test_a_message_is_handled_once
     8  late answers are closed              tests/specs/test_actor_questions.py: test_a_late_answer_is_discarded
     9  order after a loss of Redis          test_recovery.py: test_what_the_bus_lost_comes_before_what_it_has;
                                             test_redis.py: test_order_within_an_actor_holds_when_redis_refuses_...
    10  a queue takes no slot, and no        tests/specs/test_actor_named.py:
        bodies                               test_a_queue_behind_a_busy_actor_takes_no_slot,
                                             test_the_bodies_of_queued_tasks_are_not_kept_in_memory
    11  one append of an actor in flight     tests/specs/test_actor_journal.py: test_one_append_is_in_flight_at_a_time
    12  a lost reply to a commit             tests/integration/test_appender.py:
                                             test_a_lost_reply_neither_loses_nor_doubles
    13  a poison append fails alone          tests/integration/test_appender.py:
                                             test_only_the_culprit_of_a_batch_is_refused_when_the_server_finds_it
    14  passivation loses nothing            tests/specs/test_actor_passivation.py; tests/specs/test_actor_waits.py:
                                             test_a_context_can_not_be_used_after_its_actor_was_dropped
    15  a former count of partitions is      tests/contracts/test_leases.py:
        drained first                        test_new_partitions_are_given_when_no_former_one_is_owned;
                                             test_restarts.py: test_partitions_are_counted_anew_...
    16  recorded_at is taken under the lock  tests/integration/test_appender.py: test_two_processes_make_one_order
    17  a read is bounded by what is free    tests/integration/test_bus_redis.py:
                                             test_no_more_is_read_than_there_is_capacity_for
"""
