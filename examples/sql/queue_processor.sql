-- Work through a table of jobs, one after the other, until none is left.
create table jobs (id int primary key, payload int not null, answer int);
insert into jobs select i, i from generate_series(1, 5) as i;

select df.start(
    df.loop(
        ($$select id from jobs where answer is null order by id limit 1$$ |=> 'job')
        ~> df.if_rows(
            'job',
            'update jobs set answer = payload * payload where id = $job',
            df.break('the queue is empty')
        )
    ),
    'queue processor'
);
