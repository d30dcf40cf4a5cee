-- name: noisy_before
SELECT id FROM executions WHERE noisy = 1 AND ended_at < ? ORDER BY ended_at LIMIT ?;

-- name: ended_before
SELECT id FROM executions WHERE ended_at IS NOT NULL AND ended_at < ? ORDER BY ended_at LIMIT ?;

-- name: delete_noise
DELETE FROM events WHERE type IN ('log', 'progress')
    AND execution_id IN (SELECT value FROM json_each(?));

-- name: mark_quiet
UPDATE executions SET noisy = 0 WHERE id IN (SELECT value FROM json_each(?));

-- name: delete_events
DELETE FROM events WHERE execution_id IN (SELECT value FROM json_each(?));

-- name: delete_documents
DELETE FROM documents WHERE execution_id IN (SELECT value FROM json_each(?));

-- name: delete_attempts
DELETE FROM attempts WHERE execution_id IN (SELECT value FROM json_each(?));

-- name: delete_labels
DELETE FROM labels WHERE (name, value, execution_id) IN (
    SELECT label.key, label.value, e.id
    FROM json_each(?) AS wanted CROSS JOIN executions e ON e.id = wanted.value, json_each(e.labels) AS label
);

-- name: delete_executions
DELETE FROM executions WHERE id IN (SELECT value FROM json_each(?));

-- name: delete_batches
DELETE FROM batches WHERE created_at < ? AND NOT EXISTS (
    SELECT 1 FROM executions WHERE batch_id IS NOT NULL AND batch_id = batches.id
);

-- name: delete_workers
DELETE FROM workers WHERE state IN ('gone', 'lost') AND running = 0 AND lease_until < ?;
