-- Wait for somebody's approval, but not for ever. The first request is answered, the second one is not.
create table decisions (request int primary key, decision text not null);

select df.start(
    (df.wait_for_signal('approval', 3600) |=> 'answer')
    ~> df.if(
        'select $answer.timed_out',
        $$insert into decisions values (1, 'expired')$$,
        $$insert into decisions select 1, 'approved by ' || ($answer.data::jsonb ->> 'by')$$
    ),
    'approval of request 1'
);

select df.start(
    (df.wait_for_signal('approval', 3) |=> 'answer')
    ~> df.if(
        'select $answer.timed_out',
        $$insert into decisions values (2, 'expired')$$,
        $$insert into decisions select 2, 'approved by ' || ($answer.data::jsonb ->> 'by')$$
    ),
    'approval of request 2'
);

select df.signal(id, 'approval', '{"by": "Ada"}') from df.instances where label = 'approval of request 1';
