SELECT json_extract('{"a":[1,2,{"b":null}]}', '$.a[2].b'), json_array(1, 'x', json('[]')),
json_patch('{"a":1}', '{"b":2}'), '{"k":7}' ->> '$.k';
SELECT key, value, type FROM json_each('[10, true, "s"]');
