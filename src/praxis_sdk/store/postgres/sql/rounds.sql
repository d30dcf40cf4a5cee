-- What a round of scheduling looks at. What somebody else holds is passed over.

-- name: round_workers
-- And how many there are, whoever holds them.
SELECT {WORKER}, (SELECT count(*) FROM workers WHERE state = 'active') AS there
FROM workers WHERE state = 'active' ORDER BY started_at, id FOR NO KEY UPDATE SKIP LOCKED;

-- name: wait_for_workers
SELECT id FROM workers WHERE state = 'active' ORDER BY id FOR NO KEY UPDATE;

-- name: round_due
-- $1: now; $2: kinds or NULL; $3: at most so many.
SELECT {EXECUTION} FROM executions
WHERE status = 'submitted' AND coalesce(due_at, 0) <= $1 AND ($2::text[] IS NULL OR kind = ANY ($2))
ORDER BY coalesce(due_at, 0), id LIMIT $3
FOR NO KEY UPDATE SKIP LOCKED;

-- name: round_waiting
-- $1: kinds or NULL; $2: at most so many.
SELECT {EXECUTION} FROM executions
WHERE status = 'queued' AND ($1::text[] IS NULL OR kind = ANY ($1))
ORDER BY rank, id LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED;

-- name: round_waiting_unlocked
-- For a round that has no worker to give: it holds nothing that another could start.
SELECT {EXECUTION} FROM executions
WHERE status = 'queued' AND ($1::text[] IS NULL OR kind = ANY ($1))
ORDER BY rank, id LIMIT $2;

-- name: round_running
-- Batch executions that run, those that matter least first. $1: kinds or NULL; $2: at most so many.
SELECT {EXECUTION} FROM executions
WHERE status IN ('running', 'cancelling') AND service_class = 'batch' AND ($1::text[] IS NULL OR kind = ANY ($1))
ORDER BY rank DESC, id DESC LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED;

-- name: lock_free_executions
SELECT {EXECUTION} FROM executions WHERE id = ANY ($1::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;

-- name: executions_there
SELECT id FROM executions WHERE id = ANY ($1::text[]);
