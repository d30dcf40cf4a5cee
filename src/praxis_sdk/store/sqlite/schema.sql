-- One row per execution that changes often, and what changes seldom beside it. Columns: store/rows.py.
CREATE TABLE executions (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    control TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    mode TEXT,
    idempotency_key TEXT,
    batch_id TEXT,
    parent_id TEXT,
    schedule_id TEXT,
    labels TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    priority TEXT NOT NULL,
    service_class TEXT NOT NULL,
    terms TEXT NOT NULL,
    status TEXT NOT NULL,
    rank INTEGER NOT NULL,
    due_at REAL,
    worker_id TEXT NOT NULL,
    ended_at REAL,
    flags TEXT NOT NULL,
    reason TEXT NOT NULL,
    queued_at REAL,
    started_at REAL,
    attempt_at REAL,
    token INTEGER NOT NULL,
    granted TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    preemptions INTEGER NOT NULL,
    stop TEXT,
    progress REAL NOT NULL,
    checkpoint_at REAL,
    failure TEXT,
    usage TEXT,
    next_seq INTEGER NOT NULL,
    chain TEXT NOT NULL,
    -- Grows with each change, so that a copy in memory is known to be the latest.
    revision INTEGER NOT NULL DEFAULT 0,
    -- Whether its stream holds what is noise once it has ended.
    noisy INTEGER NOT NULL DEFAULT 0
);

-- What is active has indexes of its own, which stay small however much has ended. Columns at their ends are there
-- to count by the index alone.
CREATE INDEX executions_due ON executions (coalesce(due_at, 0.0), id, kind, status) WHERE status = 'submitted';
CREATE INDEX executions_queued ON executions (rank, id, kind, queued_at, status) WHERE status = 'queued';
CREATE INDEX executions_held ON executions (worker_id, status, service_class, rank)
    WHERE status IN ('running', 'cancelling');

CREATE INDEX executions_ended ON executions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX executions_unsuccessful ON executions (status, id)
    WHERE status IN ('completed_with_errors', 'partially_completed', 'failed', 'timed_out', 'cancelled');
CREATE INDEX executions_noisy ON executions (ended_at) WHERE noisy = 1;
CREATE INDEX executions_flagged ON executions (id) WHERE flags <> '';

-- Touched when an execution is submitted, and never again.
CREATE UNIQUE INDEX executions_key ON executions (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_batch ON executions (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX executions_parent ON executions (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX executions_schedule ON executions (schedule_id, id) WHERE schedule_id IS NOT NULL;
CREATE INDEX executions_control ON executions (control, id);
CREATE INDEX executions_submitted ON executions (submitted_at);

CREATE TABLE documents (
    execution_id TEXT NOT NULL PRIMARY KEY,
    request TEXT,
    context TEXT
);

CREATE TABLE results (
    execution_id TEXT NOT NULL PRIMARY KEY,
    outputs TEXT,
    result TEXT
);

CREATE TABLE labels (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    PRIMARY KEY (name, value, execution_id)
) WITHOUT ROWID;

CREATE TABLE events (
    execution_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    type TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    level TEXT NOT NULL,
    component TEXT NOT NULL,
    hash TEXT NOT NULL,
    chunk BLOB,
    PRIMARY KEY (execution_id, seq)
) WITHOUT ROWID;

CREATE INDEX events_at ON events (at);
-- What somebody looks for among much else.
CREATE INDEX events_troubles ON events (at) WHERE level IN ('warn', 'error');
CREATE INDEX events_rare ON events (type, at) WHERE type IN ('alert', 'data_access', 'decision', 'retry');

CREATE TABLE attempts (
    execution_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    token INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    ending TEXT NOT NULL,
    failure TEXT,
    usage TEXT,
    PRIMARY KEY (execution_id, number)
) WITHOUT ROWID;

CREATE TABLE workers (
    id TEXT NOT NULL PRIMARY KEY,
    capacity TEXT NOT NULL,
    slots INTEGER NOT NULL,
    kinds TEXT NOT NULL,
    state TEXT NOT NULL,
    started_at REAL NOT NULL,
    lease_until REAL NOT NULL,
    host TEXT NOT NULL,
    running INTEGER NOT NULL,
    reserved_cpu_cores REAL NOT NULL,
    reserved_memory_mb INTEGER NOT NULL,
    reserved_network_mbps INTEGER NOT NULL,
    reserved_gpus INTEGER NOT NULL,
    reserved_storage_mb INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE schedules (
    id TEXT NOT NULL PRIMARY KEY,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    work TEXT NOT NULL,
    next_at REAL,
    created_at REAL NOT NULL,
    last_at REAL,
    last_execution_id TEXT,
    paused INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE batches (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_at REAL NOT NULL,
    size INTEGER NOT NULL,
    opens_at REAL,
    closes_at REAL
) WITHOUT ROWID;

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
