-- Executions and all that is kept of them. Text that is compared or ordered has the collation "C": ids are
-- ordered by time, byte by byte, whatever the database's own language. There are no foreign keys: every
-- writer goes through the store, and a check per event would cost as much as the event.

CREATE TABLE executions (
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    control text COLLATE "C" NOT NULL,
    submitted_at double precision NOT NULL,
    mode text,
    idempotency_key text COLLATE "C",
    batch_id text COLLATE "C",
    parent_id text COLLATE "C",
    schedule_id text COLLATE "C",
    labels jsonb NOT NULL,
    traceparent text NOT NULL,
    priority text NOT NULL,
    service_class text COLLATE "C" NOT NULL,
    terms text NOT NULL,
    -- what indexes look at
    status text COLLATE "C" NOT NULL,
    rank bigint NOT NULL,
    due_at double precision,
    worker_id text COLLATE "C" NOT NULL,
    ended_at double precision,
    flags text NOT NULL,
    -- the rest that moves
    reason text NOT NULL,
    queued_at double precision,
    started_at double precision,
    attempt_at double precision,
    token bigint NOT NULL,
    granted text NOT NULL,
    attempt integer NOT NULL,
    retries integer NOT NULL,
    preemptions integer NOT NULL,
    stop text,
    progress double precision NOT NULL,
    checkpoint_at double precision,
    failure text,
    usage text,
    next_seq integer NOT NULL,
    chain text NOT NULL,
    -- whether it has events that may be removed before it is
    noisy boolean NOT NULL DEFAULT false,
    CONSTRAINT executions_pkey PRIMARY KEY (id)
) WITH (
    -- room on each page, so that a report of progress or a line of log stays there and touches no index
    fillfactor = 80,
    -- dead entries at the head of the queue are what every round has to step over
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);

-- The hot ones hold only what is active, so that a million finished executions change nothing.
CREATE INDEX executions_queued ON executions (rank, id) WHERE status = 'queued';
CREATE INDEX executions_due ON executions (coalesce(due_at, 0), id) WHERE status = 'submitted';
CREATE INDEX executions_held ON executions (status, id) WHERE status IN ('running', 'cancelling');
CREATE INDEX executions_worker ON executions (worker_id, id) WHERE worker_id <> '';
CREATE INDEX executions_batch_running ON executions (rank DESC, id DESC)
    WHERE status IN ('running', 'cancelling') AND service_class = 'batch';

-- For lists. Every status has its entry in one of them; a queue is listed by `executions_queued`.
CREATE INDEX executions_final ON executions (status, id)
    WHERE status IN (
        'completed', 'completed_with_errors', 'partially_completed', 'failed', 'timed_out', 'cancelled'
    );
CREATE INDEX executions_ended ON executions (ended_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX executions_noisy ON executions (ended_at, id) WHERE noisy AND ended_at IS NOT NULL;
CREATE INDEX executions_control ON executions (control, id);
CREATE INDEX executions_batch ON executions (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX executions_parent ON executions (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX executions_schedule ON executions (schedule_id, id) WHERE schedule_id IS NOT NULL;
CREATE INDEX executions_flagged ON executions (id) WHERE flags <> '';
CREATE INDEX executions_labels ON executions USING gin (labels jsonb_path_ops) WHERE labels <> '{}';
CREATE UNIQUE INDEX executions_idempotency_key ON executions (idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE documents (
    execution_id text COLLATE "C" NOT NULL,
    request text,
    context text,
    CONSTRAINT documents_pkey PRIMARY KEY (execution_id)
);

CREATE TABLE results (
    execution_id text COLLATE "C" NOT NULL,
    outputs text,
    result text,
    CONSTRAINT results_pkey PRIMARY KEY (execution_id)
);

CREATE TABLE events (
    execution_id text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    at double precision NOT NULL,
    type text COLLATE "C" NOT NULL,
    message text NOT NULL,
    data text NOT NULL,
    level text COLLATE "C" NOT NULL,
    component text COLLATE "C" NOT NULL,
    hash text NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (execution_id, seq)
);
CREATE INDEX events_at ON events (at, execution_id, seq);

CREATE TABLE attempts (
    execution_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    token bigint NOT NULL,
    worker_id text COLLATE "C" NOT NULL,
    started_at double precision NOT NULL,
    ended_at double precision NOT NULL,
    ending text NOT NULL,
    failure text,
    usage text,
    CONSTRAINT attempts_pkey PRIMARY KEY (execution_id, token)
);

-- One row per connection that writes: the number of its last transaction. When a connection is lost during
-- COMMIT, this row tells whether the transaction was kept.
CREATE TABLE writers (
    id text COLLATE "C" NOT NULL,
    commits bigint NOT NULL,
    at double precision NOT NULL,
    CONSTRAINT writers_pkey PRIMARY KEY (id)
) WITH (fillfactor = 20);
