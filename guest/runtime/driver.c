/*
 * main() of every image: what libFuzzer's own main is to a libFuzzer harness.
 *
 * In a unifork guest, initialisation runs once, the machine is frozen in input(), and what follows
 * runs once in each fork:
 *
 *     LLVMFuzzerInitialize -> input() = snapshot -> LLVMFuzzerTestOneInput -> done()
 *                                        ^ each fork begins here
 *
 * On plain Linux the same program runs the files it is given (standalone.c), so that any image can
 * be checked against the host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "abi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

const struct uf_vector *uf_vector(void)
{
    return (const struct uf_vector *)getauxval(UF_AT_UNIFORK);
}

int main(int argc, char **argv)
{
    const struct uf_vector *libos = uf_vector();
    if (libos != NULL && libos->abi_version != UF_ABI_VERSION) {
        fprintf(stderr, "unifork: the image speaks ABI %u, the libOS %llu; build the image again\n",
                UF_ABI_VERSION, (unsigned long long)libos->abi_version);
        return EXIT_FAILURE;
    }
    if (LLVMFuzzerInitialize != NULL)
        LLVMFuzzerInitialize(&argc, &argv);
    if (libos == NULL)
        return uf_run_files(argc - 1, argv + 1);

    struct uf_input in = libos->input();
    libos->done(LLVMFuzzerTestOneInput(in.data, in.size));
}
