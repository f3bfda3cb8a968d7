-- Write a report at the next full minute. With df.loop around it, one every minute.
create table sales (amount int not null);
create table reports (total bigint not null, written_at timestamptz not null default now());
insert into sales values (20), (22);

select df.start(
    df.wait_for_schedule('* * * * *')
    ~> 'insert into reports (total) select sum(amount) from sales',
    'scheduled report'
);
