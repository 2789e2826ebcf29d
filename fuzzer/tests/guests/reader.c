// Reads files of its root and its standard input, and writes a file of its own.
#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  char line[100];
  FILE *f = fopen("/link", "r");
  if (!f || !fgets(line, sizeof line, f)) return 1;
  printf("link: %s", line);
  fclose(f);
  if (fopen("/data/missing", "r")) return 2;
  printf("missing: %s\n", strerror(errno));
  while (fgets(line, sizeof line, stdin)) printf("input: %s", line);
  f = fopen("/new", "w");
  if (!f || fputs("kept", f) < 0 || fclose(f)) return 3;
  f = fopen("/data/words", "a");
  if (!f || fputs("more\n", f) < 0 || fclose(f)) return 4;
  f = fopen("/new", "r");
  if (!f || !fgets(line, sizeof line, f)) return 5;
  printf("written: %s\n", line);
  return 0;
}
