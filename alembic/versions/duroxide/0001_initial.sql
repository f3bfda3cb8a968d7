create table {schema}._worker_ready (sentinel boolean);
