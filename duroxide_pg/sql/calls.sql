-- The calls of the hot path: one round trip each.

-- name: poll_turns
select * from {schema}.poll_turns_v1(
    %(worker)s, %(nonce)s, %(want)s, %(lease_ms)s, %(low)s, %(high)s, %(cached_by)s,
    %(held_ids)s, %(held_nonces)s, %(now)s, %(try_locks)s);

-- name: commit
select * from {schema}.commit_v1(
    %(writer)s, %(seq)s, %(nonce)s, %(owner)s, %(eager_lease_ms)s, %(hook)s, %(hook_wait)s,
    %(t_instance)s, %(t_nonce)s, %(t_execution)s, %(t_first)s, %(t_last)s, %(t_events)s, %(t_key)s,
    %(t_name)s, %(t_version)s, %(t_pin)s, %(t_parent)s, %(t_status)s, %(t_output)s, %(t_keep)s,
    %(t_custom_set)s, %(t_custom)s, %(t_projection)s,
    %(c_instance)s, %(c_id)s, %(d_instance)s, %(d_reason)s,
    %(a_instance)s, %(a_execution)s, %(a_activity)s, %(a_body)s, %(a_tag)s, %(a_session)s,
    %(a_eager)s,
    %(n_instance)s, %(n_execution)s, %(n_activity)s,
    %(f_instance)s, %(f_id)s, %(f_nonce)s, %(f_turn)s,
    %(m_turn)s, %(m_finish)s, %(m_instance)s, %(m_kind)s, %(m_body)s, %(m_visible)s,
    %(m_timer_execution)s, %(m_timer)s,
    %(r_instance)s, %(r_execution)s, %(r_timer)s,
    %(k_instance)s, %(k_key)s, %(k_value)s, %(k_time)s, %(k_cleared)s,
    %(x_instance)s, %(x_nonce)s, %(x_delay)s, %(x_count)s,
    %(y_instance)s, %(y_id)s, %(y_nonce)s, %(y_delay)s, %(y_count)s,
    %(now)s);

-- name: poll_activities
select * from {schema}.poll_activities_v1(
    %(worker)s, %(nonce)s, %(want)s, %(lease_ms)s, %(tags)s, %(owner)s, %(session_lease_ms)s,
    %(max_new)s, %(now)s);

-- name: renew
select * from {schema}.renew_v1(
    %(t_instance)s, %(t_nonce)s, %(turn_lease_ms)s, %(y_instance)s, %(y_id)s, %(y_nonce)s,
    %(activity_lease_ms)s, %(now)s);

-- name: heartbeat
select {schema}.heartbeat_v1(%(y_instance)s, %(y_id)s, %(y_nonce)s, %(y_data)s, %(now)s);

-- name: renew_sessions
select {schema}.renew_sessions_v1(%(owner)s, %(lease_ms)s, %(idle_ms)s, %(now)s);

-- name: register_waiter
select {schema}.register_waiter_v1(%(waiter)s, %(topics)s, %(for_ms)s);

-- name: wake
select {schema}.wake_v1(%(waker)s, %(queues)s, %(instances)s);

-- name: idle
select * from {schema}.idle_v1(%(waiter)s, %(topics)s, %(for_ms)s);

-- name: sweep
select {schema}.sweep_v1();
