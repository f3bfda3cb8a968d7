-- Nobody but the owner; scripts of anybody may wait for _worker_ready.
revoke all on all tables in schema {schema} from public;
revoke all on all functions in schema {schema} from public;
grant usage on schema {schema} to public;
grant select on {schema}._worker_ready to public;
insert into {schema}._worker_ready (schema_version) values (1);
