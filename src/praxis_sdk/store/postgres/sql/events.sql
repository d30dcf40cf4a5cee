-- Streams of events.

-- name: events
-- $4: types or NULL.
SELECT {EVENT} FROM events
WHERE execution_id = $1 AND seq > $2 AND ($4::text[] IS NULL OR type = ANY ($4))
ORDER BY seq LIMIT $3;

-- name: query_events
-- Conditions are put before ORDER BY.
SELECT {EVENT:event} FROM events AS event;

-- name: query_events_of
SELECT {EVENT:event} FROM events AS event JOIN executions AS e ON e.id = event.execution_id;
