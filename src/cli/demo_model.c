// The demo model, linked into the program: a copied `plumb` answers with no file beside it.
#include "cli/cli.h"

#include "base/embed.h"

__asm__(EMBED_BEGIN                                                       //
            EMBED_SYMBOL(cli_demo_model) EMBED_BYTES("models/demo.gguf")  //
        EMBED_SYMBOL(cli_demo_model_end) EMBED_NUL                        //
            EMBED_END);

extern const unsigned char cli_demo_model_end[];

size_t cli_demo_model_bytes(void) {
    return (size_t)((uintptr_t)cli_demo_model_end - (uintptr_t)cli_demo_model);
}
