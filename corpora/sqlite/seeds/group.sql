CREATE TABLE t(k, v); INSERT INTO t VALUES('a', 1), ('a', 2), ('b', 3);
SELECT k, count(*), sum(v), avg(v), min(v), max(v), group_concat(v, ',') FROM t GROUP BY k HAVING sum(v) > 1;
