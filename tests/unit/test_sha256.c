// SHA-256 against the vectors of FIPS 180-4 and NIST's CAVP, in hardware and plain.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/sha256.h"
#include "check.h"

static const char *hash(const void *bytes, size_t len) {
    static char out[65];
    Sha256 s;
    sha256_start(&s);
    sha256_add(&s, bytes, len);
    return sha256_hex(&s, out);
}

static void known_answers(void) {
    static const uint8_t one = 0xbd, four[] = {0xc9, 0x8c, 0x8e, 0x55};
    assert_string_equal(hash("", 0),
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_string_equal(hash("abc", 3),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_string_equal(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56),
                        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    assert_string_equal(hash(&one, 1),
                        "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b");
    assert_string_equal(hash(four, 4),
                        "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504");
    char *many = room(1000000);
    memset(many, 'a', 1000000);
    assert_string_equal(hash(many, 1000000),
                        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    memset(many, 0, 1000000);
    assert_string_equal(hash(many, 1000000),
                        "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025");
    free(many);
}

static void plain(void **state) {
    (void)state;
    sha256_use_acceleration(false);
    assert_false(sha256_accelerated());
    known_answers();
    sha256_use_acceleration(true);
}

static void accelerated(void **state) {
    (void)state;
    if (!sha256_accelerated()) {
        print_message("skipped: this processor has no SHA extensions\n");
        skip();
    }
    known_answers();
}

// Any length, cut anywhere, gives what the plain version gives in one piece.
static void pieces(void **state) {
    (void)state;
    Rng r = {7};
    uint8_t data[300];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)rng_u64(&r);
    for (size_t len = 0; len <= sizeof data; len++) {
        char want[65], got[65];
        sha256_use_acceleration(false);
        memcpy(want, hash(data, len), sizeof want);
        sha256_use_acceleration(true);
        Sha256 s;
        sha256_start(&s);
        for (size_t at = 0; at < len;) {
            size_t n = 1 + (size_t)rng_below(&r, 130);
            if (n > len - at) n = len - at;
            sha256_add(&s, data + at, n);
            sha256_add(&s, data, 0);
            at += n;
        }
        assert_string_equal(sha256_hex(&s, got), want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(accelerated),
        cmocka_unit_test(pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
