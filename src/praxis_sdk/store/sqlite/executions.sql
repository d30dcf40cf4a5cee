-- name: insert_execution
INSERT INTO executions ({EXECUTION}) VALUES ({EXECUTION?});

-- name: insert_document
INSERT INTO documents ({DOCUMENT}) VALUES ({DOCUMENT?});

-- name: insert_label
INSERT INTO labels (name, value, execution_id) VALUES (?, ?, ?);

-- name: by_id
SELECT {EXECUTION} FROM executions WHERE id = ?;

-- name: by_key
SELECT id FROM executions WHERE idempotency_key = ?;

-- name: revision
SELECT revision FROM executions WHERE id = ?;

-- name: whole
SELECT {EXECUTION:e}, d.request, d.context, r.outputs, r.result
FROM executions e
LEFT JOIN documents d ON d.execution_id = e.id
LEFT JOIN results r ON r.execution_id = e.id
WHERE e.id = ?;

-- name: move
UPDATE executions SET {MOVING=}, revision = ? WHERE id = ?;

-- name: note
UPDATE executions SET {REST=}, revision = ? WHERE id = ?;

-- name: put_result
INSERT INTO results (execution_id, outputs, result) VALUES (?1, ?2, ?3)
ON CONFLICT (execution_id) DO UPDATE SET
    outputs = CASE WHEN ?4 THEN excluded.outputs ELSE outputs END,
    result = CASE WHEN ?5 THEN excluded.result ELSE result END;

-- name: delete_results
DELETE FROM results WHERE execution_id IN (SELECT value FROM json_each(?));

-- name: insert_attempt
INSERT OR REPLACE INTO attempts ({ATTEMPT}) VALUES ({ATTEMPT?});

-- name: attempts
SELECT {ATTEMPT} FROM attempts WHERE execution_id = ? ORDER BY number;

-- name: held
SELECT {EXECUTION:e}, d.request, d.context
FROM executions e LEFT JOIN documents d ON d.execution_id = e.id
WHERE e.worker_id = ? AND e.status IN ('running', 'cancelling')
ORDER BY e.attempt_at, e.id;

-- name: counts
SELECT 'submitted', count(*), NULL FROM executions WHERE status = 'submitted'
UNION ALL SELECT 'queued', count(*), min(queued_at) FROM executions WHERE status = 'queued'
UNION ALL SELECT status, count(*), NULL FROM executions WHERE status IN ('running', 'cancelling') GROUP BY status;

-- name: ended
SELECT {ENDED} FROM executions
WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until
    AND (:kind IS NULL OR kind = :kind) AND (:control IS NULL OR control = :control)
ORDER BY ended_at DESC LIMIT :limit;
