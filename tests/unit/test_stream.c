// The stream of shown text: however the bytes are cut into tokens the text is the same, and what
// was shown is never taken back.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/stream.h"
#include "check.h"

enum { MOST = 256 };

// Where the text ends by definition: before the stop text that is whole first, and of those that
// end together before the longest. len where none is there.
static size_t reference_end(const char *s, size_t len, const char *const *stop, size_t n_stop) {
    for (size_t end = 1; end <= len; end++) {
        size_t at = SIZE_MAX;
        for (size_t i = 0; i < n_stop; i++) {
            size_t n = strlen(stop[i]);
            if (n <= end && memcmp(s + end - n, stop[i], n) == 0 && end - n < at) at = end - n;
        }
        if (at != SIZE_MAX) return at;
    }
    return len;
}

static size_t reference_text(const char *s, size_t len, const char *const *stop, size_t n_stop,
                             bool trim, char *out) {
    if (trim && len > 0 && s[0] == ' ') s++, len--;  // stop texts are sought in what is shown
    return utf8_repair(s, reference_end(s, len, stop, n_stop), out);
}

// The end of s that may yet become a stop text or a character.
static size_t held_back(const char *s, size_t len, const char *const *stop, size_t n_stop) {
    size_t most = utf8_incomplete_tail(s, len);
    for (size_t i = 0; i < n_stop; i++) {
        size_t n = strlen(stop[i]);
        for (size_t k = n - 1; k > most; k--) {
            if (k <= len && memcmp(s + len - k, stop[i], k) == 0) most = k;
        }
    }
    return most;
}

// Feeds s cut after each byte whose bit is set, and holds every step against the definition.
static void check_cuts(const char *s, size_t len, const char *const *stop, size_t n_stop, bool trim,
                       const bool *cut) {
    char want[3 * MOST];
    size_t skip_space = trim && len > 0 && s[0] == ' ';
    bool clean = utf8_valid(s, len), came = false;
    size_t n_want = reference_text(s, len, stop, n_stop, trim, want);
    Stream st = {0};
    stream_reset(&st, stop, n_stop, trim);
    for (size_t at = 0, to; at < len; at = to) {
        for (to = at + 1; to < len && !cut[to - 1];) to++;
        char *piece = room(to - at);  // of the exact size, gone after the call
        memcpy(piece, s + at, to - at);
        assert_true(stream_feed(&st, piece, to - at));
        free(piece);
        if (st.text.len > n_want || (st.text.len && memcmp(st.text.data, want, st.text.len) != 0)) {
            fail_msg("\"%.*s\" after %zu bytes shows \"%.*s\", the whole text is \"%.*s\"",
                     (int)len, s, to, (int)st.text.len, st.text.data, (int)n_want, want);
        }
        if (st.text.len) assert_int_equal(st.text.data[st.text.len], 0);
        assert_true(utf8_valid(st.text.data, st.text.len));
        size_t n_seen = to - skip_space;
        came = reference_end(s + skip_space, n_seen, stop, n_stop) < n_seen;
        if (st.stopped != came) fail_msg("\"%.*s\" after %zu bytes", (int)len, s, to);
        if (clean && !came) {  // and no more is held back than must be
            size_t n = to - skip_space - held_back(s + skip_space, n_seen, stop, n_stop);
            if (st.text.len != n) {
                fail_msg("\"%.*s\": after %zu bytes %zu are shown, %zu could be", (int)len, s, to,
                         st.text.len, n);
            }
        }
    }
    assert_int_equal(st.stopped, came);
    for (int twice = 0; twice < 2; twice++) {
        assert_true(stream_end(&st));
        if (st.text.len != n_want || (n_want && memcmp(st.text.data, want, n_want) != 0)) {
            fail_msg("\"%.*s\" became \"%.*s\", not \"%.*s\"", (int)len, s, (int)st.text.len,
                     st.text.len ? st.text.data : "", (int)n_want, want);
        }
        assert_int_equal(st.stopped, came);
    }
    stream_free(&st);
}

static void every_cut(const char *s, size_t len, const char *const *stop, size_t n_stop) {
    bool cut[MOST] = {0};
    assert_true(len <= 13);
    for (unsigned mask = 0; mask < 1u << (len ? len - 1 : 0); mask++) {
        for (size_t i = 0; i < len; i++) cut[i] = mask >> i & 1;
        check_cuts(s, len, stop, n_stop, mask & 1, cut);
        check_cuts(s, len, stop, n_stop, !(mask & 1), cut);
    }
}

static void random_cuts(Rng *r, const char *s, size_t len, const char *const *stop, size_t n_stop,
                        int times) {
    bool cut[MOST] = {0};
    for (int t = 0; t < times; t++) {
        uint64_t one_in = t == 0 ? 1 : 2 + rng_below(r, 6);
        for (size_t i = 0; i < len; i++) cut[i] = rng_below(r, one_in) == 0;
        check_cuts(s, len, stop, n_stop, t & 1, cut);
    }
}

// --- chosen texts --------------------------------------------------------------------------------

static void shows(const char *s, const char *want, const char *const *stop, size_t n_stop) {
    size_t len = strlen(s);
    char text[3 * MOST];
    assert_int_equal(reference_text(s, len, stop, n_stop, false, text), strlen(want));
    assert_memory_equal(text, want, strlen(want));
    if (len <= 11) every_cut(s, len, stop, n_stop);
    Rng r = {len};
    random_cuts(&r, s, len, stop, n_stop, 60);
}

static void stop_texts(void **state) {
    (void)state;
    const char *one[] = {"STOP"}, *two[] = {"</s>", "\nUser:"}, *dup[] = {"ab", "ab"};
    shows("", "", one, 1);
    shows("hello", "hello", one, 1);
    shows("hello STOP more", "hello ", one, 1);
    shows("STOP", "", one, 1);
    shows("STOSTOP", "STO", one, 1);
    shows("STO", "STO", one, 1);  // held back, then the end comes
    shows("STOp ST", "STOp ST", one, 1);
    shows("SSTTOOPP", "SSTTOOPP", one, 1);
    shows("answer\nUser: x</s>", "answer", two, 2);
    shows("a<b></s>", "a<b>", two, 2);
    shows("\nUse\nUser:", "\nUse", two, 2);
    shows("xxabxx", "xx", dup, 2);
    shows("no stop at all", "no stop at all", NULL, 0);
    const char *mark[] = {"x"};
    shows("abcxdef", "abc", mark, 1);
    const char *cjk[] = {"\xe3\x80\x82",
                         "\xe2\x82"};  // an ideographic full stop; part of a character
    shows("\xe4\xbd\xa0\xe3\x80\x82\xe4", "\xe4\xbd\xa0", cjk, 1);
    shows("\xe4\xbd\xa0\xe3\x80\x81", "\xe4\xbd\xa0\xe3\x80\x81", cjk, 1);
}

static void stops_that_overlap(void **state) {
    (void)state;
    const char *prefix[] = {"ab", "abc"}, *suffix[] = {"bc", "abc"}, *inner[] = {"abcd", "bc"};
    const char *self[] = {"aab"}, *period[] = {"abab"}, *long_first[] = {"</assistant>", "</s>"};
    shows("xabcx", "x", prefix, 2);
    shows("xabx", "x", prefix, 2);
    shows("xacx", "xacx", prefix, 2);
    shows("xabcx", "x", suffix, 2);
    shows("xbcx", "x", suffix, 2);
    shows("xabcdx", "xa", inner, 2);  // "bc" is whole first
    shows("aaaab", "aa", self, 1);
    shows("abaabab", "aba", period, 1);
    shows("ababab", "", period, 1);
    shows("a</assist</s>", "a</assist", long_first, 2);
    shows("</assistan>", "</assistan>", long_first, 2);
}

// Every text over two letters against every pair of such stops: what regular texts do not reach.
static void small_alphabet(void **state) {
    (void)state;
    char word[30][5];
    int n = 0;
    for (size_t len = 1; len <= 4; len++) {
        for (unsigned v = 0; v < 1u << len; v++, n++) {
            for (size_t i = 0; i < len; i++) word[n][i] = "ab"[v >> i & 1];
            word[n][len] = 0;
        }
    }
    Rng r = {5};
    for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++) {
            const char *stop[] = {word[i], word[j]};
            for (int t = 0; t < 12; t++) {
                char s[12];
                size_t len = 1 + rng_below(&r, sizeof s);
                for (size_t k = 0; k < len; k++) s[k] = "abc"[rng_below(&r, 100) % 9 / 4];
                random_cuts(&r, s, len, stop, 2, 5);
            }
        }
    }
}

static void random_text_of_many_scripts(void **state) {
    (void)state;
    static const char *const letters[] = {"a",
                                          "b",
                                          " ",
                                          "\n",
                                          "\xc3\xa9",
                                          "\xd0\x96",
                                          "\xe4\xbd\xa0",
                                          "\xe3\x80\x82",
                                          "\xf0\x9f\x98\x80",
                                          "\xf0\x9f\x98\x81",
                                          "\xef\xbf\xbd",
                                          "\xf4\x8f\xbf\xbf"};
    Rng r = {17};
    for (int t = 0; t < 3000; t++) {
        char text[MOST], stops[3][32];
        const char *stop[3];
        size_t len = 0, n_stop = rng_below(&r, 4);
        for (size_t k = rng_below(&r, 40); k > 0; k--) {
            const char *c = letters[rng_below(&r, 12)];
            memcpy(text + len, c, strlen(c));
            len += strlen(c);
        }
        for (size_t i = 0; i < n_stop; i++) {
            stops[i][0] = 0;
            for (size_t k = 1 + rng_below(&r, 3); k > 0; k--) {
                strcat(stops[i], letters[rng_below(&r, 12)]);
            }
            stop[i] = stops[i];
        }
        random_cuts(&r, text, len, stop, n_stop, 6);
    }
}

// Any bytes at all: the text is valid, and the same for every cut.
static void bytes_that_are_no_utf8(void **state) {
    (void)state;
    shows("\xff", "\xef\xbf\xbd", NULL, 0);
    shows("a\xe2\x82", "a\xef\xbf\xbd", NULL, 0);  // unfinished at the end
    shows("a\xf0\x9f\x98", "a\xef\xbf\xbd", NULL, 0);
    const char *one[] = {"END"};
    shows(
        "\xe2\x82"
        "END",
        "\xef\xbf\xbd", one, 1);
    shows("a\xe2\x82z", "a\xef\xbf\xbdz", one, 1);
    every_cut("a\0b\0", 4, one, 1);  // a NUL is a character like others
    Rng r = {23};
    static const unsigned char edge[] = {'a',  'E',  'N',  'D',  0x80, 0xbf, 0x9f, 0xc3,
                                         0xe2, 0xed, 0xf0, 0xf4, 0xff, 0x00, ' '};
    for (int t = 0; t < 5000; t++) {
        char s[24];
        size_t len = rng_below(&r, sizeof s + 1);
        for (size_t i = 0; i < len; i++) s[i] = (char)edge[rng_below(&r, sizeof edge)];
        random_cuts(&r, s, len, one, rng_below(&r, 2), 5);
    }
}

static void leading_space(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *kept, *trimmed;
    } cases[] = {{" Hello", " Hello", "Hello"},
                 {"  Hello", "  Hello", " Hello"},
                 {"Hello ", "Hello ", "Hello "},
                 {" ", " ", ""},
                 {"", "", ""},
                 {"\n Hi", "\n Hi", "\n Hi"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int trim = 0; trim < 2; trim++) {
            Stream s = {0};
            const char *want = trim ? cases[i].trimmed : cases[i].kept;
            stream_reset(&s, NULL, 0, trim);
            assert_true(stream_feed(&s, "", 0));  // an empty token first (a control token)
            for (const char *c = cases[i].bytes; *c; c++) assert_true(stream_feed(&s, c, 1));
            assert_true(stream_end(&s));
            assert_int_equal(s.text.len, strlen(want));
            if (*want) assert_string_equal(s.text.data, want);
            stream_free(&s);
        }
    }
}

static void used_again(void **state) {
    (void)state;
    const char *stop[] = {"X"};
    Stream s = {0};
    stream_free(&s);
    for (int i = 0; i < 3; i++) {
        stream_reset(&s, stop, 1, true);
        assert_false(s.stopped);
        assert_int_equal(s.text.len, 0);
        assert_true(stream_feed(&s, " ab\xe2", 4));
        assert_string_equal(s.text.data, "ab");
        assert_true(stream_feed(&s, "\x82\xacXcd", 5));
        assert_true(s.stopped);
        assert_string_equal(s.text.data, "ab\xe2\x82\xac");
        assert_true(stream_feed(&s, "more", 4));  // after a stop nothing comes
        assert_string_equal(s.text.data, "ab\xe2\x82\xac");
        stream_reset(&s, NULL, 0, false);
        assert_true(stream_feed(&s, " X\xe2", 3));  // left unfinished: the reset forgets it
        assert_string_equal(s.text.data, " X");
    }
    stream_free(&s);
    assert_null(s.text.data);
    stream_free(&s);
}

// A stop text whose beginning comes again and again must not make the stream slow.
static void long_stops_stay_fast(void **state) {
    (void)state;
    enum { STOP = 1500, TEXT = 30000 };
    char *stop = room(STOP + 2);
    memset(stop, 'a', STOP);
    strcpy(stop + STOP, "b");
    Stream s = {0};
    stream_reset(&s, (const char *const[]){stop}, 1, false);
    double start = clock_seconds();
    for (int i = 0; i < TEXT; i++) assert_true(stream_feed(&s, "a", 1));
    assert_int_equal(s.text.len, TEXT - STOP);
    assert_true(stream_feed(&s, "b", 1));
    assert_true(s.stopped);
    assert_int_equal(s.text.len, TEXT - STOP);
    stream_reset(&s, (const char *const[]){stop}, 1, false);
    for (int i = 0; i < 300000; i++) assert_true(stream_feed(&s, "word ", 5));
    assert_true(stream_end(&s));
    assert_int_equal(s.text.len, 1500000);
    double took = clock_seconds() - start;
    if (took > 20) fail_msg("took %g s", took);
    stream_free(&s);
    free(stop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_texts),
        cmocka_unit_test(stops_that_overlap),
        cmocka_unit_test(small_alphabet),
        cmocka_unit_test(random_text_of_many_scripts),
        cmocka_unit_test(bytes_that_are_no_utf8),
        cmocka_unit_test(leading_space),
        cmocka_unit_test(used_again),
        cmocka_unit_test(long_stops_stay_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
