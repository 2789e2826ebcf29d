SELECT printf('%05d|%-8s|%.3f|%q', 42, 'ab', 3.14159, 'it''s'), substr('hello', 2, 3), replace('aXa', 'X', 'y'),
hex(randomblob(0)), instr('abc', 'c'), coalesce(NULL, 1), typeof(1.0), abs(-3), round(2.567, 2), unicode('A');
