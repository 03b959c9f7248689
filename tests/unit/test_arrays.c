// .npy and safetensors files that are right, at the edges, and hostile.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "formats/npy.h"
#include "formats/safetensors.h"

// A file of the given header and data in exactly sized memory, so that a sanitizer sees one byte
// too many.
static uint8_t *npy(int major, const char *header, size_t data, size_t *size) {
    const size_t n = strlen(header), start = major == 1 ? 10 : 12;
    *size = start + n + data;
    uint8_t *p = room(*size);
    memcpy(p, "\x93NUMPY", 6);
    p[6] = (uint8_t)major, p[7] = 0;
    p[8] = (uint8_t)n, p[9] = (uint8_t)(n >> 8);
    if (start == 12) p[10] = p[11] = 0;
    memcpy(p + start, header, n);
    for (size_t i = 0; i < data; i++) p[start + n + i] = (uint8_t)(i + 1);
    return p;
}

static void npy_good(void **state) {
    (void)state;
    static const struct {
        int major;
        const char *header;
        size_t data;
        NdType type;
        int rank;
        uint64_t d0, d1;
    } cases[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24, ND_F32, 2, 2, 3},
        {2, "{'shape':(2,3),'fortran_order':False,'descr':'<f8'}", 48, ND_F64, 2, 2, 3},
        {3, "{\"descr\": \"<i8\", 'fortran_order': False, 'shape': (3,)}  ", 24, ND_I64, 1, 3, 0},
        {1, "{'descr': '|i1', 'fortran_order': False, 'shape': (), }\n", 1, ND_I8, 0, 0, 0},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (0, 5), }\n", 0, ND_U16, 2, 0, 5},
        {1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,3)}", 6, ND_F16, 8, 1,
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t size;
        NdArray a;
        Error err = {0};
        uint8_t *p = npy(cases[i].major, cases[i].header, cases[i].data, &size);
        if (npy_parse(p, size, "good", &a, &err)) fail_msg("%s: %s", cases[i].header, err.text);
        assert_int_equal(a.type, cases[i].type);
        assert_int_equal(a.rank, cases[i].rank);
        assert_int_equal(a.dims[0], cases[i].d0);
        assert_int_equal(a.dims[1], cases[i].d1);
        assert_int_equal(a.bytes, cases[i].data);
        assert_ptr_equal(a.data + a.bytes, p + size);
        // Cut anywhere, or with a byte more, it is refused.
        for (size_t n = 0; n < size; n++) {
            uint8_t *cut = room(n);
            memcpy(cut, p, n);
            assert_int_equal(npy_parse(cut, n, "cut", &a, &err), ERR_FILE);
            free(cut);
        }
        free(p);
    }
}

static void npy_bad(void **state) {
    (void)state;
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "little-endian"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "little-endian"},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': (4,), }", "little-endian"},
        {"{'descr': '|f4', 'fortran_order': False, 'shape': (2,), }", "little-endian"},
        {"{'descr': '', 'fortran_order': False, 'shape': (2,), }", "little-endian"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "little-endian"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}", "record"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", "ascontiguousarray"},
        {"{'descr': '<f4', 'fortran_order': 1, 'shape': (2,), }", "True or False"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "expected 12 bytes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "expected 4 bytes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "whole number"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", "parentheses"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", "',' or ')'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2)}", "more than 8"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "2^63"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387906,)}", "2^63"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,)}", "2^64"},
        {"{'descr': '<f4', 'fortran_order': False}", "missing"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "twice"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", "only"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", "follow"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", "'}'"},
        {"{'descr': '<f4", "quoted"},
        {"", "dictionary"},
        {"[]", "dictionary"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t size;
        NdArray a;
        Error err = {0};
        uint8_t *p = npy(1, cases[i].header, 8, &size);
        assert_int_equal(npy_parse(p, size, "a.npy", &a, &err), ERR_FILE);
        if (!strstr(err.text, cases[i].says) || strncmp(err.text, "a.npy: ", 7) != 0)
            fail_msg("\"%s\" gives \"%s\"", cases[i].header, err.text);
        p[8] = 0xff, p[9] = 0xff;  // a header that goes past the end
        assert_int_equal(npy_parse(p, size, "a.npy", &a, &err), ERR_FILE);
        p[6] = 4;
        assert_int_equal(npy_parse(p, size, "a.npy", &a, &err), ERR_FILE);
        free(p);
    }
}

static void elements(void **state) {
    (void)state;
    static const struct {
        NdType type;
        uint8_t bytes[8];
        int64_t want;
    } ints[] = {
        {ND_I8, {0xff}, -1},
        {ND_U8, {0xff}, 255},
        {ND_I16, {0, 0x80}, -32768},
        {ND_U16, {0, 0x80}, 32768},
        {ND_I32, {0xfe, 0xff, 0xff, 0xff}, -2},
        {ND_U32, {0xfe, 0xff, 0xff, 0xff}, 4294967294},
        {ND_I64, {0, 0, 0, 0, 0, 0, 0, 0x80}, INT64_MIN},
        {ND_I64, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, INT64_MAX},
        {ND_U64, {0, 0, 0, 0, 0, 0, 0, 0x80}, INT64_MAX},
        {ND_U64, {7}, 7},
    };
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        const NdArray a = {.type = ints[i].type, .data = ints[i].bytes};
        assert_true(nd_read_int(&a, 0) == ints[i].want);
    }
    const uint16_t half[] = {0x3c00, 0x8001, 0x7c00}, brain[] = {0x3f80, 0x8000, 0x7f80};
    const double wide[] = {1, -1e300, 1e-320};
    const NdArray h = {.type = ND_F16, .data = (const uint8_t *)half};
    const NdArray b = {.type = ND_BF16, .data = (const uint8_t *)brain};
    const NdArray d = {.type = ND_F64, .data = (const uint8_t *)wide};
    float x[3];
    nd_read_f32(&h, 0, 3, x);
    assert_true(x[0] == 1 && x[1] == -0x1p-24f && isinf(x[2]));
    nd_read_f32(&b, 1, 2, x);
    assert_true(float_bits(x[0]) == 0x80000000 && isinf(x[1]));
    nd_read_f32(&d, 0, 3, x);
    assert_true(x[0] == 1 && x[1] == -HUGE_VALF && x[2] == 0);
}

#if HAVE_JANSSON

static Status open_text(const char *header, size_t data, uint64_t length, Safetensors **s,
                        Error *err) {
    const size_t n = strlen(header);
    uint8_t *p = room(8 + n + data);
    memcpy(p, &length, 8);
    memcpy(p + 8, header, n);
    Status st = safetensors_open_memory(p, 8 + n + data, "a.st", s, err);
    if (st) free(p);
    return st;
}

static void safetensors_bad(void **state) {
    (void)state;
#define T(dtype, shape, from, to) \
    "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"{\"x\":" T("\"F32\"", "[2]", 0, 7) "}", "needs 8 bytes"},
        {"{\"x\":" T("\"F32\"", "[2]", 8, 0) "}", "outside"},
        {"{\"x\":" T("\"F32\"", "[2]", 4, 12) "}", "outside"},
        {"{\"x\":" T("\"F32\"", "[2]", 9223372036854775800, 9223372036854775807) "}", "outside"},
        {"{\"x\":" T("\"F32\"", "[2]", -8, 0) "}", "whole numbers"},
        {"{\"x\":" T("\"F32\"", "[2]", 0.0, 8) "}", "whole numbers"},
        {"{\"x\":" T("\"F32\"", "[-2]", 0, 8) "}", "dimension 0"},
        {"{\"x\":" T("\"F32\"", "[4294967296,4294967296]", 0, 8) "}", "2^63"},
        {"{\"x\":" T("\"F32\"", "[1,1,1,1,1,1,1,1,2]", 0, 8) "}", "at most 8"},
        {"{\"x\":" T("\"F32\"", "2", 0, 8) "}", "at most 8"},
        {"{\"x\":" T("\"F8_E4M3\"", "[8]", 0, 8) "}", "F8_E4M3"},
        {"{\"x\":" T("32", "[2]", 0, 8) "}", "dtype"},
        {"{\"x\":" T("\"F32\"", "[1]", 0, 4) "}", "last 4 bytes"},
        {"{\"x\":" T("\"F32\"", "[1]", 4, 8) "}", "no tensor"},
        {"{\"x\":" T("\"F32\"", "[2]", 0, 8) ",\"y\":" T("\"F32\"", "[1]", 4, 8) "}", "overlaps"},
        {"{\"x\":" T("\"F32\"", "[2]", 0, 8) ",\"y\":" T("\"F32\"", "[2]", 0, 8) "}", "overlaps"},
        {"{\"x\":" T("\"F32\"", "[2]", 0, 8) ",\"x\":" T("\"F32\"", "[0]", 8, 8) "}", "duplicate"},
        {"{\"x\":[]}", "object"},
        {"{\"x\":null}", "object"},
        {"{\"__metadata__\":1}", "object"},
        {"{\"__metadata__\":{\"a\":1}}", "texts"},
        {"{}", "last 8 bytes"},
        {"{\"x", "header at byte"},
        {"{\"\xff\":1}", "header at byte"},
        {"{\"x\\u0000\":1}", "header at byte"},
        {"{\"x\":1e999}", "header at byte"},
        {"[1,2]", "no safetensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Safetensors *s;
        Error err = {0};
        assert_int_equal(open_text(cases[i].header, 8, strlen(cases[i].header), &s, &err),
                         ERR_FILE);
        assert_null(s);
        if (!strstr(err.text, cases[i].says) || strchr(err.text, '\n'))
            fail_msg("\"%s\" gives \"%s\"", cases[i].header, err.text);
    }
    const char *good = "{\"x\":" T("\"F32\"", "[2]", 0, 8) "}";
    static const uint64_t lengths[] = {0,          1,          1000,          1ull << 40,
                                       1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        Safetensors *s;
        Error err = {0};
        assert_int_equal(open_text(good, 8, lengths[i], &s, &err), ERR_FILE);
        assert_non_null(strstr(err.text, "header of"));
    }
    for (size_t n = 0; n < 8 + strlen(good) + 8; n++) {  // cut anywhere
        Safetensors *s;
        uint8_t *p = room(8 + strlen(good) + 8), *cut = room(n);
        const uint64_t length = strlen(good);
        memcpy(p, &length, 8);
        memcpy(p + 8, good, length);
        memcpy(cut, p, n);
        assert_int_equal(safetensors_open_memory(cut, n, "cut", &s, NULL), ERR_FILE);
        free(cut);
        free(p);
    }
}

// Deep nesting and a large header end soon and with words.
static void safetensors_large(void **state) {
    (void)state;
    const size_t n = 5 << 20;
    for (int i = 0; i < 2; i++) {
        const size_t len = i ? n : 100000;
        uint8_t *p = room(8 + len);
        const uint64_t length = len;
        Safetensors *s;
        Error err = {0};
        memcpy(p, &length, 8);
        memset(p + 8, '[', len);
        memcpy(p + 8, "{\"x\":", 5);
        assert_int_equal(safetensors_open_memory(p, 8 + len, "deep", &s, &err), ERR_FILE);
        assert_non_null(strstr(err.text, i ? "at most" : "depth"));
        free(p);
    }
}

static void safetensors_good(void **state) {
    (void)state;
    const char *header =
        "{\"b\":" T("\"F32\"", "[1]", 4, 8) ",\"e\":" T("\"U8\"", "[0]", 4, 4) ",\"a\":" T(
            "\"I32\"", "[]", 0, 4) ",\"__metadata__\":{\"k\":\"v\"}}  ";
    const size_t n = strlen(header);
    const uint64_t length = n;
    uint8_t *p = room(8 + n + 8);
    Safetensors *s;
    Error err = {0};
    memcpy(p, &length, 8);
    memcpy(p + 8, header, n);
    if (safetensors_open_memory(p, 8 + n + 8, "good", &s, &err)) fail_msg("%s", err.text);
    assert_int_equal(safetensors_n(s), 3);
    assert_string_equal(safetensors_at(s, 0)->name, "a");
    assert_int_equal(safetensors_at(s, 0)->n, 1);
    assert_string_equal(safetensors_at(s, 1)->name, "e");
    assert_string_equal(safetensors_at(s, 2)->name, "b");
    assert_ptr_equal(safetensors_at(s, 2)->data, p + 8 + n + 4);
    assert_int_equal(safetensors_n_texts(s), 1);
    assert_string_equal(safetensors_text_at(s, 0).text, "v");
    assert_int_equal(safetensors_fault(s, &err), OK);
    safetensors_close(s);
    free(p);
}

#else

static void safetensors_unavailable(void **state) {
    (void)state;
    Safetensors *s;
    Error err = {0};
    assert_int_equal(safetensors_open_memory("12345678{}", 10, "a.st", &s, &err), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "jansson"));
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_good),
        cmocka_unit_test(npy_bad),
        cmocka_unit_test(elements),
#if HAVE_JANSSON
        cmocka_unit_test(safetensors_good),
        cmocka_unit_test(safetensors_bad),
        cmocka_unit_test(safetensors_large),
#else
        cmocka_unit_test(safetensors_unavailable),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
