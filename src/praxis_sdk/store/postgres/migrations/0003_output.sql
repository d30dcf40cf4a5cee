-- Output is kept in pieces, as bytes, in place of a row for each line.
ALTER TABLE events ADD COLUMN chunk bytea;
