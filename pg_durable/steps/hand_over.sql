-- What DISCARD ALL does, but for the plans: they hold nothing of whoever was here before, the server
-- replaces those that no longer hold, and without them the functions that record a step would be planned
-- anew for every step, which takes longer than the step.
close all;
set session authorization default;
reset all;
deallocate all;
unlisten *;
select pg_catalog.pg_advisory_unlock_all();
discard temp;
discard sequences;
