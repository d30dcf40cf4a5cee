-- name: due
SELECT id, revision FROM executions
WHERE status = 'submitted' AND coalesce(due_at, 0.0) <= :now
    AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
ORDER BY coalesce(due_at, 0.0), id LIMIT :limit;

-- name: waiting
SELECT id, revision FROM executions
WHERE status = 'queued' AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
ORDER BY rank, id LIMIT :limit;

-- name: batch_running
SELECT id, revision FROM executions
WHERE status IN ('running', 'cancelling') AND service_class = 'batch'
    AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
ORDER BY rank DESC, id DESC LIMIT :limit;

-- name: next_due
SELECT coalesce(due_at, 0.0) FROM executions WHERE status = 'submitted'
ORDER BY coalesce(due_at, 0.0) LIMIT 1;
