// What every room stands on: UTF-8 against a table made from its definition, growing buffers, the
// arena, printable names, the measured bandwidth.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdalign.h>

#include "base/arena.h"
#include "base/bandwidth.h"
#include "base/checked.h"
#include "base/distance.h"
#include "base/clock.h"
#include "base/pool.h"
#include "base/status.h"
#include "base/utf8.h"
#include "check.h"

// --- UTF-8 ---------------------------------------------------------------------------------------

// Every string of 1, 2 and 3 bytes that starts a character of that many bytes or more: bit 0, a
// whole character; bit 1, the beginning of a longer one. Filled from RFC 3629's table of code
// points alone.
enum { WHOLE = 1, BEGINS = 2 };
static uint8_t *table[4];

static size_t reference_encode(uint32_t c, unsigned char out[4]) {
    if (c < 0x80) return out[0] = (unsigned char)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (unsigned char)(0x80 | (c & 63));
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (unsigned char)(lead[n] | c);
    return n;
}

static uint32_t key_of(const char *s, size_t n) {
    uint32_t k = 0;
    for (size_t i = 0; i < n; i++) k = k << 8 | (unsigned char)s[i];
    return k;
}

static int make_table(void **state) {
    (void)state;
    for (size_t n = 1; n < 4; n++) {
        table[n] = calloc((size_t)1 << 8 * n, 1);
        if (!table[n]) return -1;
    }
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        if (c >= 0xd800 && c <= 0xdfff) continue;
        unsigned char u[4];
        size_t n = reference_encode(c, u);
        for (size_t i = 1; i < n; i++) table[i][key_of((char *)u, i)] |= BEGINS;
        if (n < 4) table[n][key_of((char *)u, n)] |= WHOLE;
    }
    return 0;
}

static int free_table(void **state) {
    (void)state;
    for (size_t n = 1; n < 4; n++) free(table[n]);
    return 0;
}

// Bytes of the whole character at s, 0 if there is none. A fourth byte may be any continuation.
static size_t reference_char(const char *s, size_t len) {
    for (size_t n = 1; n <= 3 && n <= len; n++) {
        if (table[n][key_of(s, n)] & WHOLE) return n;
    }
    bool four = len >= 4 && (table[3][key_of(s, 3)] & BEGINS) && (s[3] & 0xc0) == 0x80;
    return four ? 4 : 0;
}

static size_t reference_prefix(const char *s, size_t len) {
    size_t at = 0, n;
    while (at < len && (n = reference_char(s + at, len - at))) at += n;
    return at;
}

static size_t reference_tail(const char *s, size_t len) {
    for (size_t n = len < 3 ? len : 3; n > 0; n--) {
        if (table[n][key_of(s + len - n, n)] & BEGINS) return n;
    }
    return 0;
}

// The repaired text is valid, keeps what was valid, in order, and has between one U+FFFD for each
// stretch of invalid bytes and one for each invalid byte.
static void check_repair(const char *s, size_t len) {
    char out[64], again[192];
    assert_true(3 * len <= sizeof out);
    size_t n = utf8_repair(s, len, out), o = 0;
    assert_true(n <= 3 * len);
    if (reference_prefix(out, n) != n) fail_msg("the repaired text is not valid");
    for (size_t at = 0; at < len;) {
        size_t one = reference_char(s + at, len - at), bad = 0, marks = 0;
        if (one) {
            if (o + one > n || memcmp(out + o, s + at, one) != 0) fail_msg("valid text is lost");
            at += one, o += one;
            continue;
        }
        while (at < len && !reference_char(s + at, len - at)) at++, bad++;
        while (o + 3 <= n && memcmp(out + o, "\xef\xbf\xbd", 3) == 0) o += 3, marks++;
        // A real U+FFFD may follow the bad bytes.
        for (; marks > bad && at < len && memcmp(s + at, "\xef\xbf\xbd", 3) == 0; at += 3) marks--;
        if (marks < 1 || marks > bad) fail_msg("%zu bad bytes became %zu U+FFFD", bad, marks);
    }
    assert_int_equal(o, n);
    assert_int_equal(utf8_repair(out, n, again), n);
    assert_memory_equal(again, out, n);
}

static void check_utf8(const char *s, size_t len) {
    size_t prefix = reference_prefix(s, len), tail = reference_tail(s, len);
    if (utf8_valid_prefix(s, len) != prefix || utf8_valid(s, len) != (prefix == len) ||
        utf8_incomplete_tail(s, len) != tail) {
        fail_msg(
            "%08x (%zu bytes): valid prefix %zu, expected %zu; incomplete tail %zu, expected "
            "%zu",
            key_of(s, len), len, utf8_valid_prefix(s, len), prefix, utf8_incomplete_tail(s, len),
            tail);
    }
}

static void utf8_every_short_string(void **state) {
    (void)state;
    // Of the exact size: a sanitizer sees any read past the end.
    for (size_t len = 1; len <= 3; len++) {
        char *s = room(len);
        for (uint32_t k = 0; k < (uint32_t)1 << 8 * len; k++) {
            for (size_t i = 0; i < len; i++) s[i] = (char)(k >> 8 * (len - 1 - i));
            check_utf8(s, len);
            if (len < 3 || k % 61 == 0) check_repair(s, len);
        }
        free(s);
    }
    assert_int_equal(utf8_valid_prefix("", 0), 0);
    assert_int_equal(utf8_incomplete_tail("", 0), 0);
    assert_int_equal(utf8_repair("", 0, (char[1]){0}), 0);
    assert_true(utf8_valid("", 0));
}

static void utf8_four_bytes_and_more(void **state) {
    (void)state;
    static const unsigned char edge[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                         0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef,
                                         0xf0, 0xf4, 0xf5, 0xf8, 0xfe, 0xff};
    enum { N = sizeof edge };
    char *s = room(4);
    for (int lead = 0; lead < 256; lead++) {
        for (int i = 0; i < N * N * N; i++) {
            s[0] = (char)lead, s[1] = (char)edge[i / N / N];
            s[2] = (char)edge[i / N % N], s[3] = (char)edge[i % N];
            check_utf8(s, 4);
            if (i % 7 == 0) check_repair(s, 4);
        }
    }
    free(s);
    Rng r = {1};
    for (int i = 0; i < 200000; i++) {
        size_t len = 5 + rng_below(&r, 13);
        char *t = room(len);
        for (size_t j = 0; j < len; j++) t[j] = (char)edge[rng_below(&r, N)];
        check_utf8(t, len);
        check_repair(t, len);
        free(t);
    }
}

static void utf8_lead_bytes(void **state) {
    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        size_t want = b < 0x80 ? 1 : b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
        if (utf8_char_bytes((unsigned char)b) != want) {
            fail_msg("lead %02x: %zu bytes, expected %zu", b, utf8_char_bytes((unsigned char)b),
                     want);
        }
    }
}

static void utf8_every_code_point(void **state) {
    (void)state;
    for (uint32_t c = 0; c <= 0x110010; c++) {
        char out[5] = "....";
        unsigned char want[4];
        bool scalar = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        size_t n = utf8_put(c, out), n_want = scalar ? reference_encode(c, want) : 0;
        if (n != n_want || memcmp(out, want, n) != 0) fail_msg("U+%04X is encoded wrongly", c);
        if (n < 4 && out[n] != '.') fail_msg("U+%04X: wrote past its %zu bytes", c, n);
        if (scalar && (!utf8_valid(out, n) || utf8_incomplete_tail(out, n) != 0)) {
            fail_msg("U+%04X is not valid", c);
        }
    }
    char out[4];
    assert_int_equal(utf8_put(UINT32_MAX, out), 0);
    assert_int_equal(utf8_put(0x80000000u, out), 0);
}

// --- checked arithmetic, buffers -----------------------------------------------------------------

static void checked_arithmetic(void **state) {
    (void)state;
    uint64_t v;
    assert_true(checked_add(UINT64_MAX - 1, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_false(checked_add(UINT64_MAX, 1, &v));
    assert_true(checked_mul(UINT32_MAX, UINT32_MAX, &v));
    assert_true(v == (uint64_t)UINT32_MAX * UINT32_MAX);
    assert_false(checked_mul((uint64_t)1 << 32, (uint64_t)1 << 32, &v));
    assert_true(checked_mul(0, UINT64_MAX, &v));
    assert_true(v == 0);
    for (uint64_t align = 1; align; align <<= 1) {
        assert_true(checked_align(0, align, &v));
        assert_true(v == 0);
        assert_true(checked_align(1, align, &v));
        assert_true(v == align);
        assert_true(checked_align(align, align, &v));
        assert_true(v == align);
        assert_int_equal(checked_align(UINT64_MAX, align, &v), align == 1);
    }
    assert_true(checked_align(33, 32, &v));
    assert_true(v == 64);
}

static void text_grows(void **state) {
    (void)state;
    Text t = {0};
    text_free(&t);  // empty is valid
    assert_true(text_append(&t, "", 0));
    assert_int_equal(t.len, 0);
    assert_non_null(t.data);
    assert_int_equal(t.data[0], 0);
    assert_true(text_append(&t, "a\0b", 3));
    assert_int_equal(t.len, 3);
    assert_memory_equal(t.data, "a\0b", 4);
    assert_true(text_append_str(&t, "cd"));
    assert_memory_equal(t.data, "a\0bcd", 6);
    size_t sum = t.len;
    for (size_t i = 0; i < 3000; i++) {
        char piece[64];
        memset(piece, 'a' + (int)(i % 26), sizeof piece);
        assert_true(text_append(&t, piece, i % 65));
        sum += i % 65;
        assert_int_equal(t.len, sum);
        assert_int_equal(t.data[sum], 0);
        assert_true(t.cap > t.len);
    }
    assert_memory_equal(t.data, "a\0bcd", 5);
    // What cannot be had leaves the text as it was.
    Text before = t;
    assert_false(text_reserve(&t, SIZE_MAX));
    assert_false(text_reserve(&t, SIZE_MAX - t.len));
    assert_false(text_reserve(&t, SIZE_MAX / 2));
    assert_false(text_append(&t, "x", SIZE_MAX - 1));
    assert_memory_equal(&t, &before, sizeof t);
    // Room that was reserved is not moved.
    assert_true(text_reserve(&t, 100000));
    const char *at = t.data;
    for (int i = 0; i < 100000; i++) assert_true(text_append(&t, "z", 1));
    assert_ptr_equal(at, t.data);
    text_free(&t);
    assert_null(t.data);
    assert_int_equal(t.len, 0);
    assert_int_equal(t.cap, 0);
    assert_true(text_append_str(&t, "again"));
    assert_string_equal(t.data, "again");
    text_free(&t);
    text_free(&t);
}

static void token_list_grows(void **state) {
    (void)state;
    TokenList t = {0};
    tokens_free(&t);
    for (int32_t i = 0; i < 100000; i++) assert_true(tokens_append(&t, i * 7 - 3));
    assert_int_equal(t.len, 100000);
    for (int32_t i = 0; i < 100000; i++) assert_true(t.data[i] == i * 7 - 3);
    tokens_free(&t);
    assert_null(t.data);
    assert_int_equal(t.len, 0);
    assert_true(tokens_append(&t, INT32_MIN));
    assert_int_equal(t.data[0], INT32_MIN);
    tokens_free(&t);
}

// --- arena ---------------------------------------------------------------------------------------

static bool all_zero(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (p[i]) return false;
    }
    return true;
}

static void arena_allocations(void **state) {
    (void)state;
    enum { N = 4000 };
    Arena a = {0};
    arena_free(&a);  // empty is valid
    static unsigned char *p[N];
    static size_t len[N];
    Rng r = {2};
    for (int i = 0; i < N; i++) {
        size_t size = 1 + rng_below(&r, 24), n = rng_below(&r, i % 100 == 0 ? 30000 : 40);
        p[i] = arena_alloc(&a, n, size);
        len[i] = n * size;
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % alignof(max_align_t), 0);
        assert_true(all_zero(p[i], len[i]));
        memset(p[i], i % 251 + 1, len[i]);
    }
    for (int i = 0; i < N; i++) {  // nobody wrote over another's bytes
        for (size_t j = 0; j < len[i]; j++) assert_true(p[i][j] == i % 251 + 1);
    }
    size_t big = (size_t)40 << 20;
    unsigned char *b = arena_alloc(&a, big, 1);
    assert_non_null(b);
    assert_true(all_zero(b, big));
    b[big - 1] = 1;
    // After a big one small ones still work, and are apart from it.
    unsigned char *s = arena_alloc(&a, 16, 1);
    assert_true(s + 16 <= b || s >= b + big);
    arena_free(&a);
    assert_null(a.head);
    assert_non_null(arena_alloc(&a, 3, 5));
    arena_free(&a);
}

static void arena_limits(void **state) {
    (void)state;
    Arena a = {0};
    assert_null(arena_alloc(&a, SIZE_MAX, 1));
    assert_null(arena_alloc(&a, SIZE_MAX, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX / 2 + 2, 2));
    assert_null(arena_alloc(&a, (size_t)1 << 33, (size_t)1 << 31));
    for (size_t less = 0; less < 200; less++) assert_null(arena_alloc(&a, SIZE_MAX - less, 1));
    assert_null(arena_text(&a, "", SIZE_MAX));
    assert_non_null(arena_alloc(&a, 0, 8));  // NULL only means that there is no memory
    assert_non_null(arena_alloc(&a, 8, 0));
    const char *t = arena_text(&a, "ab\0cd", 5), *e = arena_text(&a, "xyz", 0);
    assert_memory_equal(t, "ab\0cd", 6);
    assert_string_equal(e, "");
    arena_free(&a);
}

static void large_pages(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 63, 64, 4095, 4096, 4097, 1000001, (size_t)64 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = large_alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal(p[0] | p[sizes[i] / 2] | p[sizes[i] - 1], 0);
        p[0] = p[sizes[i] - 1] = 1;
        large_free(p, sizes[i]);
    }
    assert_null(large_alloc(SIZE_MAX));
    assert_null(large_alloc(SIZE_MAX - 4096));
    assert_null(large_alloc((size_t)1 << 62));
    unsigned long long m = memory_available();
    assert_true(m == 0 || (m > 1 << 20 && m < 1ull << 50));
}

// --- messages ------------------------------------------------------------------------------------

static void check_printable(const char *s, size_t len, const char *want) {
    char out[256];
    assert_ptr_equal(printable(s, len, out, sizeof out), out);
    assert_string_equal(out, want);
    // Too little room: a beginning, still NUL-terminated, never half an escape or character.
    for (size_t size = 0; size <= strlen(want) + 1; size++) {
        char *small = room(size + 1);
        printable(s, len, small, size);
        assert_int_equal((unsigned char)small[size], 0xff);
        if (size > 0) {
            size_t n = strlen(small);
            assert_true(n < size);
            assert_memory_equal(small, want, n);
            assert_true(utf8_valid(small, n));
            const char *x = n >= 4 ? strrchr(small, '\\') : NULL;
            if (strchr(small, '\\') && x) assert_true(small + n - x >= 4 || x[1] == '\\');
            assert_true(n + 4 >= size || n == strlen(want));  // uses what it has
        }
        free(small);
    }
}

static void printable_text(void **state) {
    (void)state;
    check_printable("", 0, "");
    check_printable("blk.0.q", 7, "blk.0.q");
    check_printable("a\nb\x1b[0m", 7, "a\\x0ab\\x1b[0m");
    check_printable("a\0b", 3, "a\\x00b");
    check_printable("\x7f", 1, "\\x7f");
    check_printable("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80 \xe2\x82\xac", 15,
                    "gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80 \xe2\x82\xac");
    check_printable("\xff\xc3", 2, "\\xff\\xc3");
    check_printable("\xed\xa0\x80", 3, "\\xed\\xa0\\x80");  // a surrogate
    check_printable("\xc0\x80", 2, "\\xc0\\x80");           // an overlong NUL
    check_printable("x\xe2\x82", 3, "x\\xe2\\x82");         // an unfinished one
    check_printable(
        "\xc2\x9b"
        "31m",
        5,
        "\\xc2\\x9b"
        "31m");  // CSI as one C1 control
}

static void error_messages(void **state) {
    (void)state;
    Error err;
    assert_int_equal(error_set(&err, ERR_FILE, "%s at %d", "key", 7), ERR_FILE);
    assert_int_equal(err.status, ERR_FILE);
    assert_string_equal(err.text, "key at 7");
    assert_int_equal(error_prefix(&err, "file %d", 3), ERR_FILE);
    assert_string_equal(err.text, "file 3: key at 7");
    assert_int_equal(error_set(NULL, ERR_USAGE, "x"), ERR_USAGE);
    assert_int_equal(error_memory(&err, "the cache", 1234567890123ull), ERR_UNAVAILABLE);
    assert_non_null(strstr(err.text, "the cache"));
    assert_non_null(strstr(err.text, "1234567890123"));
    char *big = room(5000);
    memset(big, 'y', 4999);
    big[4999] = 0;
    error_set(&err, ERR_FAILED, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(error_prefix(&err, "p"), ERR_FAILED);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_memory_equal(err.text, "p: yyy", 6);
    error_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    free(big);
    notice_say((Notice){0}, "dropped %d", 1);
}

// --- measured bandwidth --------------------------------------------------------------------------

static void bandwidth_is_sane(void **state) {
    (void)state;
    Pool *p = NULL;
    assert_int_equal(pool_create(2, &p, NULL), OK);
    size_t bytes = (size_t)32 << 20;
    uint8_t *data = calloc(bytes, 1);
    assert_non_null(data);
    double start = clock_seconds(), speed = bandwidth_read(p, data, bytes, 0.1);
    assert_true(clock_seconds() - start < 5);
    if (!(speed > 0.05 && speed < 20000)) fail_msg("%g GB/s", speed);
    free(data);
    // Small and odd sizes: exactly these bytes are read.
    static const size_t odd[] = {1, 7, 8, 63, 64, 65, 127, 1000, 4097};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        uint8_t *d = room(odd[i] + 1);
        double v = bandwidth_read(p, d + 1, odd[i], 0.001);
        if (!(v >= 0 && isfinite(v))) fail_msg("%zu bytes: %g GB/s", odd[i], v);
        free(d);
    }
    pool_free(p);
    double a = clock_seconds();
    assert_true(clock_seconds() >= a);
}

static void test_word_distance(void **state) {
    (void)state;
    assert_int_equal(word_distance("", 0, "", 0), 0);
    assert_int_equal(word_distance("abc", 3, "", 0), 3);
    assert_int_equal(word_distance("", 0, "ab", 2), 2);
    assert_int_equal(word_distance("kitten", 6, "sitting", 7), 3);
    assert_int_equal(word_distance("llama", 5, "lama", 4), 1);
    assert_int_equal(word_distance("qwen3", 5, "qwen2", 5), 1);
    char longest[DISTANCE_MAX + 1];
    memset(longest, 'x', sizeof longest);
    assert_int_equal(word_distance(longest, DISTANCE_MAX, "", 0), DISTANCE_MAX);
    assert_int_equal(word_distance(longest, DISTANCE_MAX + 1, longest, 1), DISTANCE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(utf8_every_short_string, make_table, free_table),
        cmocka_unit_test_setup_teardown(utf8_four_bytes_and_more, make_table, free_table),
        cmocka_unit_test(test_word_distance),
        cmocka_unit_test(utf8_lead_bytes),
        cmocka_unit_test(utf8_every_code_point),
        cmocka_unit_test(checked_arithmetic),
        cmocka_unit_test(text_grows),
        cmocka_unit_test(token_list_grows),
        cmocka_unit_test(arena_allocations),
        cmocka_unit_test(arena_limits),
        cmocka_unit_test(large_pages),
        cmocka_unit_test(printable_text),
        cmocka_unit_test(error_messages),
        cmocka_unit_test(bandwidth_is_sane),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
