/* libpng's stock configuration, which its own build would copy here. */
#include "scripts/pnglibconf.h.prebuilt"
