-- Ask a partner for something, and wait until he calls back. The web service that takes his call does no more than
--     select df.signal(workflow, 'shipped', body, key)
-- where `workflow` is in the address that he was given. A call that comes before the wait is kept, and one that
-- comes twice counts once. The worker must be allowed to send the request:
--     PG_DURABLE_HTTP_MODE=allowlist PG_DURABLE_HTTP_ALLOW=partner.example.com
create table shipments (order_id int primary key, tracking text not null);

select df.start(
    df.http(
        'https://partner.example.com/{sys_instance_id}/orders',
        'POST',
        '{"order": 7, "call_back": "https://shop.example.com/shipped/{sys_instance_id}"}',
        '{"Content-Type": "application/json"}'
    )
    ~> (df.wait_for_signal('shipped', 86400) |=> 'call')
    ~> df.if(
        'select $call.timed_out',
        $$insert into shipments values (7, 'no answer')$$,
        $$insert into shipments select 7, $call.data::jsonb ->> 'tracking'$$
    ),
    'webhook call-back'
);
