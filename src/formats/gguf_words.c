// What a file is that is no GGUF, in words.
//
// This file owns the recognition of what people pass by mistake: Git LFS pointers, web pages, other
// weight formats, archives, older and foreign GGUFs. gguf_parse.c calls it when the magic or the
// version is not one that it reads.
#include <string.h>

#include "formats/gguf_internal.h"

typedef struct {
    const char *bytes;
    size_t len;
    const char *words;
} Magic;

#define MAGIC(s, w) \
    { s, sizeof(s) - 1, w }

// Old ggml files begin with a 32-bit magic whose text reads backwards in the file.
#define OLD_GGML "is a ggml file from before GGUF (2023), not supported: download the model as GGUF"
#define PICKLE "is a PyTorch checkpoint, not GGUF: convert it with convert_hf_to_gguf.py"
#define PACKED " archive, not GGUF: unpack it first"

static const Magic magics[] = {
    MAGIC("version https://git-lfs",
          "is a Git LFS pointer, not the model itself: run `git lfs pull`, or download the file"),
    MAGIC("lmgg", OLD_GGML),
    MAGIC("fmgg", OLD_GGML),
    MAGIC("tjgg", OLD_GGML),
    MAGIC("ggml", OLD_GGML),
    MAGIC("ggmf", OLD_GGML),
    MAGIC("ggjt", OLD_GGML),
    MAGIC("GGML", OLD_GGML),
    MAGIC("GGMF", OLD_GGML),
    MAGIC("GGJT", OLD_GGML),
    MAGIC("algg", "is an old ggml LoRA adapter, not a GGUF model"),
    MAGIC("ggla", "is an old ggml LoRA adapter, not a GGUF model"),
    MAGIC("FUGG", "is a big-endian GGUF: convert it with gguf_convert_endian.py"),
    MAGIC("PK\x03\x04",
          "is a zip archive (a PyTorch checkpoint or packed files), not GGUF: unpack it, or "
          "convert it with convert_hf_to_gguf.py"),
    MAGIC("\x80\x02", PICKLE),
    MAGIC("\x80\x03", PICKLE),
    MAGIC("\x80\x04", PICKLE),
    MAGIC("\x80\x05", PICKLE),
    MAGIC("\x89HDF", "is an HDF5 file (Keras), not GGUF"),
    MAGIC("\x1f\x8b", "is a gzip" PACKED),
    MAGIC("\x28\xb5\x2f\xfd", "is a zstd" PACKED),
    MAGIC("\xfd"
          "7zXZ",
          "is an xz" PACKED),
    MAGIC("7z\xbc\xaf\x27\x1c", "is a 7-Zip" PACKED),
    MAGIC("\0\0\0\0", "begins with zeros, not with GGUF (is the download complete?)"),
    MAGIC("{", "is JSON text (an error message, or an index), not a GGUF model"),
    MAGIC("<", "is a web page (HTML or XML), not a GGUF model: download the file itself"),
};

// A safetensors file begins with the 64-bit length of a JSON object, then the object.
static bool is_safetensors(const uint8_t *p, uint64_t n) {
    return n > 8 && p[8] == '{' && p[4] == 0 && p[5] == 0 && p[6] == 0 && p[7] == 0;
}

static uint32_t le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static Status bad_magic(const Part *p, Error *err) {
    uint8_t head[32] = {0};
    size_t n = p->size < sizeof head ? (size_t)p->size : sizeof head;
    memcpy(head, p->data, n);
    if (is_safetensors(head, n)) {
        return error_set(err, ERR_FILE,
                         "%s: is a safetensors file, not GGUF: convert it with "
                         "convert_hf_to_gguf.py",
                         p->path);
    }
    size_t skip = 0;  // a byte order mark and white space may stand before text
    if (n >= 3 && memcmp(head, "\xef\xbb\xbf", 3) == 0) skip = 3;
    while (skip < n && head[skip] && strchr(" \t\r\n", head[skip])) skip++;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++) {
        const Magic *m = &magics[i];
        if (m->len <= n - skip && memcmp(head + skip, m->bytes, m->len) == 0) {
            return error_set(err, ERR_FILE, "%s: %s", p->path, m->words);
        }
    }
    if (n < 4) {
        return error_set(err, ERR_FILE,
                         "%s: has only %zu bytes, no GGUF model (is the download complete?)",
                         p->path, n);
    }
    return error_set(err, ERR_FILE,
                     "%s: is not a GGUF model: magic at byte 0: expected 47 47 55 46 (\"GGUF\"), "
                     "found %02x %02x %02x %02x",
                     p->path, head[0], head[1], head[2], head[3]);
}

Status gguf_not_gguf(const Part *p, Error *err) {
    if (p->size == 0) {
        return error_set(err, ERR_FILE, "%s: the file is empty (is the download complete?)",
                         p->path);
    }
    if (p->size < 4 || memcmp(p->data, "GGUF", 4) != 0) return bad_magic(p, err);
    if (p->size < 8) {
        return error_set(err, ERR_FILE,
                         "%s: version at byte 4: needs 4 bytes, the file ends after %llu (is the "
                         "download complete?)",
                         p->path, (unsigned long long)p->size);
    }
    uint32_t version = le32(p->data + 4);
    if (version == 1) {
        return error_set(err, ERR_FILE,
                         "%s: GGUF version 1 (August 2023) is not supported, expected 2 or 3: "
                         "download or convert the model again",
                         p->path);
    }
    if ((version & 0xffff) == 0 && version != 0) {
        return error_set(err, ERR_FILE,
                         "%s: is a big-endian GGUF (version %u if read so): convert it with "
                         "gguf_convert_endian.py",
                         p->path, __builtin_bswap32(version));
    }
    return error_set(err, ERR_FILE, "%s: GGUF version at byte 4: expected 2 or 3, found %u",
                     p->path, version);
}
