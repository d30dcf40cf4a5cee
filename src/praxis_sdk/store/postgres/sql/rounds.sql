-- What a round of scheduling looks at. What somebody else holds is passed over.

-- name: round_look
-- Workers, then what is due and what waits, each in its order and marked with its part; without any
-- worker to take, nothing. And how many workers there are, whoever holds them. Parameters as `round_due`.
WITH taken AS (
    SELECT {WORKER} FROM workers WHERE state = 'active' ORDER BY started_at, id FOR NO KEY UPDATE SKIP LOCKED
), due AS (
    SELECT {EXECUTION} FROM executions
    WHERE status = 'submitted' AND coalesce(due_at, 0) <= $1 AND ($2::text[] IS NULL OR kind = ANY ($2))
        AND EXISTS (SELECT FROM taken)
    ORDER BY coalesce(due_at, 0), id LIMIT $3
    FOR NO KEY UPDATE SKIP LOCKED
), waiting AS (
    SELECT {EXECUTION} FROM executions
    WHERE status = 'queued' AND ($2::text[] IS NULL OR kind = ANY ($2)) AND EXISTS (SELECT FROM taken)
    ORDER BY rank, id LIMIT $3
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT 0, (SELECT count(*) FROM workers WHERE state = 'active'), {WORKER}, {EXECUTION!NULL} FROM taken
UNION ALL SELECT 1, NULL, {WORKER!NULL}, {EXECUTION} FROM due
UNION ALL SELECT 2, NULL, {WORKER!NULL}, {EXECUTION} FROM waiting;

-- name: wait_for_workers
SELECT id FROM workers WHERE state = 'active' ORDER BY id FOR NO KEY UPDATE;

-- name: round_due
-- $1: now; $2: kinds or NULL; $3: at most so many.
SELECT {EXECUTION} FROM executions
WHERE status = 'submitted' AND coalesce(due_at, 0) <= $1 AND ($2::text[] IS NULL OR kind = ANY ($2))
ORDER BY coalesce(due_at, 0), id LIMIT $3
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
