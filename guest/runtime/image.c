/* Marks the program as a unifork image, for the tool to recognise it by. */
#include "abi.h"

__attribute__((used, retain, section(".unifork.image"), aligned(8)))
const struct uf_image_header uf_image_header = {
    .magic = UF_IMAGE_MAGIC,
    .abi_version = UF_ABI_VERSION,
};
