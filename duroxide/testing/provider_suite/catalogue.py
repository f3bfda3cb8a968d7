"""Which checks a provider has to pass: the 213 that providers of duroxide are known by, and more.

A test of the suite is the check whose name it has; one with another name says with `confirms` which
checks it is. `confirmed_by` tells who confirms what, so that nothing is left out unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


GROUPS: Mapping[str, Mapping[str, str]] = {
    "6.1 atomicity": {
        "test_atomicity_failure_rollback": "a turn with an event that is stored already writes nothing and stays leased",
        "test_multi_operation_atomic_ack": "one turn stores events, activities, a due timer and a message, in order",
        "test_lock_released_only_on_successful_ack": "a bogus token frees nothing",
        "test_concurrent_ack_prevention": "of two simultaneous commits with one token one is applied",
    },
    "6.2 errors": {
        "test_invalid_lock_token_on_ack": "an unknown token is answered as a lost lease",
        "test_duplicate_event_id_rejection": "an event id is written once; the first one stays",
        "test_missing_instance_metadata": "an unknown instance reads as empty",
        "test_corrupted_serialization_data": "what can't be read crashes no poll",
        "test_lock_expiration_during_ack": "a commit after the lease ended writes nothing, even if nobody took it",
    },
    "6.3 instance locking": {
        "test_exclusive_instance_lock": "a second poll sees nothing until the lease ends, then gives another token",
        "test_lock_token_uniqueness": "five leases, five tokens",
        "test_invalid_lock_token_rejection": "unknown tokens neither commit nor abandon, and harm no real lease",
        "test_concurrent_instance_fetching": "ten polls at once find ten instances",
        "test_completions_arriving_during_lock_blocked": "what arrives under a lease waits, and comes in order",
        "test_cross_instance_lock_isolation": "a leased instance blocks no other",
        "test_message_tagging_during_lock": "a turn consumes only what it was given",
        "test_ack_only_affects_locked_messages": "the same with two late messages, in order",
        "test_multi_threaded_lock_contention": "of ten polls for one instance one gets it",
        "test_multi_threaded_no_duplicate_processing": "forty polls over twenty instances take none twice",
        "test_multi_threaded_lock_expiration_recovery": "a silent holder is succeeded when his lease ends",
    },
    "6.4 lease expiry and renewal": {
        "test_lock_expires_after_timeout": "an instance comes again, and the old token is worth nothing",
        "test_abandon_releases_lock_immediately": "an abandoned turn comes at once",
        "test_lock_renewal_on_ack": "a commit frees the instance for what came meanwhile",
        "test_concurrent_lock_attempts_respect_expiration": "attempts fail until the lease ends",
        "test_worker_lock_renewal_success": "a renewed activity stays leased",
        "test_worker_lock_renewal_invalid_token": "an unknown token is reported",
        "test_worker_lock_renewal_after_expiration": "an expired one too",
        "test_worker_lock_renewal_extends_timeout": "renewed at 0.6 of its time, it is leased beyond the whole",
        "test_worker_lock_renewal_after_ack": "a finished one is reported",
        "test_abandon_work_item_releases_lock": "an abandoned activity comes at once, under another token",
        "test_abandon_work_item_with_delay": "or after the delay",
        "test_worker_ack_fails_after_lock_expiry": "a late finish is refused and the activity comes again",
        "test_orchestration_lock_renewal_after_expiration": "an expired turn is reported",
    },
    "6.5 executions": {
        "test_execution_isolation": "each has a history of its own; the newest is read",
        "test_latest_execution_detection": "the current one is the newest",
        "test_execution_id_sequencing": "1 first, then as committed",
        "test_continue_as_new_creates_new_execution": "the turn of a continue-as-new message begins the next",
        "test_execution_history_persistence": "earlier ones stay readable",
    },
    "6.6 queues": {
        "test_worker_queue_fifo_ordering": "activities come in order",
        "test_worker_peek_lock_semantics": "a leased activity is hidden, a finished one gone",
        "test_worker_ack_atomicity": "finishing deletes the row and delivers the completion",
        "test_timer_delayed_visibility": "a message with a time is not seen before",
        "test_lost_lock_token_handling": "an activity whose worker is gone comes again",
        "test_worker_item_immediate_visibility": "a new activity is there at once",
        "test_worker_delayed_visibility_skips_future_items": "a delayed one holds up none",
        "test_orphan_queue_messages_dropped": "messages to what never started can be consumed, those to what exists arrive",
    },
    "6.7 creation": {
        "test_instance_creation_via_metadata": "an instance exists from its first turn, described by it",
        "test_no_instance_creation_on_enqueue": "and not from its start message",
        "test_null_version_handling": "a start needs no version",
        "test_sub_orchestration_instance_creation": "a child is created the same way",
    },
    "6.8 management": {
        "test_list_instances": "what was created is listed",
        "test_list_instances_by_status": "and filtered",
        "test_list_executions": "oldest first",
        "test_get_instance_info": "name, version, current execution",
        "test_get_execution_info": "status, output, times",
        "test_get_system_metrics": "counts",
        "test_get_queue_depths": "depths rise and fall",
    },
    "6.9 polling": {
        "test_short_poll_returns_immediately": "a poll that may not wait returns at once",
        "test_short_poll_work_item_returns_immediately": "one for activities too",
        "test_long_poll_waits_for_timeout": "an empty poll waits as long as it may",
        "test_long_poll_work_item_waits_for_timeout": "one for activities too",
        "test_fetch_respects_timeout_upper_bound": "and not longer",
    },
    "6.10 attempt counting": {
        "orchestration_attempt_count_starts_at_one": "a first delivery is 1",
        "worker_attempt_count_starts_at_one": "of an activity too",
        "orchestration_attempt_count_increments_on_refetch": "each abandon counts",
        "worker_attempt_count_increments_on_lock_expiry": "each expiry counts",
        "attempt_count_is_per_message": "others are not affected",
        "abandon_work_item_ignore_attempt_decrements": "an uncounted abandon is taken back",
        "abandon_orchestration_item_ignore_attempt_decrements": "of a turn too",
        "ignore_attempt_never_goes_negative": "never below 1",
        "max_attempt_count_across_message_batch": "a turn reports its most delivered message",
    },
    "6.11 cancellation": {
        "test_fetch_returns_running_state_for_active_orchestration": "an activity is given whatever the state of its instance",
        "test_fetch_returns_terminal_state_when_orchestration_completed": "completed",
        "test_fetch_returns_terminal_state_when_orchestration_failed": "failed",
        "test_fetch_returns_terminal_state_when_orchestration_continued_as_new": "continued",
        "test_fetch_returns_missing_state_when_instance_deleted": "those of a deleted instance are gone with it",
        "test_renew_returns_running_when_orchestration_active": "renewal goes on as long as the row is there",
        "test_renew_returns_terminal_when_orchestration_completed": "also after the end",
        "test_renew_returns_missing_when_instance_deleted": "a deleted one is reported",
        "test_ack_work_item_none_deletes_without_enqueue": "an end without a completion sends nothing",
        "test_cancelled_activities_deleted_from_worker_queue": "cancelled ones vanish, others stay",
        "test_ack_work_item_fails_when_entry_deleted": "a cancelled one can't be finished",
        "test_renew_fails_when_entry_deleted": "nor renewed",
        "test_cancelling_nonexistent_activities_is_idempotent": "cancelling what is not there is fine",
        "test_batch_cancellation_deletes_multiple_activities": "five at once",
        "test_same_activity_in_worker_items_and_cancelled_is_noop": "scheduled and cancelled in one turn nets to nothing",
        "test_orphan_activity_after_instance_force_deletion": "a forced deletion leaves a usable queue",
    },
    "6.12 deletion": {
        "test_delete_terminal_instances": "ended ones can be deleted, with counts",
        "test_delete_running_rejected_force_succeeds": "running ones only by force",
        "test_delete_nonexistent_instance": "an unknown one is an error",
        "test_delete_cleans_queues_and_locks": "an id can be used again, without a trace of before",
        "test_cascade_delete_hierarchy": "a tree goes together or not at all",
        "test_force_delete_prevents_ack_recreation": "a turn under way brings nothing back",
        "test_list_children": "direct children",
        "test_delete_get_parent_id": "a parent, or none",
        "test_delete_get_instance_tree": "the whole tree",
        "test_delete_instances_atomic": "one running member blocks all",
        "test_delete_instances_atomic_force": "unless forced",
        "test_delete_instances_atomic_orphan_detection": "a child that is left out blocks all",
        "test_stale_activity_after_delete_recreate": "an activity of the former life answers nobody",
    },
    "6.13 pruning": {
        "test_prune_options_combinations": "the newest so many stay",
        "test_prune_safety": "the current one always stays; an unknown instance is an error",
        "test_prune_bulk": "only those listed",
        "test_prune_bulk_includes_running_instances": "running ones too",
    },
    "6.14 bulk deletion": {
        "test_delete_instance_bulk_filter_combinations": "by ids, or all that ended",
        "test_delete_instance_bulk_safety_and_limits": "running ones stay; so many at a time",
        "test_delete_instance_bulk_completed_before_filter": "older than",
        "test_delete_instance_bulk_cascades_to_children": "with their trees",
    },
    "6.15 engine versions and unreadable history": {
        "test_fetch_with_filter_none_returns_any_item": "no filter, any version",
        "test_fetch_with_compatible_filter_returns_item": "inside the range",
        "test_fetch_with_incompatible_filter_skips_item": "outside",
        "test_fetch_filter_skips_incompatible_selects_compatible": "each finds its own",
        "test_fetch_filter_does_not_lock_skipped_instances": "passing over is no lease",
        "test_fetch_filter_null_pinned_version_always_compatible": "a new instance is for all",
        "test_fetch_filter_boundary_versions": "both ends belong to a range",
        "test_pinned_version_stored_via_ack_metadata": "the first turn says the version",
        "test_pinned_version_immutable_across_ack_cycles": "later turns keep it",
        "test_continue_as_new_execution_gets_own_pinned_version": "each execution has its own",
        "test_filter_with_empty_supported_versions_returns_nothing": "no range, nothing",
        "test_concurrent_filtered_fetch_no_double_lock": "one of many gets it",
        "test_ack_stores_pinned_version_via_metadata_update": "a later turn that says one sets it",
        "test_provider_updates_pinned_version_when_told": "and may change it",
        "test_fetch_single_range_only_uses_first_range": "inverted here: all ranges count",
        "test_fetch_corrupted_history_filtered_vs_unfiltered": "outside the range nothing; inside, what can't be read is said",
        "test_fetch_deserialization_error_increments_attempt_count": "deliveries of it count",
        "test_fetch_deserialization_error_eventually_reaches_poison": "up to the limit and on",
        "test_fetch_filter_applied_before_history_deserialization": "versions are looked at first",
        "test_ack_appends_event_to_corrupted_history": "its end can be written all the same",
    },
    "6.16 sessions": {
        "test_non_session_items_fetchable_by_any_worker": "others are for anybody",
        "test_session_item_claimable_when_no_session": "the first to take one owns the session",
        "test_session_affinity_same_worker": "and gets the rest",
        "test_session_affinity_blocks_other_worker": "nobody else does",
        "test_different_sessions_different_workers": "each its own",
        "test_mixed_session_and_non_session_items": "mixed",
        "test_non_session_items_returned_with_session_config": "an owner gets others as well",
        "test_shared_worker_id_any_caller_can_fetch_owned_session": "the name owns, not the caller",
        "test_none_session_skips_session_items": "without a name no session",
        "test_some_session_returns_all_items": "with one, all in order",
        "test_session_items_processed_in_order": "in order",
        "test_session_claimable_after_lock_expiry": "an ended lease frees it",
        "test_session_takeover_after_lock_expiry": "for good",
        "test_original_worker_reclaims_expired_session": "also for its former owner",
        "test_session_lock_expires_same_worker_reacquires": "and for what comes later",
        "test_renew_session_lock_active": "renewal counts sessions",
        "test_renew_session_lock_skips_idle": "not idle ones",
        "test_renew_session_lock_no_sessions": "none, zero",
        "test_renew_session_lock_after_expiry_returns_zero": "ended ones are not revived",
        "test_session_lock_renewal_extends_past_original_timeout": "a renewed one goes on",
        "test_cleanup_removes_expired_no_items": "what nobody holds and nothing waits for is removed",
        "test_cleanup_keeps_sessions_with_pending_items": "not if something waits",
        "test_cleanup_keeps_active_sessions": "not if somebody holds it",
        "test_cleanup_then_new_item_recreates_session": "it may come again",
        "test_ack_updates_session_last_activity": "finishing is activity",
        "test_renew_work_item_updates_session_last_activity": "renewing too",
        "test_concurrent_session_claim_only_one_wins": "of two one owns it",
        "test_abandoned_session_item_retryable": "abandoned ones come again",
        "test_abandoned_session_item_ignore_attempt": "uncounted if so wished",
        "test_activity_lock_expires_session_lock_valid_same_worker_refetches": "the activity's lease may end first",
        "test_both_locks_expire_different_worker_claims": "or both",
        "test_session_lock_expires_activity_lock_valid_ack_succeeds": "or the session's",
        "test_session_lock_expires_new_owner_gets_redelivery": "then the new owner gets it",
    },
    "6.17 custom status": {
        "test_custom_status_set": "version 1",
        "test_custom_status_clear": "none, version 2",
        "test_custom_status_none_preserves": "other turns leave it",
        "test_custom_status_version_increments": "1, 2, 3",
        "test_custom_status_polling_no_change": "reading changes nothing",
        "test_custom_status_nonexistent_instance": "nobody has none",
        "test_custom_status_default_on_new_instance": "version 0",
    },
    "6.18 tags": {
        "test_default_only_fetches_untagged": "untagged ones only",
        "test_tags_fetches_only_matching": "or those of a set",
        "test_default_and_fetches_untagged_and_matching": "or both",
        "test_none_filter_returns_nothing": "or none",
        "test_any_filter_fetches_everything": "or all",
        "test_multi_tag_filter": "several tags",
        "test_tag_round_trip_preservation": "a tag is kept",
        "test_tag_survives_abandon_and_refetch": "over an abandon",
        "test_multi_runtime_tag_isolation": "workers with different filters share a queue",
        "test_tag_preserved_through_ack_orchestration_item": "also of a later turn",
    },
    "6.19 key-values": {
        "test_kv_set_and_get": "set, read",
        "test_kv_overwrite": "again",
        "test_kv_clear_single": "cleared",
        "test_kv_clear_all": "all cleared",
        "test_kv_get_nonexistent": "a key that is not there",
        "test_kv_get_unknown_instance": "of nobody",
        "test_kv_clear_nonexistent_key": "clearing nothing",
        "test_kv_set_after_clear": "in one turn, in order",
        "test_kv_empty_value": "empty is a value",
        "test_kv_large_value": "64 KB",
        "test_kv_special_chars_in_key": "any key",
        "test_kv_instance_isolation": "of one instance",
        "test_kv_clear_isolation": "also when cleared",
        "test_kv_snapshot_in_fetch": "a turn gets what there was when its execution began",
        "test_kv_snapshot_after_clear_single": "without what was cleared",
        "test_kv_snapshot_after_clear_all": "or nothing",
        "test_kv_snapshot_empty": "or nothing at all",
        "test_kv_snapshot_cross_execution": "not what this execution has set",
        "test_kv_execution_id_tracking": "executions add up",
        "test_kv_cross_execution_overwrite": "the later one wins",
        "test_kv_cross_execution_remove_readd": "removed, added again",
        "test_kv_prune_preserves_overwritten": "pruning keeps values",
        "test_kv_prune_preserves_all_keys": "all of them",
        "test_kv_prune_current_execution_protected": "also those of now",
        "test_kv_delete_instance_cascades": "deleting does not",
        "test_kv_delete_instance_with_children": "nor for children",
        "test_kv_delta_snapshot_excludes_current_execution": "what is set now is not in the snapshot",
        "test_kv_delta_snapshot_includes_completed_execution": "what was set before is",
        "test_kv_delta_client_reads_merged": "clients see both",
        "test_kv_delta_tombstone_overrides_store": "a clearing hides",
        "test_kv_delta_clear_all_tombstones_store": "also all at once",
        "test_kv_delta_merged_on_completion": "an end merges",
        "test_kv_delta_merged_on_can": "a continue-as-new too",
        "test_kv_delta_delete_instance_cascades": "deleting takes both",
        "test_kv_delta_prune_untouched_key_survives": "pruning takes neither",
    },
}
"""The 213, by the section of the specification (duroxide-runtime) that lists them."""

ADDITIONAL: Mapping[str, str] = {
    "orphans_block_nobody": "messages of any kind to an instance that does not exist hold up no other",
    "a_lost_race_finds_other_work": "losing one candidate does not mean that there is none",
    "unreadable_activity_is_counted": "an activity that can't be read is delivered and counted, up to poison",
    "unreadable_message_surfaces": "so is a message, with those that can be read",
    "storage_error_is_no_corruption": "a store that fails while it loads a history raises",
    "times_are_kept": "creation, change and end have times, by the store's clock",
    "queue_depth_is_what_is_ready": "depths leave future timers out and count what was abandoned",
    "deletion_and_progress_exclude_each_other": "whether an instance runs is judged in the transaction that deletes it",
    "bulk_deletion_spares_what_goes_on": "neither a next execution nor running descendants",
    "all_version_ranges_count": "every range, and numbers of a thousand and more",
    "abandon_touches_what_was_delivered": "and nothing that came later",
    "repeated_commit_is_recognised": "a commit whose reply was lost can be sent again",
    "pending_timers_cost_nothing": "many timers of the far future hide nothing that is due",
    "parents_and_children_end_apart": "deleting a parent while a child commits leaves no half of either",
    "callers_send_with_their_rows_or_not_at_all": "what is sent in a caller's transaction is there after its commit only",
    "clock_going_back_ends_nothing": "no lease ends, nothing comes twice",
}
"""What those leave open."""


def names() -> tuple[str, ...]:
    """Every check, in the order of the catalogue."""
    return tuple(name for group in (*GROUPS.values(), ADDITIONAL) for name in group)


def confirms(*checks: str) -> Callable[[F], F]:
    """Mark a test as being these checks.

    Raises:
        ValueError: the catalogue has no such check.
    """
    unknown = set(checks) - set(names())
    if unknown:
        raise ValueError(f"no such checks in the catalogue: {sorted(unknown)}")

    def mark(test: F) -> F:
        test.__dict__["confirms"] = checks
        return test

    return mark


def confirmed_by(suite: type) -> Mapping[str, tuple[str, ...]]:
    """For every check the tests of a suite that are it; empty if there is none."""
    found: dict[str, list[str]] = {name: [] for name in names()}
    for test in dir(suite):
        if not test.startswith("test_"):
            continue
        for name in (test, test.removeprefix("test_")):
            if name in found:
                found[name].append(test)
        for name in getattr(getattr(suite, test), "confirms", ()):
            found[name].append(test)
    return {name: tuple(tests) for name, tests in found.items()}
