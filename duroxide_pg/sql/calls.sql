-- The calls of the hot path: one round trip each.

-- name: poll_turns
select * from {schema}.poll_turns_v1(
    %(worker)s, %(nonce)s, %(want)s, %(lease_ms)s, %(low)b, %(high)b, %(cached_by)s,
    %(held_ids)b, %(held_nonces)b, %(now)s);

-- name: commit
select * from {schema}.commit_v1(
    %(writer)s, %(seq)s, %(nonce)s, %(owner)s, %(eager_lease_ms)s, %(hook)s, %(hook_wait)s,
    %(t_instance)b, %(t_nonce)b, %(t_execution)b, %(t_first)b, %(t_last)b, %(t_events)b, %(t_key)b,
    %(t_name)b, %(t_version)b, %(t_pin)b, %(t_parent)b, %(t_status)b, %(t_output)b, %(t_keep)b,
    %(t_custom_set)b, %(t_custom)b, %(t_projection)b,
    %(c_instance)b, %(c_id)b,
    %(a_instance)b, %(a_execution)b, %(a_activity)b, %(a_body)b, %(a_tag)b, %(a_session)b,
    %(a_eager)b,
    %(n_instance)b, %(n_execution)b, %(n_activity)b,
    %(f_instance)b, %(f_id)b, %(f_nonce)b, %(f_turn)b,
    %(m_turn)b, %(m_finish)b, %(m_instance)b, %(m_kind)b, %(m_body)b, %(m_visible)b,
    %(m_timer_execution)b, %(m_timer)b,
    %(r_instance)b, %(r_execution)b, %(r_timer)b,
    %(k_instance)b, %(k_key)b, %(k_value)b, %(k_time)b, %(k_cleared)b,
    %(x_instance)b, %(x_nonce)b, %(x_delay)b, %(x_count)b,
    %(y_instance)b, %(y_id)b, %(y_nonce)b, %(y_delay)b, %(y_count)b,
    %(now)s);

-- name: poll_activities
select * from {schema}.poll_activities_v1(
    %(worker)s, %(nonce)s, %(want)s, %(lease_ms)s, %(tags)b, %(owner)s, %(session_lease_ms)s,
    %(max_new)s, %(now)s);

-- name: renew
select * from {schema}.renew_v1(
    %(t_instance)b, %(t_nonce)b, %(turn_lease_ms)s, %(y_instance)b, %(y_id)b, %(y_nonce)b,
    %(activity_lease_ms)s, %(now)s);

-- name: renew_sessions
select {schema}.renew_sessions_v1(%(owner)s, %(lease_ms)s, %(idle_ms)s, %(now)s);

-- name: register_waiter
select {schema}.register_waiter_v1(%(waiter)s, %(topics)b, %(for_ms)s);

-- name: wake
select {schema}.wake_v1(%(waker)s, %(queues)b, %(instances)b);

-- name: idle
select * from {schema}.idle_v1(%(waiter)s, %(topics)b, %(for_ms)s);

-- name: sweep
select {schema}.sweep_v1();
