ALTER ROLE postgres PASSWORD '{superuser}';
ALTER ROLE durable PASSWORD '{application}';
