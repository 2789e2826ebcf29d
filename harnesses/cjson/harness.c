/*
 * cJSON: the first byte says what is done, the rest is JSON text.
 *
 * The text is parsed and printed again. When it is an array, its first two elements serve as a
 * document and a JSON patch (RFC 6902) or pointer (RFC 6901) for it, so that cJSON_Utils is reached
 * from one input.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cJSON.h"
#include "cJSON_Utils.h"

#define INPUT_BYTES_MAX 4096

enum action {
    PRINT_FORMATTED = 1 << 0,
    APPLY_PATCHES = 1 << 1,
    GENERATE_PATCHES = 1 << 2,
    GET_POINTER = 1 << 3,
    MINIFY = 1 << 4,
};

static void use(cJSON *root, uint8_t actions)
{
    free(actions & PRINT_FORMATTED ? cJSON_Print(root) : cJSON_PrintUnformatted(root));

    cJSON *first = cJSON_GetArrayItem(root, 0);
    cJSON *second = cJSON_GetArrayItem(root, 1);
    if (actions & APPLY_PATCHES) {
        cJSON *patched = cJSON_Duplicate(first, 1);
        cJSONUtils_ApplyPatches(patched, second);
        cJSON_Delete(patched);
    }
    if (actions & GENERATE_PATCHES)
        cJSON_Delete(cJSONUtils_GeneratePatches(first, second));
    if ((actions & GET_POINTER) && cJSON_IsString(second))
        cJSONUtils_GetPointer(first, second->valuestring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > INPUT_BYTES_MAX)
        return -1;
    uint8_t actions = data[0];
    size_t length = size - 1;
    char *text = malloc(length + 1);
    if (text == NULL)
        return 0;
    memcpy(text, data + 1, length);
    text[length] = '\0';

    cJSON *root = cJSON_Parse(text);
    if (root != NULL)
        use(root, actions);
    cJSON_Delete(root);
    if (actions & MINIFY)
        cJSON_Minify(text);
    free(text);
    return 0;
}
