// Asks for another input when its first begins with "c": the machine can be frozen there.
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>

struct input {
    const uint8_t *data;
    size_t size;
};
struct vector {
    uint64_t abi_version;
    struct input (*input)(void);
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 0 && data[0] == 'c')
        ((const struct vector *)getauxval(0x554e4946))->input();
    return 0;
}
