-- Executions, one by one and many at a time.

-- name: get_executions
-- With all that belongs to them, by id ($1) or by idempotency key ($2).
SELECT {EXECUTION:execution}, document.request, document.context, outcome.outputs, outcome.result
FROM executions AS execution
LEFT JOIN documents AS document ON document.execution_id = execution.id
LEFT JOIN results AS outcome ON outcome.execution_id = execution.id
WHERE execution.id = ANY ($1::text[]) OR execution.idempotency_key = ANY ($2::text[]);

-- name: insert_executions
-- With documents and first events. An id or an idempotency key that is taken makes the count smaller than what
-- was given; the caller then rolls back. From $50 on as `mark`, with NULL where it is not the last statement.
WITH added AS (
    INSERT INTO executions ({EXECUTION}) SELECT * FROM unnest({EXECUTION@1})
    ON CONFLICT DO NOTHING
    RETURNING id
), documented AS (
    INSERT INTO documents ({DOCUMENT}) SELECT * FROM unnest({DOCUMENT@37})
    ON CONFLICT DO NOTHING
), told AS (
    INSERT INTO events ({EVENT}) SELECT * FROM unnest({EVENT@40})
    ON CONFLICT DO NOTHING
), marked AS (
    UPDATE writers SET commits = $51, at = $52 WHERE id = $50 RETURNING id
)
SELECT
    (SELECT count(*) FROM added),
    (SELECT count(*) FROM marked),
    (SELECT count(pg_notify('praxis', news)) FROM unnest($53::text[]) AS news);

-- name: lock_executions
-- In the order of their ids, so that those who want the same ones wait, and never for each other.
SELECT {EXECUTION} FROM executions WHERE id = ANY ($1::text[]) ORDER BY id FOR NO KEY UPDATE;

-- name: update_executions
-- What changes came to: executions that are locked, their results and events, the attempts that ended, and what
-- workers reserve. Workers are locked in the order of their ids, after executions. From $56 on as `mark`, with NULL
-- where it is not the last statement.
WITH moved AS (
    UPDATE executions AS execution SET {MOVING=new}, noisy = execution.noisy OR new.noisy
    FROM unnest({MOVED@1}) AS new ({MOVED})
    WHERE execution.id = new.id
), resulted AS (
    INSERT INTO results AS kept ({RESULT})
    SELECT {RESULT} FROM unnest({RESULTED@25}) AS new ({RESULTED}) WHERE with_outputs AND with_result
    ON CONFLICT (execution_id) DO UPDATE SET outputs = excluded.outputs, result = excluded.result
), half_resulted AS (
    INSERT INTO results AS kept ({RESULT})
    SELECT {RESULT} FROM unnest({RESULTED@25}) AS new ({RESULTED}) WHERE NOT (with_outputs AND with_result)
    -- one of the two is given: the other stays as it was
    ON CONFLICT (execution_id) DO UPDATE SET
        outputs = coalesce(excluded.outputs, kept.outputs), result = coalesce(excluded.result, kept.result)
), told AS (
    INSERT INTO events ({EVENT}) SELECT * FROM unnest({EVENT@30})
), tried AS (
    INSERT INTO attempts ({ATTEMPT}) SELECT * FROM unnest({ATTEMPT@40})
), locked AS (
    SELECT id FROM workers WHERE id = ANY ($49::text[]) ORDER BY id FOR NO KEY UPDATE
), reserved AS (
    UPDATE workers AS worker SET
        reserved_cpu_cores = worker.reserved_cpu_cores + change.reserved_cpu_cores,
        reserved_memory_mb = worker.reserved_memory_mb + change.reserved_memory_mb,
        reserved_network_mbps = worker.reserved_network_mbps + change.reserved_network_mbps,
        reserved_gpus = worker.reserved_gpus + change.reserved_gpus,
        reserved_storage_mb = worker.reserved_storage_mb + change.reserved_storage_mb,
        running = worker.running + change.running
    FROM locked JOIN unnest({RESERVING@49}) AS change ({RESERVING}) ON change.worker_id = locked.id
    WHERE worker.id = locked.id
), marked AS (
    UPDATE writers SET commits = $57, at = $58 WHERE id = $56 RETURNING id
)
SELECT
    1,
    (SELECT count(*) FROM marked),
    (SELECT count(pg_notify('praxis', news)) FROM unnest($59::text[]) AS news);

-- name: held
SELECT {EXECUTION:execution}, document.request, document.context
FROM executions AS execution
LEFT JOIN documents AS document ON document.execution_id = execution.id
WHERE execution.worker_id = $1 AND execution.worker_id <> '' AND execution.status IN ('running', 'cancelling')
ORDER BY execution.attempt_at, execution.id;

-- name: attempts
SELECT {ATTEMPT} FROM attempts WHERE execution_id = $1 ORDER BY number;

-- name: next_due
SELECT coalesce(due_at, 0) FROM executions WHERE status = 'submitted' ORDER BY coalesce(due_at, 0) LIMIT 1;

-- name: counts
-- Only what is active, each status from its own index.
SELECT 'submitted', count(*), NULL::float8 FROM executions WHERE status = 'submitted'
UNION ALL SELECT 'queued', count(*), min(queued_at) FROM executions WHERE status = 'queued'
UNION ALL SELECT status, count(*), NULL FROM executions WHERE status IN ('running', 'cancelling') GROUP BY status;

-- name: find
-- Conditions are put before ORDER BY.
SELECT {EXECUTION:e} FROM executions AS e;

-- name: ended
SELECT {ENDED} FROM executions
WHERE ended_at IS NOT NULL AND ended_at >= $1 AND ended_at < $2
    AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR control = $4)
ORDER BY ended_at DESC, id DESC LIMIT $5;

-- name: prune_executions
-- Those that ended before $1, at most $2, with all that is kept of them.
WITH old AS (
    DELETE FROM executions WHERE id = ANY (ARRAY(
        SELECT id FROM executions WHERE ended_at IS NOT NULL AND ended_at < $1
        ORDER BY ended_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
), undocumented AS (
    DELETE FROM documents WHERE execution_id IN (SELECT id FROM old)
), without_result AS (
    DELETE FROM results WHERE execution_id IN (SELECT id FROM old)
), untried AS (
    DELETE FROM attempts WHERE execution_id IN (SELECT id FROM old)
), untold AS (
    DELETE FROM events WHERE execution_id IN (SELECT id FROM old) RETURNING execution_id
)
SELECT old.id, count(untold.execution_id) FROM old LEFT JOIN untold ON untold.execution_id = old.id GROUP BY old.id;

-- name: prune_noise
-- Log lines and progress of executions that ended before $1, of at most $2 executions.
WITH quiet AS (
    UPDATE executions SET noisy = false WHERE id = ANY (ARRAY(
        SELECT id FROM executions WHERE noisy AND ended_at IS NOT NULL AND ended_at < $1
        ORDER BY ended_at, id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING id
), silenced AS (
    DELETE FROM events WHERE execution_id IN (SELECT id FROM quiet) AND type IN ('log', 'progress')
    RETURNING execution_id
)
SELECT quiet.id, count(silenced.execution_id) FROM quiet LEFT JOIN silenced ON silenced.execution_id = quiet.id
GROUP BY quiet.id;

-- name: prune_batches
DELETE FROM batches WHERE created_at < $1 AND NOT EXISTS (
    SELECT 1 FROM executions WHERE batch_id IS NOT NULL AND batch_id = batches.id
);

-- name: prune_workers
DELETE FROM workers WHERE state IN ('gone', 'lost') AND running = 0 AND lease_until < $1;
