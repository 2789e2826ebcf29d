CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('the quick brown fox'), ('lazy dog');
SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'quick OR do*' ORDER BY rank;
