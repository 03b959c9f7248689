// Reads .npy files; see npy.h.
//
//   byte 0   0x93 "NUMPY"
//        6   u8 major, u8 minor
//        8   u16 length of the header (version 1), u32 (versions 2 and 3)
//  10 or 12  the header: a Python dictionary as text, padded with spaces, a newline at the end:
//              {'descr': '<f4', 'fortran_order': False, 'shape': (23, 96), }
//            data
//
// The text is read by a scanner of its own that knows exactly this dictionary: three keys in any
// order, one string, one bool, one tuple of whole numbers.
#include "formats/npy.h"

#include <string.h>

#include "base/checked.h"

typedef unsigned long long ull;

enum { MAX_HEADER = 65535 };  // a version 2 header that needs more than this describes fields

typedef struct {
    const char *text;
    uint64_t at, len;  // in the header
    uint64_t start;    // of the header in the file
    const char *name;
    Error *err;
} Scanner;

static Status bad(const Scanner *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static Status bad(const Scanner *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    error_setv(s->err, ERR_FILE, fmt, ap);
    va_end(ap);
    error_prefix(s->err, "%s: header at byte %llu", s->name, (ull)(s->start + s->at));
    return ERR_FILE;
}

static void skip_space(Scanner *s) {
    while (s->at < s->len && strchr(" \t\r\n", s->text[s->at]) && s->text[s->at]) s->at++;
}

static bool take(Scanner *s, char c) {
    skip_space(s);
    if (s->at == s->len || s->text[s->at] != c) return false;
    s->at++;
    return true;
}

// A string in single or double quotes, without escapes, of fewer than size bytes.
static Status take_string(Scanner *s, char *out, size_t size) {
    skip_space(s);
    char quote = s->at < s->len ? s->text[s->at] : 0;
    if (quote != '\'' && quote != '"') {
        return bad(s, "expected a quoted string (is it a record of several fields?)");
    }
    const char *from = s->text + s->at + 1;
    const char *end = memchr(from, quote, s->len - s->at - 1);
    if (!end || (size_t)(end - from) >= size || memchr(from, 0, (size_t)(end - from))) {
        return bad(s, "expected a quoted string of at most %zu bytes", size - 1);
    }
    memcpy(out, from, (size_t)(end - from));
    out[end - from] = 0;
    s->at += (uint64_t)(end - from) + 2;
    return OK;
}

static bool take_word(Scanner *s, const char *word) {
    const size_t n = strlen(word);
    skip_space(s);
    if (s->len - s->at < n || memcmp(s->text + s->at, word, n) != 0) return false;
    s->at += n;
    return true;
}

static Status take_number(Scanner *s, uint64_t *out) {
    skip_space(s);
    const uint64_t from = s->at;
    *out = 0;
    while (s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9') {
        if (!checked_mul(*out, 10, out) ||
            !checked_add(*out, (uint64_t)(s->text[s->at] - '0'), out)) {
            return bad(s, "a dimension is past 2^64");
        }
        s->at++;
    }
    return s->at > from ? OK : bad(s, "expected a whole number");
}

static Status take_shape(Scanner *s, NdArray *a) {
    if (!take(s, '(')) return bad(s, "expected a shape in parentheses");
    a->rank = 0;
    while (!take(s, ')')) {
        if (a->rank == ND_MAX_RANK) return bad(s, "more than %d dimensions", ND_MAX_RANK);
        Status st = take_number(s, &a->dims[a->rank]);
        if (st) return st;
        a->rank++;
        if (take(s, ',')) continue;
        if (!take(s, ')')) return bad(s, "expected ',' or ')' after a dimension");
        break;
    }
    return OK;
}

static Status take_type(Scanner *s, NdType *out) {
    static const struct {
        char descr[4];
        NdType type;
    } known[] = {{"f2", ND_F16}, {"f4", ND_F32}, {"f8", ND_F64}, {"i1", ND_I8},
                 {"u1", ND_U8},  {"i2", ND_I16}, {"u2", ND_U16}, {"i4", ND_I32},
                 {"u4", ND_U32}, {"i8", ND_I64}, {"u8", ND_U64}};
    char descr[16], shown[64];
    Status st = take_string(s, descr, sizeof descr);
    if (st) return st;
    const bool bytes = descr[0] && descr[1] && descr[2] == '1';  // of one byte: no order
    if (descr[0] == '<' || ((descr[0] == '|' || descr[0] == '=' || descr[0] == '>') && bytes)) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            if (strcmp(descr + 1, known[i].descr) != 0) continue;
            *out = known[i].type;
            return OK;
        }
    }
    return bad(s, "expected little-endian floats or integers ('<f4'), found '%s'; save it with %s",
               printable(descr, strlen(descr), shown, sizeof shown), "x.astype('<f4')");
}

static Status take_dictionary(Scanner *s, NdArray *a) {
    unsigned seen = 0;
    Status st = OK;
    if (!take(s, '{')) return bad(s, "expected a dictionary");
    while (!st && !take(s, '}')) {
        char key[32];
        unsigned bit = 0;
        if ((st = take_string(s, key, sizeof key))) return st;
        if (!take(s, ':')) return bad(s, "expected ':' after a key");
        if (strcmp(key, "descr") == 0) {
            bit = 1, st = take_type(s, &a->type);
        } else if (strcmp(key, "fortran_order") == 0) {
            bit = 2;
            if (take_word(s, "True")) {
                return bad(s, "the array is in Fortran order; save it with %s",
                           "numpy.ascontiguousarray(x)");
            }
            if (!take_word(s, "False")) return bad(s, "expected True or False");
        } else if (strcmp(key, "shape") == 0) {
            bit = 4, st = take_shape(s, a);
        } else {
            return bad(s, "expected the keys descr, fortran_order and shape only");
        }
        if (!st && seen & bit) return bad(s, "the key '%s' stands twice", key);
        seen |= bit;
        if (!st && !take(s, ',')) {
            if (!take(s, '}')) return bad(s, "expected ',' or '}'");
            break;
        }
    }
    if (st) return st;
    if (seen != 7) return bad(s, "one of descr, fortran_order and shape is missing");
    skip_space(s);
    return s->at == s->len ? OK : bad(s, "bytes follow the dictionary");
}

Status npy_parse(const uint8_t *data, uint64_t size, const char *name, NdArray *out, Error *err) {
    Scanner s = {.name = name, .err = err};
    *out = (NdArray){.name = name};
    if (size < 10 || memcmp(data, "\x93NUMPY", 6) != 0) {
        return error_set(err, ERR_FILE, "%s: is no .npy file (of %llu bytes)", name, (ull)size);
    }
    if (data[6] < 1 || data[6] > 3) {
        return error_set(err, ERR_FILE, "%s: .npy version %d.%d, expected 1, 2 or 3", name, data[6],
                         data[7]);
    }
    s.start = data[6] == 1 ? 10 : 12;
    s.len = (uint64_t)data[8] | (uint64_t)data[9] << 8;
    if (s.start > size) {
        return error_set(err, ERR_FILE, "%s: the file ends after %llu bytes", name, (ull)size);
    }
    if (s.start == 12) s.len |= (uint64_t)data[10] << 16 | (uint64_t)data[11] << 24;
    if (s.len > MAX_HEADER || s.len > size - s.start) {
        return error_set(
            err, ERR_FILE, "%s: at byte 8: a header of %llu bytes, expected at most %llu", name,
            (ull)s.len, size - s.start < MAX_HEADER ? (ull)(size - s.start) : MAX_HEADER);
    }
    s.text = (const char *)data + s.start;
    Status st = take_dictionary(&s, out);
    if (st) return st;
    if (!nd_set_size(out)) return bad(&s, "the shape has more than 2^63 bytes");
    if (out->bytes != size - s.start - s.len) {
        return error_set(err, ERR_FILE, "%s: data at byte %llu: expected %llu bytes, found %llu%s",
                         name, (ull)(s.start + s.len), (ull)out->bytes,
                         (ull)(size - s.start - s.len),
                         out->bytes > size - s.start - s.len ? " (is the file complete?)" : "");
    }
    out->data = data + s.start + s.len;
    return OK;
}
