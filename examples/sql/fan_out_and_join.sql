-- Three parts at the same time, and what needs all of them after that.
create table totals (part text primary key, total bigint not null);

select df.start(
    df.join3(
        $$insert into totals select 'one', sum(i) from generate_series(1, 100) as i, pg_sleep(1)$$,
        $$insert into totals select 'two', sum(i) from generate_series(101, 200) as i$$,
        $$insert into totals select 'three', sum(i) from generate_series(201, 300) as i$$
    )
    ~> $$insert into totals select 'all', sum(total) from totals$$,
    'fan-out and join'
);
