// The GGUF reader and writer: what they read, getters, split models, and what is written read back.
#define _GNU_SOURCE
#include "test_gguf_build.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "formats/gguf_write.h"

static char dir[64];

static char *in_dir(const char *name, char *buf) {
    snprintf(buf, 128, "%s/%s", dir, name);
    return buf;
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/plumb-gguf-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static Gguf *open_small(Text *bytes) {
    Build b = small_model();
    *bytes = build(&b);
    Gguf *g;
    Error err = {0};
    Status st = gguf_open_memory(bytes->data, bytes->len, "small.gguf", &g, &err);
    if (st) fail_msg("%s", err.text);
    return g;
}

// --- What is right ----------------------------------------------------------------------------

static void test_reads_values(void **state) {
    (void)state;
    Text bytes;
    Gguf *g = open_small(&bytes);
    assert_string_equal(gguf_path(g), "small.gguf");
    assert_int_equal(gguf_version(g), 3);
    assert_int_equal(gguf_alignment(g), 32);
    assert_int_equal(gguf_n_parts(g), 1);
    assert_int_equal(gguf_file_bytes(g), bytes.len);
    assert_int_equal(gguf_n_values(g), 18);
    assert_string_equal(gguf_value_at(g, 0)->key, "general.architecture");
    assert_string_equal(gguf_value_at(g, 17)->key, "none");
    static const struct {
        const char *key;
        int64_t v;
    } ints[] = {{"a.u8", 200},          {"a.i8", -3},   {"a.u16", 60000},
                {"a.i16", -300},        {"a.i32", -32}, {"a.u32", 4000000000},
                {"a.i64", -5000000000}, {"a.bool", 1},  {"a.u64", INT64_MAX}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        assert_int_equal(gguf_elem_i64(gguf_find(g, ints[i].key), 0), ints[i].v);
    }
    assert_true(gguf_elem_f64(gguf_find(g, "a.u64"), 0) == 18446744073709551615.0);
    assert_true(gguf_elem_f64(gguf_find(g, "a.f32"), 0) == 1.5);
    assert_true(gguf_elem_f64(gguf_find(g, "a.f64"), 0) == 0.1);
    assert_true(gguf_elem_f64(gguf_find(g, "a.i16"), 0) == -300.0);
    const GgufValue *tokens = gguf_find(g, "tokens");
    assert_int_equal(tokens->n, 3);
    assert_int_equal(tokens->strs[1].len, 0);
    assert_int_equal(tokens->strs[2].len, 6);
    assert_memory_equal(tokens->strs[2].ptr, "\xe2\x96\x81x\0y", 6);
    assert_true(gguf_elem_f64(gguf_find(g, "scores"), 1) == -2.0);
    assert_int_equal(gguf_elem_i64(gguf_find(g, "types"), 0), -1);
    assert_int_equal(gguf_elem_i64(gguf_find(g, "flags"), 1), 0);
    assert_int_equal(gguf_find(g, "none")->n, 0);
    assert_null(gguf_find(g, "a.u"));
    assert_null(gguf_find(g, ""));
    gguf_close(g);
    text_free(&bytes);
}

static void test_reads_tensors(void **state) {
    (void)state;
    Text bytes;
    Gguf *g = open_small(&bytes);
    assert_int_equal(gguf_n_tensors(g), 3);
    const Tensor *t = gguf_tensor(g, "blk.0.ffn_up.weight");
    assert_ptr_equal(t, gguf_tensor_at(g, 1));
    assert_int_equal(t->type, TYPE_Q8_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 32);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(t->bytes, 102);
    assert_int_equal(t->part, 0);
    assert_ptr_equal(t->data, (uint8_t *)bytes.data + t->offset);
    for (int i = 0; i < 102; i++) assert_int_equal(t->data[i], 9 + i);
    assert_int_equal(gguf_tensor_at(g, 2)->data[0], 77);
    assert_null(gguf_tensor(g, "blk.0"));
    assert_int_equal(gguf_fault(g, NULL), OK);
    gguf_close(g);
    text_free(&bytes);
    gguf_close(NULL);
}

static void opens(Build *b) {
    Error err;
    Text t = build(b);
    if (try_bytes(t.data, t.len, &err)) fail_msg("%s", err.text);
    text_free(&t);
}

static void test_accepts_legal_oddities(void **state) {
    (void)state;
    Build b = build_new();  // version 2, no tensors, no values
    b.version = 2;
    opens(&b);
    b = build_new();  // a gap between data, data out of order, the longest name, four dimensions
    char name[63];
    memset(name, 'n', sizeof name);
    declare(&b, name, 63, 4, (uint64_t[]){2, 1, 3, 1}, 4, TYPE_F32, 64);
    declare(&b, "\xc3\xa9", 2, 1, (uint64_t[]){8}, 1, TYPE_F32, 0);
    for (int i = 0; i < 88; i++) add_int(&b.data, 1, 1);
    opens(&b);
    b = build_new();
    b.alignment = 8;
    value_int(&b, "general.alignment", GGUF_U32, 8);
    tensor(&b, "a", TYPE_F32, 2, 1, 8, 0);
    tensor(&b, "b", TYPE_F32, 1, 1, 4, 0);
    opens(&b);
    b = build_new();  // one file of one
    value_int(&b, "split.count", GGUF_U16, 1);
    value_int(&b, "split.no", GGUF_U16, 0);
    opens(&b);
}

static void test_opens_reference_files(void **state) {
    (void)state;
    static const struct {
        const char *path;
        size_t n_values, n_tensors;
    } files[] = {
        {"tests/golden/quants.gguf", 2, 30},
        {"tests/golden/demo-golden.gguf", 7, 465},
        {"tests/golden/arch/qwen3-1.gguf", 22, 36},
        {"tests/golden/tokenizers/bpe-qwen2.gguf", 10, 0},
        {"models/demo.gguf", 24, 57},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Gguf *g;
        Error err = {0};
        Status st = gguf_open(files[i].path, &g, &err);
        if (st) fail_msg("%s", err.text);
        assert_int_equal(gguf_n_values(g), files[i].n_values);
        assert_int_equal(gguf_n_tensors(g), files[i].n_tensors);
        walk(g);
        assert_int_equal(gguf_fault(g, &err), OK);
        gguf_close(g);
    }
}

// --- Getters ----------------------------------------------------------------------------------

static void test_get_u32(void **state) {
    (void)state;
    Text bytes;
    Gguf *g = open_small(&bytes);
    Error err = {0};
    uint32_t v = 7;
    bool found = true;
    assert_int_equal(gguf_get_u32(g, "absent", &v, &found, &err), OK);
    assert_false(found);
    assert_int_equal(v, 7);
    assert_int_equal(gguf_get_u32(g, "absent", &v, NULL, &err), ERR_FILE);
    assert_string_equal(err.text, "small.gguf: key \"absent\" is missing from the metadata");
    assert_int_equal(gguf_get_u32(g, "a.u8", &v, &found, &err), OK);
    assert_true(found);
    assert_int_equal(v, 200);
    assert_int_equal(gguf_get_u32(g, "a.u16", &v, NULL, &err), OK);
    assert_int_equal(v, 60000);
    assert_int_equal(gguf_get_u32(g, "a.u32", &v, &found, &err), OK);
    assert_true(v == 4000000000u);
    static const char *wrong[][2] = {{"a.i32", "found i32 -32"},
                                     {"a.i8", "found i8 -3"},
                                     {"a.u64", "found u64 18446744073709551615"},
                                     {"a.i64", "found i64 -5000000000"},
                                     {"a.f32", "found f32 1.5"},
                                     {"a.bool", "found bool true"},
                                     {"tokens", "found array of 3 str"},
                                     {"general.architecture", "found str \"llama\""}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        v = 7;
        assert_int_equal(gguf_get_u32(g, wrong[i][0], &v, &found, &err), ERR_FILE);
        assert_words(&err, wrong[i][0]);
        assert_words(&err, " at byte ");
        assert_words(&err, "expected an integer from 0 to 4294967295");
        assert_words(&err, wrong[i][1]);
        assert_int_equal(v, 7);
    }
    gguf_close(g);
    text_free(&bytes);
}

static void test_get_scalars(void **state) {
    (void)state;
    Text bytes;
    Gguf *g = open_small(&bytes);
    Error err = {0};
    float f = 0;
    bool b = false, found;
    GgufStr s;
    assert_int_equal(gguf_get_f32(g, "a.f32", &f, &found, &err), OK);
    assert_true(f == 1.5f);
    assert_int_equal(gguf_get_f32(g, "a.f64", &f, NULL, &err), OK);
    assert_true(f == 0.1f);
    assert_int_equal(gguf_get_f32(g, "a.u8", &f, &found, &err), ERR_FILE);
    assert_words(&err, "expected f32, found u8 200");
    assert_int_equal(gguf_get_f32(g, "tokens", &f, &found, &err), ERR_FILE);
    assert_int_equal(gguf_get_bool(g, "a.bool", &b, &found, &err), OK);
    assert_true(b);
    assert_int_equal(gguf_get_bool(g, "a.u8", &b, &found, &err), ERR_FILE);
    assert_words(&err, "expected bool, found u8 200");
    assert_int_equal(gguf_get_str(g, "general.architecture", &s, &found, &err), OK);
    assert_int_equal(s.len, 5);
    assert_memory_equal(s.ptr, "llama", 5);
    assert_int_equal(gguf_get_str(g, "a.bool", &s, &found, &err), ERR_FILE);
    assert_words(&err, "expected str, found bool true");
    gguf_close(g);
    text_free(&bytes);
}

static void test_get_array(void **state) {
    (void)state;
    Text bytes;
    Gguf *g = open_small(&bytes);
    Error err = {0};
    bool found;
    const GgufValue *v = NULL;
    assert_int_equal(gguf_get_array(g, "types", GGUF_U8, &v, &found, &err), OK);
    assert_ptr_equal(v, gguf_find(g, "types"));
    assert_int_equal(gguf_get_array(g, "scores", GGUF_F32, &v, &found, &err), OK);
    assert_int_equal(gguf_get_array(g, "tokens", GGUF_STR, &v, &found, &err), OK);
    assert_int_equal(gguf_get_array(g, "flags", GGUF_BOOL, &v, &found, &err), OK);
    assert_int_equal(gguf_get_array(g, "absent", GGUF_STR, &v, &found, &err), OK);
    assert_false(found);
    assert_int_equal(gguf_get_array(g, "absent", GGUF_STR, &v, NULL, &err), ERR_FILE);
    assert_int_equal(gguf_get_array(g, "scores", GGUF_I32, &v, &found, &err), ERR_FILE);
    assert_words(&err, "expected array of integers, found array of 2 f32");
    assert_int_equal(gguf_get_array(g, "types", GGUF_STR, &v, &found, &err), ERR_FILE);
    assert_words(&err, "expected array of str, found array of 3 i32");
    assert_int_equal(gguf_get_array(g, "a.u8", GGUF_U8, &v, &found, &err), ERR_FILE);
    assert_words(&err, "found u8 200");
    assert_int_equal(gguf_get_array(g, "flags", GGUF_U8, &v, &found, &err), ERR_FILE);
    gguf_close(g);
    text_free(&bytes);
}

static void test_get_f32_range(void **state) {
    (void)state;
    Build b = build_new();
    value_f64(&b, "huge", 1e300);
    value_f64(&b, "inf", (double)INFINITY);
    value_f64(&b, "nan", (double)NAN);
    Text t = build(&b);
    Gguf *g;
    Error err = {0};
    float f = 3;
    assert_int_equal(gguf_open_memory(t.data, t.len, "f", &g, &err), OK);
    assert_int_equal(gguf_get_f32(g, "huge", &f, NULL, &err), ERR_FILE);
    assert_words(&err, "found f64 1e+300");
    assert_true(f == 3);
    assert_int_equal(gguf_get_f32(g, "inf", &f, NULL, &err), OK);
    assert_true(isinf(f));
    assert_int_equal(gguf_get_f32(g, "nan", &f, NULL, &err), OK);
    assert_true(isnan(f));
    gguf_close(g);
    text_free(&t);
}

static void test_type_names(void **state) {
    (void)state;
    assert_string_equal(gguf_type_name(GGUF_U32), "u32");
    assert_string_equal(gguf_type_name(GGUF_ARRAY), "array");
    assert_string_equal(gguf_type_name((GgufType)13), "unknown");
    assert_int_equal(gguf_type_size(GGUF_I64), 8);
    assert_int_equal(gguf_type_size(GGUF_BOOL), 1);
    assert_int_equal(gguf_type_size(GGUF_STR), 0);
    assert_int_equal(gguf_type_size((GgufType)13), 0);
}

// --- Split models -----------------------------------------------------------------------------

// Part `no` as named, saying that it is `says` of `count`; two tensors of 32 bytes, t(2 no), t(2 no
// + 1).
static void write_part(const char *name, unsigned no, unsigned says, unsigned count,
                       uint64_t n_tensors) {
    Build b = build_new();
    value_int(&b, "split.no", GGUF_U16, says);
    value_int(&b, "split.count", GGUF_U16, count);
    value_int(&b, "split.tensors.count", GGUF_I32, n_tensors);
    value_int(&b, "own", GGUF_U32, no);
    for (unsigned i = 2 * no; i < 2 * no + 2; i++) {
        char t[8];
        snprintf(t, sizeof t, "t%u", i);
        tensor(&b, t, TYPE_F32, 8, 1, 32, (uint8_t)(i * 32));
    }
    Text bytes = build(&b);
    char path[128];
    write_file(in_dir(name, path), bytes.data, bytes.len);
    text_free(&bytes);
}

static const char *const part_names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                         "m-00003-of-00003.gguf"};

static void write_parts(void) {
    for (unsigned i = 0; i < 3; i++) write_part(part_names[i], i, i, 3, 6);
}

static void refused_file(const char *name, const char *words) {
    char path[128];
    Gguf *g;
    Error err = {0};
    assert_int_equal(gguf_open(in_dir(name, path), &g, &err), ERR_FILE);
    assert_null(g);
    assert_words(&err, words);
}

static void test_split_opens_by_any_part(void **state) {
    (void)state;
    write_parts();
    for (int p = 0; p < 3; p++) {
        char path[128];
        Gguf *g;
        Error err = {0};
        Status st = gguf_open(in_dir(part_names[p], path), &g, &err);
        if (st) fail_msg("%s", err.text);
        assert_int_equal(gguf_n_parts(g), 3);
        assert_int_equal(gguf_n_tensors(g), 6);
        assert_int_equal(gguf_n_values(g), 4);
        uint32_t own = 9;
        assert_int_equal(gguf_get_u32(g, "own", &own, NULL, &err), OK);
        assert_int_equal(own, 0);  // the first part's
        for (unsigned i = 0; i < 6; i++) {
            char name[8];
            snprintf(name, sizeof name, "t%u", i);
            const Tensor *t = gguf_tensor(g, name);
            assert_ptr_equal(t, gguf_tensor_at(g, i));
            assert_int_equal(t->part, i / 2);
            assert_int_equal(t->data[0], i * 32);
        }
        walk(g);
        assert_int_equal(gguf_fault(g, &err), OK);
        gguf_close(g);
    }
}

static void test_split_refuses(void **state) {
    (void)state;
    char path[128], other[128];
    write_parts();
    assert_int_equal(unlink(in_dir(part_names[1], path)), 0);
    refused_file(part_names[2], "part 2 of 3");
    refused_file(part_names[0], "m-00002-of-00003.gguf: there is no such file");
    write_part(part_names[1], 1, 2, 3, 6);
    refused_file(part_names[0], "by its name part 2 of 3, by its keys");
    write_part(part_names[1], 1, 1, 4, 6);
    refused_file(part_names[0], "part 2 of 4");
    write_part(part_names[1], 1, 1, 3, 7);
    refused_file(part_names[0], "\"split.tensors.count\" is 7, 6 in another part");
    write_part(part_names[1], 0, 1, 3, 6);  // the tensors of part 1 again
    refused_file(part_names[0], "tensor \"t0\" at byte ");
    refused_file(part_names[0], "the same name stands at byte ");
    for (unsigned i = 0; i < 3; i++) write_part(part_names[i], i, i, 3, 5);
    refused_file(part_names[1], "is 5, but the model has 6 tensors");
    write_parts();
    assert_int_equal(rename(in_dir(part_names[0], path), in_dir("model.gguf", other)), 0);
    refused_file("model.gguf", "its name must end in -00001-of-00003.gguf");
    write_part("x-00001-of-00002.gguf", 0, 0, 2, 4);
    refused_file("x-00001-of-00002.gguf", "x-00002-of-00002.gguf: there is no such file");
    write_part("y-00003-of-00002.gguf", 0, 2, 2, 4);
    refused_file("y-00003-of-00002.gguf", "split.no is 2, expected less than split.count, 2");
}

static void test_split_keys(void **state) {
    (void)state;
    Build b = build_new();
    value_int(&b, "split.count", GGUF_U16, 2);
    refused_build(&b, "split.count is 2, but key \"split.no\" is missing");
    b = build_new();
    value_int(&b, "split.count", GGUF_U16, 2);
    value_int(&b, "split.no", GGUF_U16, 1);
    refused_build(&b, "is part 2 of 2 of a split model, which only files can be");
    b = build_new();
    value_int(&b, "split.count", GGUF_U32, 65536);
    refused_build(&b, "expected an integer from 0 to 65535, found u32 65536");
    b = build_new();
    value_str(&b, "split.count", "2");
    refused_build(&b, "found str \"2\"");
}

// --- The writer -------------------------------------------------------------------------------

static void write_copy(const char *path, const Gguf *g, uint32_t alignment) {
    GgufWriter *w;
    Error err = {0};
    assert_int_equal(gguf_writer_open(path, &w, &err), OK);
    for (size_t i = 0; i < gguf_n_values(g); i++) {
        const GgufValue *v = gguf_value_at(g, i);
        if (strcmp(v->key, "general.alignment") != 0) gguf_put_value(w, v);
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        gguf_put_tensor(w, t->name, t->type, t->n_dims, t->dims);
    }
    gguf_put_u32(w, "general.alignment", alignment);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const Tensor *t = gguf_tensor_at(g, i);
        uint64_t half = t->bytes / 2;
        assert_int_equal(gguf_write_data(w, t->data, half, &err), OK);
        assert_int_equal(gguf_write_data(w, t->data + half, t->bytes - half, &err), OK);
    }
    Status st = gguf_writer_finish(w, &err);
    if (st) fail_msg("%s", err.text);
}

static void same_value(const GgufValue *a, const GgufValue *b) {
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->n, b->n);
    if (a->type == GGUF_ARRAY) assert_int_equal(a->elem_type, b->elem_type);
    GgufType t = a->type == GGUF_ARRAY ? a->elem_type : a->type;
    if (t != GGUF_STR) assert_memory_equal(a->raw, b->raw, a->n * gguf_type_size(t));
    for (uint64_t i = 0; t == GGUF_STR && i < a->n; i++) {
        assert_int_equal(a->strs[i].len, b->strs[i].len);
        assert_memory_equal(a->strs[i].ptr, b->strs[i].ptr, a->strs[i].len);
    }
}

static void test_writer_reads_back(void **state) {
    (void)state;
    static const uint32_t alignments[] = {8, 32, 4096};
    Text bytes;
    Gguf *g = open_small(&bytes);
    for (int k = 0; k < 3; k++) {
        char path[128], again[128];
        write_copy(in_dir("copy.gguf", path), g, alignments[k]);
        Gguf *c;
        Error err = {0};
        Status st = gguf_open(path, &c, &err);
        if (st) fail_msg("%s", err.text);
        assert_int_equal(gguf_alignment(c), alignments[k]);
        assert_int_equal(gguf_n_values(c), gguf_n_values(g));
        for (size_t i = 0; i < gguf_n_values(g); i++) {
            const GgufValue *v = gguf_value_at(g, i);
            if (strcmp(v->key, "general.alignment") != 0) same_value(v, gguf_find(c, v->key));
        }
        assert_int_equal(gguf_n_tensors(c), gguf_n_tensors(g));
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
            const Tensor *a = gguf_tensor_at(g, i), *b = gguf_tensor_at(c, i);
            assert_string_equal(a->name, b->name);
            assert_int_equal(a->type, b->type);
            assert_memory_equal(a->dims, b->dims, sizeof a->dims);
            assert_int_equal(b->offset % alignments[k], 0);
            assert_memory_equal(a->data, b->data, a->bytes);
        }
        write_copy(in_dir("again.gguf", again), c, alignments[k]);
        Text one = {0}, two = {0};
        assert_int_equal(file_read(path, 1 << 20, &one, &err), OK);
        write_copy(again, g, alignments[k]);
        assert_int_equal(file_read(again, 1 << 20, &two, &err), OK);
        assert_int_equal(one.len, two.len);
        assert_memory_equal(one.data, two.data, one.len);
        text_free(&one);
        text_free(&two);
        gguf_close(c);
    }
    gguf_close(g);
    text_free(&bytes);
}

static void test_writer_puts(void **state) {
    (void)state;
    char path[128];
    GgufWriter *w;
    Error err = {0};
    assert_int_equal(gguf_writer_open(in_dir("puts.gguf", path), &w, &err), OK);
    gguf_put_u32(w, "u", 7);
    gguf_put_f32(w, "f", -0.5f);
    gguf_put_bool(w, "b", true);
    gguf_put_str(w, "s", "text");
    gguf_put_array(w, "a", GGUF_U16, 3, (uint8_t[]){1, 0, 2, 0, 3, 1});
    gguf_put_strs(w, "ss", 2, (GgufStr[]){{"x\0y", 3}, {"", 0}});
    gguf_put_array(w, "empty", GGUF_F32, 0, NULL);
    assert_int_equal(gguf_writer_finish(w, &err), OK);
    Gguf *g;
    assert_int_equal(gguf_open(path, &g, &err), OK);
    uint32_t u = 0;
    float f = 0;
    bool b = false;
    GgufStr s = {0};
    assert_int_equal(gguf_get_u32(g, "u", &u, NULL, &err), OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_f32(g, "f", &f, NULL, &err), OK);
    assert_true(f == -0.5f);
    assert_int_equal(gguf_get_bool(g, "b", &b, NULL, &err), OK);
    assert_true(b);
    assert_int_equal(gguf_get_str(g, "s", &s, NULL, &err), OK);
    assert_memory_equal(s.ptr, "text", 4);
    assert_int_equal(gguf_elem_i64(gguf_find(g, "a"), 2), 259);
    assert_memory_equal(gguf_find(g, "ss")->strs[0].ptr, "x\0y", 3);
    assert_int_equal(gguf_find(g, "empty")->n, 0);
    gguf_close(g);
}

// What the reader would refuse is not written, and nothing is left under the name.
static void test_writer_refuses(void **state) {
    (void)state;
    char path[128];
    Error err = {0};
    static const char *const words[] = {"the same key stands",
                                        "declared twice",
                                        "no multiple of the 32",
                                        "expected a u32 that is a power",
                                        "data of tensor 1 of 1 are missing after 4 of 128 bytes",
                                        "its name has 64 bytes"};
    for (int k = 0; k < 6; k++) {
        GgufWriter *w;
        assert_int_equal(gguf_writer_open(in_dir("bad.gguf", path), &w, &err), OK);
        uint64_t dims[] = {k == 2 ? 31 : 32};
        gguf_put_u32(w, "key", 1);
        if (k == 0) gguf_put_bool(w, "key", true);
        gguf_put_tensor(w, "t", k == 2 ? TYPE_Q8_0 : TYPE_F32, 1, dims);
        if (k == 1) gguf_put_tensor(w, "t", TYPE_F32, 1, dims);
        if (k == 3) gguf_put_u32(w, "general.alignment", 33);
        char name[65] = {0};
        if (k == 5) gguf_put_tensor(w, memset(name, 'n', 64), TYPE_F32, 1, dims);
        Status st = gguf_write_data(w, "1234", 4, &err);
        assert_int_equal(st, k == 4 ? OK : ERR_FILE);
        if (st) {
            assert_words(&err, words[k]);
            assert_int_equal(gguf_write_data(w, "1234", 4, &err), ERR_FILE);
        }
        assert_int_not_equal(gguf_writer_finish(w, &err), OK);
        if (k == 4) assert_words(&err, words[k]);
        assert_int_equal(access(path, F_OK), -1);
    }
    GgufWriter *w;
    assert_int_equal(gguf_writer_open(path, &w, &err), OK);
    gguf_put_u32(w, "key", 1);
    gguf_writer_abort(w);
    gguf_writer_abort(NULL);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(gguf_writer_open("/nonexistent/x.gguf", &w, &err), ERR_FAILED);
}

// A model of many parts is written as one file: its split.* keys would be lies there.
static void test_writer_joins_parts(void **state) {
    (void)state;
    char path[128], joined[128];
    write_parts();
    Gguf *g;
    Error err = {0};
    assert_int_equal(gguf_open(in_dir(part_names[0], path), &g, &err), OK);
    write_copy(in_dir("joined.gguf", joined), g, 32);
    gguf_close(g);
    assert_int_equal(gguf_open(joined, &g, &err), OK);
    assert_int_equal(gguf_n_parts(g), 1);
    assert_int_equal(gguf_n_tensors(g), 6);
    assert_null(gguf_find(g, "split.count"));
    assert_int_equal(gguf_tensor(g, "t5")->data[0], 160);
    gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_values),
        cmocka_unit_test(test_reads_tensors),
        cmocka_unit_test(test_accepts_legal_oddities),
        cmocka_unit_test(test_opens_reference_files),
        cmocka_unit_test(test_get_u32),
        cmocka_unit_test(test_get_scalars),
        cmocka_unit_test(test_get_array),
        cmocka_unit_test(test_get_f32_range),
        cmocka_unit_test(test_type_names),
        cmocka_unit_test(test_split_opens_by_any_part),
        cmocka_unit_test(test_split_refuses),
        cmocka_unit_test(test_split_keys),
        cmocka_unit_test(test_writer_reads_back),
        cmocka_unit_test(test_writer_puts),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_writer_joins_parts),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
