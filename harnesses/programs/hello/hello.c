#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    char *text = malloc(1000);
    strcpy(text, "hello");
    for (int i = 1; i < argc; i++) {
        strcat(text, ", ");
        strcat(text, argv[i]);
    }
    printf("%s, %d arguments\n", text, argc - 1);
    fprintf(stderr, "and to stderr\n");
    free(text);
    return argc;
}
