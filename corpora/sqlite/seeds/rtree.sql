CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1); INSERT INTO r VALUES(1, 0, 5, 0, 5), (2, 3, 9, 3, 9);
SELECT id FROM r WHERE x0 >= 1 AND y1 <= 9;
