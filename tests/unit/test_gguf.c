// The GGUF reader: each kind of bad file that it must refuse, with the right words.
#include "test_gguf_build.h"

// --- What it is instead -----------------------------------------------------------------------

static void refused_words(const char *bytes, size_t len, const char *words) {
    Text t = {0};
    add_bytes(&t, bytes, len);
    refused(t, words);
}

#define REFUSED(bytes, words) refused_words(bytes, sizeof(bytes) - 1, words)

static void test_says_what_it_is(void **state) {
    (void)state;
    REFUSED("", "the file is empty");
    REFUSED("GG", "only 2 bytes");
    REFUSED("GGUF", "version at byte 4: needs 4 bytes, the file ends after 4");
    REFUSED("GGUF\3\0", "ends after 6");
    REFUSED("GGUX\3\0\0\0", "expected 47 47 55 46 (\"GGUF\"), found 47 47 55 58");
    REFUSED("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS pointer");
    REFUSED("<!DOCTYPE html><html>", "web page");
    REFUSED("\n  <html>", "web page");
    REFUSED("\xef\xbb\xbf<html>", "web page");
    REFUSED("{\"error\":\"not found\"}", "JSON");
    REFUSED("PK\3\4....", "zip archive");
    REFUSED("\x80\2}q\0....", "PyTorch");
    REFUSED("\x10\2\0\0\0\0\0\0{\"__metadata__\"", "safetensors");
    REFUSED("lmgg....", "before GGUF");
    REFUSED("tjgg\3\0\0\0", "before GGUF");
    REFUSED("fmgg\1\0\0\0", "before GGUF");
    REFUSED("GGML....", "before GGUF");
    REFUSED("ggjt....", "before GGUF");
    REFUSED("FUGG\0\0\0\3", "big-endian");
    REFUSED("\x1f\x8b\x08....", "gzip");
    REFUSED("\0\0\0\0\0\0\0\0", "begins with zeros");
    REFUSED("\0\0\0", "only 3 bytes");
}

static void test_versions(void **state) {
    (void)state;
    static const struct {
        uint32_t version;
        const char *words;
    } cases[] = {
        {0, "expected 2 or 3, found 0"}, {1, "GGUF version 1 (August 2023) is not supported"},
        {4, "expected 2 or 3, found 4"}, {0x03000000, "big-endian GGUF (version 3 if read so)"},
        {0x02000000, "big-endian"},      {UINT32_MAX, "found 4294967295"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Build b = small_model();
        b.version = cases[i].version;
        refused_build(&b, cases[i].words);
    }
}

// --- Header -----------------------------------------------------------------------------------

static void test_counts(void **state) {
    (void)state;
    static const uint64_t wild[] = {INT64_MAX, (uint64_t)-1, (uint64_t)-5, 1ull << 60, 1ull << 20};
    for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) {
        Build b = small_model();
        b.n_tensors = wild[i];
        refused_build(&b, "tensor count at byte 8: claims ");
        b = small_model();
        b.n_values = wild[i];
        refused_build(&b, "key count at byte 16: claims ");
    }
    Build b = build_new();  // one key more than there is
    value_int(&b, "a", GGUF_U8, 1);
    b.n_values++;
    refused_build(&b,
                  "key count at byte 16: claims 2, but the 14 bytes that follow hold at most 1");
    b = build_new();
    value_str(&b, "a", "twenty bytes of text");
    b.n_values++;
    refused_build(&b, "key 2 of 2 at byte 65: needs 8 bytes, the file ends after 65");
    b = build_new();  // one tensor more than there is: the padding is read as its name
    tensor(&b, "t", TYPE_F32, 64, 1, 256, 0);
    b.n_tensors++;
    refused_build(&b, "tensor 2 of 2 at byte 65: its name ");
}

static void test_keys(void **state) {
    (void)state;
    Build b = build_new();
    value_int(&b, "key", GGUF_U32, 1);
    memset(b.values.data, 0xff, 8);
    refused_build(&b, "its name has 18446744073709551615 bytes, expected at most 65535");
    b = build_new();
    value_int(&b, "key", GGUF_U32, 1);
    b.values.data[0] = 100;
    refused_build(&b, "key 1 of 1 at byte 32: needs 100 bytes, the file ends after 43");
    b = build_new();
    value_int(&b, "", GGUF_U64, 1);
    refused_build(&b, "key 1 of 1 at byte 24: its name is empty");
    b = build_new();
    value_int(&b, "general.name", GGUF_U8, 1);
    value_int(&b, "other", GGUF_U8, 1);
    value_str(&b, "general.name", "x");
    refused_build(&b, "key \"general.name\" at byte 67: the same key stands at byte 24");
    static const char *bad[] = {"a\nb", "a\x7f", "\x01", "\xff\xfe", "\xc0\xaf", "\xed\xa0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b = build_new();
        value_int(&b, bad[i], GGUF_U8, 1);
        refused_build(&b, "no printable text");
    }
    b = build_new();  // a NUL in a key
    add_str(&b, &b.values, "a\0b", 3);
    add_int(&b.values, GGUF_U8, 4);
    add_int(&b.values, 1, 1);
    b.n_values++;
    refused_build(&b, "\"a\\x00b\" has bytes that are no printable text");
}

static void test_value_types(void **state) {
    (void)state;
    static const uint32_t types[] = {13, 255, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        Build b = build_new();
        value_head(&b, "a", types[i]);
        add_int(&b.values, 0, 8);
        refused_build(&b, "key \"a\" at byte 33: expected a value type of 0..12, found ");
        b = build_new();
        value_array(&b, "a", types[i], 1);
        add_int(&b.values, 0, 8);
        refused_build(&b, "key \"a\" at byte 37: expected a value type of 0..12, found ");
    }
    Build b = build_new();
    value_array(&b, "a", GGUF_ARRAY, 1);
    add_int(&b.values, GGUF_U8, 4);
    add_int(&b.values, 0, 8);
    refused_build(&b, "an array of arrays is not supported");
    b = build_new();
    value_int(&b, "flag", GGUF_BOOL, 2);
    refused_build(&b, "key \"flag\" at byte 40: expected a bool of 0 or 1, found 2");
    b = build_new();
    value_array(&b, "flags", GGUF_BOOL, 3);
    add_int(&b.values, 0xff0001, 3);
    refused_build(&b, "key \"flags\" at byte 55: expected a bool of 0 or 1, found 255");
}

static void test_value_lengths(void **state) {
    (void)state;
    static const uint64_t counts[] = {1ull << 62, 1ull << 61, UINT64_MAX, 1000000000, 3};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (uint32_t t = GGUF_U8; t <= GGUF_F64; t++) {
            if (t == GGUF_ARRAY) continue;
            Build b = build_new();
            value_array(&b, "a", t, counts[i]);
            add_int(&b.values, 0, 2);
            refused_build(&b, "key \"a\" at byte 41: claims ");
        }
    }
    Build b = build_new();
    value_head(&b, "s", GGUF_STR);
    add_int(&b.values, UINT64_MAX, 8);
    refused_build(&b, "key \"s\" at byte 45: needs 18446744073709551615 bytes");
    b = build_new();
    value_array(&b, "s", GGUF_STR, 2);
    add_str(&b, &b.values, "x", 1);
    add_int(&b.values, 9, 8);
    refused_build(&b, "needs 9 bytes, the file ends after 66 (is the download complete?)");
    b = build_new();  // one byte short
    value_head(&b, "s", GGUF_STR);
    add_int(&b.values, 2, 8);
    add_int(&b.values, 'x', 1);
    refused_build(&b, "key \"s\" at byte 45: needs 2 bytes, the file ends after 46");
    b = build_new();  // 100 KB that claim 10^9 bytes
    value_array(&b, "a", GGUF_U8, 1000000000);
    for (int i = 0; i < 100000; i++) add_int(&b.values, 0, 1);
    refused_build(&b, "claims 1000000000, but the 100000 bytes that follow hold at most 100000");
}

static void test_alignment(void **state) {
    (void)state;
    static const uint64_t bad[] = {0, 1, 2, 3, 4, 7, 12, 33, 1u << 25, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Build b = build_new();
        value_int(&b, "general.alignment", GGUF_U32, bad[i]);
        refused_build(&b,
                      "key \"general.alignment\" at byte 24: expected a u32 that is a power of");
    }
    Build b = build_new();
    value_int(&b, "general.alignment", GGUF_I32, 32);
    refused_build(&b, "found i32 32");
    b = build_new();
    value_int(&b, "general.alignment", GGUF_U64, 32);
    refused_build(&b, "found u64 32");
    b = build_new();
    value_str(&b, "general.alignment", "32");
    refused_build(&b, "found str \"32\"");
}

// --- Tensors ----------------------------------------------------------------------------------

// One tensor with 256 bytes of data; all else as asked.
static void refused_tensor(const char *name, size_t name_len, uint32_t n_dims, const uint64_t *dims,
                           int dims_written, uint32_t type, uint64_t offset, const char *words) {
    Build b = build_new();
    declare(&b, name, name_len, n_dims, dims, dims_written, type, offset);
    for (int i = 0; i < 256; i++) add_int(&b.data, 0, 1);
    refused_build(&b, words);
}

static void refused_dims(uint32_t n_dims, uint64_t d0, uint64_t d1, uint64_t d2, uint64_t d3,
                         const char *words) {
    int written = n_dims > 4 ? 4 : (int)n_dims;
    refused_tensor("t", 1, n_dims, (uint64_t[]){d0, d1, d2, d3}, written, TYPE_F32, 0, words);
}

static void test_dims(void **state) {
    (void)state;
    refused_dims(0, 1, 1, 1, 1, "tensor \"t\" at byte 33: expected 1..4 dimensions, found 0");
    refused_dims(5, 1, 1, 1, 1, "expected 1..4 dimensions, found 5");
    refused_dims(UINT32_MAX, 1, 1, 1, 1, "expected 1..4 dimensions, found 4294967295");
    refused_dims(4, 0, 1, 1, 1, "tensor \"t\" at byte 37: dimension 0 is 0");
    refused_dims(4, 1, 0, 1, 1, "dimension 1 is 0");
    refused_dims(4, 1, 1, 0, 1, "dimension 2 is 0");
    refused_dims(4, 1, 1, 1, 0, "dimension 3 is 0");
    refused_dims(1, (uint64_t)-1, 1, 1, 1, "more than 2^63 weights");
    refused_dims(2, 8, (uint64_t)-1, 1, 1, "more than 2^63 weights");
    refused_dims(2, 1ull << 32, 1ull << 32, 1, 1, "more than 2^63 weights");
    refused_dims(2, 1ull << 31, 1ull << 32, 1, 1, "more than 2^63 weights");
    refused_dims(2, 1ull << 31, 1ull << 31, 1, 1, "would end past 2^63");
    refused_dims(2, 1ull << 30, 1ull << 30, 1, 1, "needs 4611686018427387904 bytes");
}

static void test_types(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *words;
    } cases[] = {{4, "(id 4"},
                 {5, "(id 5"},
                 {9, "(id 9"},
                 {16, "IQ2_XXS (id 16"},
                 {31, "(id 31"},
                 {34, "TQ1_0 (id 34"},
                 {137, "(id 137"},
                 {9999, "type 9999 (id 9999"},
                 {UINT32_MAX, "(id 4294967295"}};
    uint64_t dims[] = {256};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused_tensor("t", 1, 1, dims, 1, cases[i].type, 0, "tensor \"t\" at byte 45: has type ");
        refused_tensor("t", 1, 1, dims, 1, cases[i].type, 0, cases[i].words);
    }
    dims[0] = 33;
    refused_tensor("t", 1, 1, dims, 1, TYPE_Q8_0, 0,
                   "a row of 33 weights is no multiple of the 32 in a block of Q8_0");
    // 16 x 2 weights are a block, but a row is not.
    refused_tensor("t", 1, 2, (uint64_t[]){16, 2}, 2, TYPE_Q8_0, 0, "a row of 16 weights");
    refused_tensor("t", 1, 2, (uint64_t[]){32, 8}, 2, TYPE_Q4_K, 0, "a row of 32 weights");
}

static void test_offsets(void **state) {
    (void)state;
    static const struct {
        uint64_t offset;
        const char *words;
    } cases[] = {
        {32,
         "tensor \"t\" at byte 96: needs 256 bytes, the file ends after 320 of 352 (is the "
         "download complete?)"},
        {256, "needs 256 bytes"},
        {1ull << 40, "needs 256 bytes"},
        {4, "tensor \"t\" at byte 49: expected an offset that is a multiple of 32, found 4"},
        {(uint64_t)-32, "would end past 2^63"},
        {(uint64_t)-256, "would end past 2^63"},
        {1ull << 63, "would end past 2^63"},
        {(1ull << 63) - 256, "would end past 2^63"},
        {(1ull << 63) - 288, "needs 256 bytes"},
    };
    uint64_t dims[] = {64};  // all 256 bytes
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused_tensor("t", 1, 1, dims, 1, TYPE_F32, cases[i].offset, cases[i].words);
    }
}

static void test_overlap(void **state) {
    (void)state;
    uint64_t dims[] = {16};
    for (int swap = 0; swap < 2; swap++) {
        Build b = build_new();
        declare(&b, "first", 5, 1, dims, 1, TYPE_F32, swap ? 32 : 0);
        declare(&b, "second", 6, 1, dims, 1, TYPE_F32, swap ? 0 : 32);
        for (int i = 0; i < 256; i++) add_int(&b.data, 0, 1);
        refused_build(&b, swap ? "tensor \"first\" at byte 160: overlaps the data of \"second\""
                               : "tensor \"second\" at byte 160: overlaps the data of \"first\"");
    }
    Build b = build_new();
    declare(&b, "a", 1, 1, dims, 1, TYPE_F32, 0);
    declare(&b, "b", 1, 1, dims, 1, TYPE_F32, 0);
    for (int i = 0; i < 256; i++) add_int(&b.data, 0, 1);
    refused_build(&b, "overlaps");
}

static void test_names(void **state) {
    (void)state;
    char name[64];
    memset(name, 'n', sizeof name);
    uint64_t dims[] = {8};
    refused_tensor(name, 64, 1, dims, 1, TYPE_F32, 0, "has 64 bytes, expected at most 63");
    refused_tensor("", 0, 1, dims, 1, TYPE_F32, 0, "at byte 24: its name is empty");
    refused_tensor("a\0b", 3, 1, dims, 1, TYPE_F32, 0, "\"a\\x00b\" has bytes");
    refused_tensor("a\tb", 3, 1, dims, 1, TYPE_F32, 0, "no printable text");
    refused_tensor("\xff", 1, 1, dims, 1, TYPE_F32, 0, "no printable text");
    Build b = build_new();
    tensor(&b, "twice", TYPE_F32, 8, 1, 32, 0);
    tensor(&b, "other", TYPE_F32, 8, 1, 32, 0);
    tensor(&b, "twice", TYPE_F32, 8, 1, 32, 0);
    refused_build(&b, "tensor \"twice\" at byte 114: the same name stands at byte 24");
}

static void test_short_data(void **state) {
    (void)state;
    static const size_t missing[] = {1, 10, 1024, 2048, 4096};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        Build b = build_new();
        tensor(&b, "a", TYPE_F32, 512, 1, 2048, 0);
        tensor(&b, "b", TYPE_F32, 512, 1, 2048, 0);
        Text t = build(&b);
        t.len -= missing[i];
        char words[96];
        snprintf(words, sizeof words, "needs 2048 bytes, the file ends after %zu of %zu", t.len,
                 t.len + missing[i]);
        refused(t, words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_what_it_is), cmocka_unit_test(test_versions),
        cmocka_unit_test(test_counts),          cmocka_unit_test(test_keys),
        cmocka_unit_test(test_value_types),     cmocka_unit_test(test_value_lengths),
        cmocka_unit_test(test_alignment),       cmocka_unit_test(test_dims),
        cmocka_unit_test(test_types),           cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_overlap),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_short_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
