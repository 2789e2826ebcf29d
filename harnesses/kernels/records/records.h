/* A list of records: "RECS", and then for each a type, a length and so many bytes. */
#pragma once

typedef __SIZE_TYPE__ size_t;

/* How many there are; -1 for what is no list. */
int parse_records(const unsigned char *data, size_t size);
