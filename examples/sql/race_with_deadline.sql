-- Give a slow statement two seconds; it is cancelled at the server, and nothing of it remains.
create table outcome (what text not null);

select df.start(
    ($$insert into outcome select 'finished' from pg_sleep(60)$$ | df.sleep(2))
    ~> $$insert into outcome values ('gave up')$$,
    'race with deadline'
);
