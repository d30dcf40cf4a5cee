-- Who runs executions, what submits them again and again, and what all processes share.

CREATE TABLE workers (
    id text COLLATE "C" NOT NULL,
    capacity text NOT NULL,
    slots integer NOT NULL,
    kinds text NOT NULL,
    state text COLLATE "C" NOT NULL,
    started_at double precision NOT NULL,
    lease_until double precision NOT NULL,
    host text NOT NULL,
    running integer NOT NULL,
    reserved_cpu_cores double precision NOT NULL,
    reserved_memory_mb bigint NOT NULL,
    reserved_network_mbps bigint NOT NULL,
    reserved_gpus bigint NOT NULL,
    reserved_storage_mb bigint NOT NULL,
    CONSTRAINT workers_pkey PRIMARY KEY (id)
) WITH (fillfactor = 20); -- few rows that change all the time: their versions stay on one page
CREATE INDEX workers_active ON workers (started_at, id) WHERE state = 'active';

CREATE TABLE schedules (
    id text COLLATE "C" NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    work text NOT NULL,
    next_at double precision,
    created_at double precision NOT NULL,
    last_at double precision,
    last_execution_id text,
    paused smallint NOT NULL,
    CONSTRAINT schedules_pkey PRIMARY KEY (id)
);

CREATE TABLE batches (
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    created_at double precision NOT NULL,
    size integer NOT NULL,
    opens_at double precision,
    closes_at double precision,
    CONSTRAINT batches_pkey PRIMARY KEY (id)
);
CREATE INDEX batches_created ON batches (created_at, id);

CREATE TABLE settings (
    name text COLLATE "C" NOT NULL,
    value text NOT NULL,
    CONSTRAINT settings_pkey PRIMARY KEY (name)
);
