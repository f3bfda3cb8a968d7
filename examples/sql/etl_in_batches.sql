-- Move rows in batches of ten; after a crash the batch that was under way is neither lost nor doubled.
create table raw_orders (id int primary key, amount text not null, is_loaded boolean not null default false);
create table orders (id int primary key, amount numeric not null);
insert into raw_orders (id, amount) select i, (i * 1.5)::text from generate_series(1, 50) as i;

select df.start(
    df.loop(
        ($$select id from raw_orders where not is_loaded order by id limit 10$$ |=> 'batch')
        ~> $$insert into orders select id, amount::numeric from raw_orders where id = any ($batch)$$
        ~> $$update raw_orders set is_loaded = true where id = any ($batch)$$,
        $$select exists (select from raw_orders where not is_loaded)$$
    ),
    'etl in batches'
);
