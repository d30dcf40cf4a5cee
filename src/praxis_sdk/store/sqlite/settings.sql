-- name: get_setting
SELECT value FROM settings WHERE name = ?;

-- name: put_setting
INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?);
