-- name: insert_event
INSERT INTO events ({EVENT}) VALUES ({EVENT?});

-- name: mark_noisy
UPDATE executions SET noisy = 1 WHERE id = ? AND noisy = 0;

-- name: events
SELECT {EVENT} FROM events WHERE execution_id = :id AND seq > :after
    AND (:types IS NULL OR type IN (SELECT value FROM json_each(:types)))
ORDER BY seq LIMIT :limit;
